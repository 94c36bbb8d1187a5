"""Initialisers: drawn values have the distribution of torch.nn.init's, and the emitted statements draw from it too."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn as nn

from specc import initializers
from specc.initializers import HELPERS, REQUIRED, SIGNATURES, draw, fans, problem

GIVEN: dict[str, dict[str, Any]] = {
    "constant": {"v": 0.25},
    "normal": {"std": 0.02, "mean": 0.1},
    "trunc_normal": {"std": 0.5, "a": -1.0, "b": 2.0},
    "uniform": {"a": -0.5, "b": 2.0},
    "uniform_fan_in": {"n": 48},
    "xavier_uniform": {"gain": 1.5},
    "xavier_normal": {"gain": 1.5},
    "kaiming_uniform": {"mode": "fan_out", "a": 0.3},
    "kaiming_normal": {"mode": "fan_out", "a": 0.3},
    "orthogonal": {"gain": 2.0},
    "sinusoids": {"layout": "cos_sin", "shift": 1, "base": 500.0},
    "log_arange": {"start": 2},
}
RANDOM = ["normal", "trunc_normal", "uniform", "uniform_fan_in"] + [
    n for n in SIGNATURES if n.startswith(("xavier", "kaiming"))
]


def arguments(name: str, **given: object) -> dict[str, object]:
    return {**SIGNATURES[name], **given}


def drawn(name: str, shape: tuple[int, ...], seed: int = 0, **given: object) -> np.ndarray:
    args = arguments(name, **given)
    assert problem(name, args, shape) is None
    blocks = list(draw(name, args, shape, np.random.default_rng(seed)))
    assert all(block.dtype == np.float32 and block.ndim == 1 for block in blocks)
    return np.concatenate(blocks).reshape(shape)


def by_torch(name: str, shape: tuple[int, ...], **given: object) -> np.ndarray:
    """What the emitted statement makes of a parameter."""
    text = {key: repr(value) for key, value in arguments(name, **given).items()}
    parameter = nn.Parameter(torch.full(shape, 7.0))
    names = {"torch": torch, "nn": nn, "w": parameter}
    for source in HELPERS.values():
        exec(source, names)
    torch.manual_seed(0)
    exec(initializers.torch(name, text, "w"), names)
    assert names["w"] is parameter
    return parameter.detach().numpy()


@pytest.mark.parametrize("name", [n for n in SIGNATURES if n not in RANDOM and n != "orthogonal"])
@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (1, 4)])
def test_constants_equal_torch(name: str, shape: tuple[int, int]) -> None:
    given = GIVEN.get(name, {})
    np.testing.assert_allclose(drawn(name, shape, **given), by_torch(name, shape, **given), rtol=0, atol=3e-7)


@pytest.mark.parametrize("layout", ["interleaved", "sin_cos", "cos_sin"])
@pytest.mark.parametrize("shift", [0, 1])
def test_sinusoids_have_the_published_formula(layout: str, shift: int) -> None:
    table = drawn("sinusoids", (50, 16), layout=layout, shift=shift)
    for p in (0, 1, 49):
        for i in range(8):
            angle = p * 10_000 ** (-i / (8 - shift))
            sin, cos = {"interleaved": (2 * i, 2 * i + 1), "sin_cos": (i, 8 + i), "cos_sin": (8 + i, i)}[layout]
            assert table[p, sin] == pytest.approx(math.sin(angle), abs=1e-7)
            assert table[p, cos] == pytest.approx(math.cos(angle), abs=1e-7)


@pytest.mark.parametrize("name", RANDOM)
@pytest.mark.parametrize("shape", [(64, 48, 5, 5), (300, 250)])
def test_random_values_have_torchs_distribution(name: str, shape: tuple[int, ...]) -> None:
    ours, theirs = (np.sort(f(name, shape, **GIVEN[name]).ravel()) for f in (drawn, by_torch))
    assert ours.mean() == pytest.approx(theirs.mean(), abs=float(5 * theirs.std() / math.sqrt(theirs.size)))
    assert ours.std() == pytest.approx(theirs.std(), rel=0.02)
    # Kolmogorov-Smirnov, two samples: 2.2 is a one-in-ten-thousand deviation, and the seeds are fixed
    both = np.concatenate([ours, theirs])
    gap = np.abs(np.searchsorted(ours, both, "right") - np.searchsorted(theirs, both, "right")).max() / ours.size
    assert gap * math.sqrt(ours.size / 2) < 2.2
    if "normal" not in name:
        assert (ours.min(), ours.max()) == pytest.approx((theirs.min(), theirs.max()), rel=1e-2, abs=1e-3)


def test_the_statistics_would_notice_another_fan() -> None:
    right = drawn("kaiming_normal", (300, 250), mode="fan_out")
    wrong = drawn("kaiming_normal", (300, 250), mode="fan_in")
    assert wrong.std() != pytest.approx(right.std(), rel=0.02)


@pytest.mark.parametrize("shape", [(3, 5), (8, 6, 3), (4, 2, 3, 5)])
def test_fans_are_torchs(shape: tuple[int, ...]) -> None:
    assert fans(shape) == nn.init._calculate_fan_in_and_fan_out(torch.empty(shape))


@pytest.mark.parametrize("layer", [nn.Linear(200, 300), nn.Conv2d(40, 60, 3), nn.LSTM(30, 200)])
def test_uniform_fan_in_is_the_default_of_torch_layers(layer: nn.Module) -> None:
    n = layer.hidden_size if isinstance(layer, nn.LSTM) else fans(tuple(layer.get_parameter("weight").shape))[0]
    for theirs in layer.parameters():
        ours = drawn("uniform_fan_in", tuple(theirs.shape), n=n)
        bound = 1 / math.sqrt(n)
        assert max(np.abs(ours).max(), theirs.abs().max().item()) <= bound * (1 + 1e-6)
        assert min(np.abs(ours).max(), theirs.abs().max().item()) > 0.9 * bound


@pytest.mark.parametrize(("a", "b"), [(-2.0, 2.0), (-1.0, 3.0), (1.5, 2.0), (2.5, 100.0), (-40.0, 0.5), (-4.5, -3.0)])
def test_truncated_normal_stays_inside_and_has_its_mean(a: float, b: float) -> None:
    def density(x: float) -> float:
        return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)

    def below(x: float) -> float:
        return math.erfc(-x / math.sqrt(2)) / 2

    values = drawn("trunc_normal", (200, 500), std=3.0, a=a, b=b) / 3.0
    assert a * (1 + 1e-6 * (a < 0) - 1e-6 * (a > 0)) <= values.min() and values.max() <= b + 1e-5
    mean = (density(a) - density(b)) / (below(b) - below(a))
    assert values.mean() == pytest.approx(mean, abs=float(5 * values.std() / math.sqrt(values.size)))


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (8, 3, 5), (5, 5)])
def test_orthogonal(shape: tuple[int, ...]) -> None:
    for values in (drawn("orthogonal", shape, gain=2.0), by_torch("orthogonal", shape, gain=2.0)):
        matrix = values.reshape(shape[0], -1)
        gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
        np.testing.assert_allclose(gram, 4.0 * np.eye(len(gram)), atol=1e-5)


@pytest.mark.parametrize("row", [0, 3, -1, 2_500])
def test_zero_row(row: int) -> None:
    shape = (3_000, 700)  # 2.1 million elements: more than two blocks, so that the row may span or miss any of them
    plain, holed = drawn("normal", shape, std=1.0), drawn("normal", shape, std=1.0, zero_row=row)
    assert not holed[row].any()
    kept = np.delete(holed, row, axis=0)
    np.testing.assert_array_equal(kept, np.delete(plain, row, axis=0))
    assert (np.abs(kept).sum(axis=1) > 0).all()
    small = by_torch("normal", (4, 5), std=1.0, zero_row=-1)
    assert not small[-1].any() and small[:-1].all()


def test_blocks_are_bounded_and_a_seed_repeats_them() -> None:
    blocks = list(draw("normal", arguments("normal", std=1.0), (3_000, 700), np.random.default_rng(3)))
    assert max(block.size for block in blocks) == 1 << 20 and sum(block.size for block in blocks) == 2_100_000
    again = list(draw("normal", arguments("normal", std=1.0), (3_000, 700), np.random.default_rng(3)))
    assert all((a == b).all() for a, b in zip(blocks, again, strict=True))
    assert drawn("normal", (), std=1.0).shape == () and drawn("log_arange", (5, 3), start=1)[4, 2] == np.float32(
        math.log(3)
    )
    assert drawn("eye", (2_000, 1_500)).sum() == 1_500


@pytest.mark.parametrize(
    ("name", "args", "text"),
    [
        ("zeros", {}, "nn.init.zeros_(self.w)"),
        ("constant", {"v": "0.5"}, "nn.init.constant_(self.w, 0.5)"),
        ("normal", {"std": "0.02", "mean": "0.0", "zero_row": "None"}, "nn.init.normal_(self.w, std=0.02)"),
        ("normal", {"std": "1.0"}, "nn.init.normal_(self.w)"),
        ("normal", {"std": "1.0", "mean": "1.0"}, "nn.init.normal_(self.w, mean=1.0)"),
        ("normal", {"std": "0.02", "zero_row": "0"}, "nn.init.normal_(self.w, std=0.02)\nself.w.data[0].zero_()"),
        ("trunc_normal", {"std": "0.02"}, "nn.init.trunc_normal_(self.w, std=0.02, a=-0.04, b=0.04)"),
        ("trunc_normal", {"std": "std"}, "nn.init.trunc_normal_(self.w, std=std, a=-2.0 * std, b=2.0 * std)"),
        ("uniform", {"a": "-1", "b": "1"}, "nn.init.uniform_(self.w, -1, 1)"),
        ("uniform_fan_in", {"n": "dim * k"}, "nn.init.uniform_(self.w, -(dim * k)**-0.5, (dim * k)**-0.5)"),
        ("xavier_uniform", {"gain": "1.0"}, "nn.init.xavier_uniform_(self.w)"),
        ("kaiming_normal", {"mode": '"fan_out"', "a": "0.0"}, 'nn.init.kaiming_normal_(self.w, mode="fan_out")'),
        ("kaiming_normal", {"mode": '"fan_in"'}, "nn.init.kaiming_normal_(self.w)"),
        (
            "sinusoids",
            {"layout": '"sin_cos"', "shift": "1"},
            'self.w.data.copy_(sinusoids(*self.w.shape, "sin_cos", shift=1))',
        ),
        ("log_arange", {"start": "1"}, "self.w.data.copy_(torch.arange(1, 1 + self.w.shape[-1]).log())"),
    ],
)
def test_statements_read_as_a_person_writes_them(name: str, args: dict[str, str], text: str) -> None:
    assert initializers.torch(name, args, "self.w") == text


@pytest.mark.parametrize(
    ("name", "args", "shape", "part"),
    [
        ("normal", {"std": -1.0}, (2, 2), "at least 0"),
        ("normal", {"std": "x"}, (2, 2), "a number"),
        ("normal", {"std": True}, (2, 2), "a number"),
        ("normal", {"std": 1.0, "zero_row": 2}, (2, 2), "no row 2"),
        ("normal", {"std": 1.0, "zero_row": 0.5}, (2, 2), "an int"),
        ("normal", {"std": math.inf}, (2, 2), "finite"),
        ("uniform", {"a": 1, "b": 0}, (2,), "exceed"),
        ("uniform_fan_in", {"n": 0}, (2,), "at least 1"),
        ("trunc_normal", {"std": 1.0, "a": 2.0, "b": 1.0}, (2,), "less than"),
        ("trunc_normal", {"std": 1.0, "a": 30.0, "b": 40.0}, (2,), "within 4"),
        ("xavier_normal", {}, (2,), "at least 2 axes"),
        ("kaiming_normal", {"mode": "both"}, (2, 2), "fan_in, fan_out"),
        ("eye", {}, (2, 2, 2), "matrix"),
        ("sinusoids", {}, (2, 3), "even"),
        ("sinusoids", {"layout": "sin"}, (2, 4), "sin_cos"),
        ("sinusoids", {"shift": 2}, (2, 4), "above 2*shift"),
        ("log_arange", {"start": 0}, (2,), "start > 0"),
    ],
)
def test_wrong_arguments_are_named(name: str, args: dict[str, object], shape: tuple[int, ...], part: str) -> None:
    message = problem(name, arguments(name, **args), shape)
    assert message is not None and part in message


def test_every_required_argument_is_marked() -> None:
    required = {
        (name, key) for name, keys in SIGNATURES.items() for key, default in keys.items() if default is REQUIRED
    }
    assert ("normal", "std") in required and ("xavier_uniform", "gain") not in required
    assert list(SIGNATURES["normal"]) == ["std", "mean", "zero_row"]
