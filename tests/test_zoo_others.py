"""Models of the zoo that come with no checkpoint, against modules written here; bart against transformers."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import parity
import pytest

import specc
from specc import report
from specc.diagnostics import Rejected
from specc_runtime import open_build
from specc_runtime.build import Request, build

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

SPECS = Path(__file__).resolve().parents[1] / "specs"
RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def expected(reference: nn.Module, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    with torch.no_grad():
        return {k: v.numpy() for k, v in reference(**{k: torch.from_numpy(v) for k, v in given.items()}).items()}


def built(
    spec: str, reference: nn.Module, folder: Path, sets: dict[str, str], form: str | None = None
) -> parity.Parity:
    """Build a spec with the weights of a module, proof included. `form`: of the file, if names differ."""
    from safetensors.torch import save_model

    save_model(parity.randomised(reference), str(folder / "reference.safetensors"))
    weights = str(folder / "reference.safetensors")
    made = build(Request(spec, sets=sets, weights=weights, weights_format=form, out=folder / "out", render=False))
    assert made.warnings == () and "agree" in made.proof and made.manifest["weights"]["fresh"] == []
    opened = open_build(made.folder)
    module = opened.module()
    ours, theirs = ({p.detach().numpy().tobytes() for p in m.parameters()} for m in (module, reference))
    assert ours == theirs
    return parity.Parity(reference, made, module, opened.session())


# ---- unet ------------------------------------------------------------------------------------------------------------


class Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, time: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, inputs), nn.GroupNorm(8, outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding="same")
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding="same")
        self.time = nn.Linear(time, outputs)
        if inputs != outputs:
            self.skip = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Any, moment: Any) -> Any:
        y = self.conv1(functional.silu(self.norm1(x))) + self.time(functional.silu(moment)).view(len(x), -1, 1, 1)
        y = self.conv2(functional.silu(self.norm2(y)))
        return y + (self.skip(x) if hasattr(self, "skip") else x)


class Attention(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)
        self.qkv, self.proj = nn.Conv2d(channels, 3 * channels, 1), nn.Conv2d(channels, channels, 1)

    def forward(self, x: Any) -> Any:
        q, k, v = self.qkv(self.norm(x)).flatten(2).chunk(3, dim=1)  # [B, channels, pixels]
        seen = torch.softmax(torch.einsum("bcq,bck->bqk", q, k) / q.shape[1] ** 0.5, dim=-1)
        return x + self.proj(torch.einsum("bqk,bck->bcq", seen, v).reshape(x.shape))


class Noise(nn.Module):
    """The predictor of DDPM with one residual block to a resolution."""

    down: Any
    up: Any
    mid: Any
    time_mlp: Any

    def __init__(self, channels: int, base: int, mults: list[int]) -> None:
        super().__init__()
        self.base = base
        time, widths = 4 * base, [base, *(base * m for m in mults)]
        self.conv_in = nn.Conv2d(channels, base, 3, padding=1)
        self.time_mlp = nn.ModuleDict({"fc1": nn.Linear(base, time), "fc2": nn.Linear(time, time)})
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for i, (narrow, wide) in enumerate(pairwise(widths)):
            self.down.append(nn.ModuleDict({"res": Residual(narrow, wide, time)}))
            self.up.insert(0, nn.ModuleDict({"res": Residual(2 * wide, narrow, time)}))
            if i < len(mults) - 1:
                self.down[i]["pool"] = nn.Conv2d(wide, wide, 3, stride=2, padding=1)
            if i > 0:
                self.up[0]["conv"] = nn.Conv2d(narrow, narrow, 3, padding=1)
        middle = {f"res{n}": Residual(widths[-1], widths[-1], time) for n in (1, 2)}
        self.mid = nn.ModuleDict({**middle, "attn": Attention(widths[-1])})
        self.norm_out = nn.GroupNorm(8, base)
        self.conv_out = nn.Conv2d(base, channels, 3, padding=1)

    def forward(self, image: Any, t: Any) -> dict[str, Any]:
        angles = torch.outer(t.float(), 10_000 ** (-torch.arange(self.base // 2) / (self.base // 2)))
        moment = self.time_mlp["fc1"](torch.cat([angles.cos(), angles.sin()], dim=1))
        moment = self.time_mlp["fc2"](functional.silu(moment))
        x, seen = self.conv_in(image), []
        for stage in self.down:
            x = stage["res"](x, moment)
            seen.append(x)
            x = stage["pool"](x) if "pool" in stage else x
        x = self.mid["res2"](self.mid["attn"](self.mid["res1"](x, moment)), moment)
        for stage in self.up:
            x = stage["res"](torch.cat([x, seen.pop()], dim=1), moment)
            if "conv" in stage:
                x = stage["conv"](x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3))
        return {"noise": self.conv_out(functional.silu(self.norm_out(x)))}


@pytest.mark.parametrize(
    ("channels", "base", "mults"), [(3, 16, [1, 2, 4]), (1, 8, [2, 2])], ids=["three-levels", "grey-two-levels"]
)
def test_unet(channels: int, base: int, mults: list[int], tmp_path: Path) -> None:
    sets = {"channels": str(channels), "base": str(base), "mults": str(mults)}
    case = built("unet", Noise(channels, base, mults), tmp_path, sets)
    assert [o.shape for o in case.session.get_outputs()] == [["B", channels, "Y", "X"]]  # as the facts make them
    for batch, height, width in ((1, 4, 4), (3, 8, 20), (2, 12, 4)):
        given = {"image": normal(batch, channels, height, width), "t": RNG.integers(0, 1000, batch)}
        case.check(given, expected(case.model, given))
    case.check_gradients(given, "noise")
    if channels == 3:
        case.check_compiles(given)


@pytest.mark.parametrize(("height", "width", "name"), [(6, 8, "Y"), (8, 7, "X"), (1, 1, "Y")])
def test_unet_refuses_what_does_not_halve_evenly(height: int, width: int, name: str, tmp_path: Path) -> None:
    """Torch says which promise was broken; onnxruntime stops where sizes first do not fit."""
    sets = {"base": "8", "mults": "[1, 2, 2]"}
    made = build(Request("unet", sets=sets, out=tmp_path / "out", render=False, verify=False))
    image, t = normal(1, 3, height, width), np.zeros(1, np.int64)
    opened = open_build(made.folder)
    with pytest.raises(ValueError, match=rf"{name} must be a multiple of 4, found"):
        opened.module()(torch.from_numpy(image), torch.from_numpy(t))
    with pytest.raises(Exception, match=r"Non concat axis dimensions must match|running Reshape node"):
        opened.session().run(None, {"image": image, "t": t})


@pytest.mark.parametrize(("preset", "base", "mults"), [("small", 64, [1, 2, 4]), ("cifar", 128, [1, 2, 2, 2])])
def test_unet_sizes(preset: str, base: int, mults: list[int]) -> None:
    with torch.device("meta"):
        count = sum(p.numel() for p in Noise(3, base, mults).parameters())
    assert specc.load(SPECS / "unet.spec", preset=preset).parameters == count


# ---- recurrent -------------------------------------------------------------------------------------------------------

CELLS = ["LSTM", "GRU"]


class Words(nn.Module):
    """A language model of one torch.nn.LSTM or GRU of several layers."""

    def __init__(self, cell: str, vocab: int, dim: int, hidden: int, layers: int, tied: bool = False) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Embedding(vocab, dim), nn.Linear(hidden, vocab)
        self.rnn = getattr(nn, cell)(dim, hidden, num_layers=layers, batch_first=True)
        if tied:
            self.decoder.weight = self.encoder.weight

    def forward(self, input_ids: Any) -> dict[str, Any]:
        return {"logits": self.decoder(self.rnn(self.encoder(input_ids))[0])}


class Keyword(nn.Module):
    def __init__(self, cell: str, mels: int, channels: int, hidden: int, layers: int, classes: int) -> None:
        super().__init__()
        convolutions: list[nn.Module] = []
        for width in (mels, channels):
            convolutions += [nn.Conv1d(width, channels, 5, 2, 2), nn.BatchNorm1d(channels), nn.ReLU()]
        self.conv = nn.Sequential(*convolutions)
        self.rnn = getattr(nn, cell)(channels, hidden, num_layers=layers, batch_first=True)
        self.classifier = nn.Linear(hidden, classes)

    def forward(self, log_mel: Any) -> dict[str, Any]:
        return {"logits": self.classifier(self.rnn(self.conv(log_mel).mT)[0].mean(1))}


def typed(case: parity.Parity) -> None:
    """Every argument and result of the source says its type."""
    [path] = case.made.folder.glob("*.py")
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            given = [*node.args.args, node.args.vararg]
            assert all(a is None or a.arg == "self" or a.annotation for a in given), node.name
            assert (ast.unparse(node.returns or ast.Constant(None)) == "None") == (node.name == "__init__"), node.name


@pytest.mark.parametrize("cell", CELLS)
def test_recurrent_language_model(cell: str, tmp_path: Path) -> None:
    tied = cell == "GRU"
    sizes = {"vocab": 53, "dim": 24, "hidden": 24 if tied else 32, "layers": 3}
    sets = {**{k: str(v) for k, v in sizes.items()}, "cell": cell, "tied": str(tied).lower()}
    case = built("lstm", Words(cell, **sizes, tied=tied), tmp_path, sets, "torch:lm")
    for batch, length in ((1, 1), (3, 1), (1, 7), (3, 61)):
        given = {"input_ids": RNG.integers(0, 53, (batch, length))}
        case.check(given, expected(case.model, given))
    case.check_gradients(given, "logits")
    case.check_compiles(given)
    typed(case)


@pytest.mark.parametrize("cell", CELLS)
def test_keyword(cell: str, tmp_path: Path) -> None:
    sizes = {"mels": 10, "channels": 12, "hidden": 16, "layers": 2, "classes": 5}
    sets = {**{k: str(v) for k, v in sizes.items()}, "cell": cell}
    case = built("keyword", Keyword(cell, **sizes), tmp_path, sets, "torch:kws")
    for batch, length in ((1, 8), (3, 9), (2, 101)):
        given = {"log_mel": normal(batch, 10, length)}
        case.check(given, expected(case.model, given))
    case.check_gradients(given, "logits")
    if cell == "LSTM":
        case.check_compiles(given)


SIZES: dict[tuple[str, str], Callable[[], nn.Module]] = {
    ("lstm", "zaremba-medium"): lambda: Words("LSTM", 10_000, 650, 650, 2),
    ("lstm", "zaremba-large"): lambda: Words("LSTM", 10_000, 1500, 1500, 2),
    ("lstm", "gru-tied"): lambda: Words("GRU", 10_000, 650, 650, 2, tied=True),
    ("keyword", "kws"): lambda: Keyword("LSTM", 40, 64, 128, 2, 35),
    ("keyword", "kws-gru"): lambda: Keyword("GRU", 40, 64, 128, 2, 35),
}


@pytest.mark.parametrize(("spec", "preset"), SIZES)
def test_recurrent_sizes(spec: str, preset: str) -> None:
    with torch.device("meta"):
        count = sum(p.numel() for p in SIZES[spec, preset]().parameters())
    assert specc.load(SPECS / f"{spec}.spec", preset=preset).parameters == count


# ---- bart ------------------------------------------------------------------------------------------------------------


def bart(**changes: Any) -> Any:
    config = {
        "vocab_size": 61, "d_model": 24, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 3,
        "decoder_attention_heads": 4, "encoder_ffn_dim": 40, "decoder_ffn_dim": 36, "max_position_embeddings": 16,
    }  # fmt: skip
    return transformers.BartForConditionalGeneration(transformers.BartConfig(**{**config, **changes}))


def padded(batch: int, length: int, left: bool) -> np.ndarray:
    """True = visible: row r has r positions of padding, at most all but one."""
    visible = np.arange(length) < np.maximum(1, length - np.arange(batch))[:, None]
    return visible[:, ::-1].copy() if left else visible


@pytest.mark.parametrize(
    "changes",
    [{}, {"scale_embedding": True, "activation_function": "relu", "pad_token_id": 5, "dropout": 0.3}],
    ids=["base", "scaled"],
)
def test_bart(changes: dict[str, Any], tmp_path: Path) -> None:
    case = parity.built("bart", parity.randomised(bart(**changes)), tmp_path)
    assert float(case.model.final_logits_bias.abs().min()) > 0
    for batch, source, target in ((1, 1, 1), (3, 1, 5), (1, 16, 7), (3, 9, 16)):
        sizes = {"input_ids": source, "decoder_input_ids": target}
        given = {name: RNG.integers(0, 61, (batch, length)) for name, length in sizes.items()}
        for left in (False, True):
            given |= {
                "attention_mask": padded(batch, source, left),
                "decoder_attention_mask": np.ones((batch, target), bool),
            }
            if not left:  # on the left a decoder's first rows would see nothing
                given["decoder_attention_mask"] = padded(batch, target, left)
            theirs = {k: torch.from_numpy(v.astype(np.int64)) for k, v in given.items()}
            with torch.no_grad():
                logits = case.model(**theirs, use_cache=False).logits.numpy()
            case.check(given, {"logits": logits}, {"logits": given["decoder_attention_mask"]})
    case.check_gradients(given, "logits")
    case.check_compiles(given)


def test_bart_without_masks(tmp_path: Path) -> None:
    names = ["attention_mask", "decoder_attention_mask"]
    case = parity.built("bart", parity.randomised(bart()), tmp_path, without=names)
    given = {"input_ids": RNG.integers(0, 61, (2, 11)), "decoder_input_ids": RNG.integers(0, 61, (2, 5))}
    with torch.no_grad():
        logits = case.model(**{k: torch.from_numpy(v) for k, v in given.items()}, use_cache=False).logits.numpy()
    case.check(given, {"logits": logits})


def test_bart_of_its_body_alone(tmp_path: Path) -> None:
    """As bart-base was published: names without `model.`, copies of the embedding, keys that mean nothing any more."""
    from safetensors.torch import save_file

    model = parity.randomised(bart())
    model.final_logits_bias.zero_()
    model.save_pretrained(tmp_path)
    tensors = {k: v.clone() for k, v in model.model.state_dict().items()}
    assert "encoder.embed_tokens.weight" in tensors and "shared.weight" in tensors
    save_file(tensors, tmp_path / "model.safetensors")
    config = json.loads((tmp_path / "config.json").read_text())
    del config["tie_word_embeddings"]
    old = {"normalize_before": False, "add_final_layer_norm": False, "classif_dropout": 0.1, "num_hidden_layers": 2}
    (tmp_path / "config.json").write_text(json.dumps({**config, **old}))
    made = build(Request("bart", weights=str(tmp_path), render=False, out=tmp_path / "out"))
    assert made.manifest["weights"]["fresh"] == ["final_logits_bias"]
    opened = open_build(made.folder)
    case = parity.Parity(model, made, opened.module(), opened.session())
    given = {"input_ids": RNG.integers(0, 61, (2, 11)), "decoder_input_ids": RNG.integers(0, 61, (2, 5))}
    with torch.no_grad():
        logits = model(**{k: torch.from_numpy(v) for k, v in given.items()}, use_cache=False).logits.numpy()
    given |= {"attention_mask": np.ones((2, 11), bool), "decoder_attention_mask": np.ones((2, 5), bool)}
    case.check(given, {"logits": logits})


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"encoder_layerdrop": 0.1}, "whole layers are not dropped in training"),
        ({"tie_word_embeddings": False}, "share one embedding"),
        ({"activation_function": "xielu"}, "xielu"),
    ],
)
def test_bart_refuses(changes: dict[str, Any], shown: str, tmp_path: Path) -> None:
    bart().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(Rejected) as refused:
        build(Request("bart", weights=str(tmp_path), verify=False, render=False, out=tmp_path / "out"))
    assert shown in report.full(refused.value.diagnostics)


@pytest.mark.parametrize(
    ("preset", "changes"),
    [
        ("bart-large", {}),
        (
            "bart-base",
            {
                "d_model": 768, "encoder_layers": 6, "decoder_layers": 6, "encoder_attention_heads": 12,
                "decoder_attention_heads": 12, "encoder_ffn_dim": 3072, "decoder_ffn_dim": 3072,
            },
        ),
    ],
)  # fmt: skip
def test_bart_sizes(preset: str, changes: dict[str, Any]) -> None:
    count = parity.published(transformers.BartForConditionalGeneration, transformers.BartConfig(**changes))
    assert specc.load(SPECS / "bart.spec", preset=preset).parameters == count
