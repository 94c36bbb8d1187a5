"""Enums, optional parts, blocks and functions as hyper-parameters, partly applied, folds, `fn`s with shapes at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from specc import driver
from specc.backends.torch.export import emit
from specc.report import full
from specc_runtime import open_build
from specc_runtime.build import Request, build

SPEC = Path(__file__).with_name("golden") / "combined" / "mixer.spec"
DIM = 6


# ---- by hand -------------------------------------------------------------------------------------------------------


def damped(by: float) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: by * torch.tanh(x)


def half_gated(x: torch.Tensor) -> torch.Tensor:
    return torch.sigmoid(x[..., :DIM]) * x[..., DIM:]


def mlp(part: Any, x: torch.Tensor) -> torch.Tensor:
    y: torch.Tensor = part.fc2(damped(0.5)(part.fc1(x)))
    return y


def gated_mlp(part: Any, x: torch.Tensor) -> torch.Tensor:
    y: torch.Tensor = part.down_proj(F.gelu(part.gate_proj(x)) * part.up_proj(x))
    return y


ALL = ["tokens", "channels", "none"]
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {"kinds": ALL, "act": F.gelu, "inner": mlp, "pool": "both"},
    "gated": {"kinds": ALL, "act": lambda x: x, "inner": gated_mlp, "pool": "mean"},
    "bare": {"kinds": ["none", "tokens"], "act": lambda x: F.leaky_relu(x, 0.2), "inner": mlp, "pool": "last"},
    "headed": {"kinds": [], "act": F.gelu, "inner": lambda part, x: x, "pool": "both"},
}


def by_hand(
    module: Any, x: torch.Tensor, extra: torch.Tensor | None, kinds: list[str], act: Any, inner: Any, pool: str
) -> tuple[torch.Tensor, torch.Tensor]:
    shape = x.shape
    for mix, kind in zip(module.mixes, kinds, strict=True):
        y = mix.before(x) if hasattr(mix, "before") else x
        if kind == "tokens":
            y = y + y.cumsum(1) / shape[1]
        if kind == "channels":
            y = y.flip(-1)
        if kind != "none":
            y = inner(mix.mix, y)
        if extra is not None:
            y = y + extra[:, None]
        x = x + act(y) * (mix.gain if hasattr(mix, "gain") else 1.0)
    trace = torch.zeros(shape[0], shape[2])
    for down, then in zip(module.downs, (act, damped(2.0)), strict=True):
        trace = trace + x.mean(1)
        x = half_gated(then(down.fc[0](x.reshape(shape[0], -1, 2 * shape[2]))))
    if pool == "both":
        x = torch.cat([x.mean(1), (x.var(1, correction=0) + 1e-6).sqrt()], -1)
    else:
        x = x[:, -1] if pool == "last" else x.mean(1)
    return module.out(x), trace[:, None].expand(shape)


@pytest.mark.parametrize("preset", SETTINGS)
def test_torch_and_onnx_are_the_model_by_hand(preset: str, tmp_path: Path) -> None:
    made = open_build(build(Request(str(SPEC), preset=preset, render=False, out=tmp_path / "out")).folder)  # proved
    module = made.module().eval()
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng) / 2)
        for batch, length, given in ((1, 4, True), (3, 8, False), (2, 12, True)):
            x = torch.randn(batch, length, DIM, generator=rng)
            extra = torch.randn(batch, DIM, generator=rng) if given else None
            for found, expected in zip(module(x, extra), by_hand(module, x, extra, **SETTINGS[preset]), strict=True):
                torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("preset", SETTINGS)
def test_source(preset: str, golden: Callable[[Path, str], None]) -> None:
    source = emit(driver.load(SPEC, preset=preset).model)
    golden(SPEC.with_name(f"{preset}.py"), source)
    namespace: dict[str, Any] = {}
    exec(compile(source, "mixer.py", "exec"), namespace)
    module: nn.Module = namespace["Mixer"]().eval()
    x = torch.randn(2, 8, DIM)
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    for found, expected in zip(compiled(x), module(x), strict=True):
        torch.testing.assert_close(found, expected)


BROKEN = {
    'pool: "mean" | "both" | "last" = "both"': ('pool: "mean" | "both" | "last" = "max"', "E125"),
    "inner: block = MLP(hidden = 8, act = damped(by = 0.5))": ("inner: block = MLP(8)", "E130"),
    "act = damped(by = 0.5)": ("act = damped(of = 0.5)", "E120"),
    "gated(n = dim, act = sigmoid)": ("gated(act = sigmoid)", "E124"),
    "fc: [Linear(2*dim, 2*dim), act, gated(n = dim, act = sigmoid)]": ("fc: [Linear(2*dim, 2*dim), act]", "S201"),
    "x, rest = down(x)": ("x = down(x)", "S151"),
    "x = mixes(x, extra)": ("x = mixes(x, extra, extra)", "E122"),
    "a, b = moments(x, dim)": ("a, b = moments(x, width)", "S201"),
    "if mix != none { y = mix(y) }": ("y = mix(y)", "S140"),
    "norm: block? = LayerNorm(eps = 1e-3)": ("norm: block? = LayerNorm(eps = 1e-3, dim = 3)", "E123"),
    "x = mixes(x, extra)\n": ("x = mixes(x, extra); x = downs(x)\n", "S150"),
}


@pytest.mark.parametrize("right", BROKEN)
def test_messages(right: str, tmp_path: Path) -> None:
    """What is broken is told with a code that says so."""
    text = SPEC.read_text(encoding="utf-8")
    wrong, code = BROKEN[right]
    assert text.count(right) == 1
    path = tmp_path / "mixer.spec"
    path.write_text(text.replace(right, wrong), encoding="utf-8")
    found = driver.check(str(path), all_presets=True)
    assert code in [d.code for d in found], full(found)
