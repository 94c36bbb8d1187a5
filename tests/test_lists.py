"""Lists of tensors as arguments and results: against modules written by hand, in torch, in ONNX, as emitted source."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F
from onnx.reference import ReferenceEvaluator
from torch import nn

from specc import driver
from specc.backends.onnx.export import build
from specc.backends.onnx.functions import view
from specc.backends.onnx.proto import Embedded
from specc.backends.onnx.target import Target
from specc.backends.torch.export import emit
from specc.ir.graph import Model
from specc.ir.json import to_json

GOLDEN = Path(__file__).with_name("golden") / "lists"
SPECS = ("unet", "pyramid", "gather")


def load(name: str) -> Model:
    return driver.load(GOLDEN / f"{name}.spec").model


def module_of(model: Model) -> Any:
    namespace: dict[str, Any] = {}
    exec(compile(emit(model), "m.py", "exec"), namespace)
    torch.manual_seed(0)
    return namespace[model.module.name]().eval()


# ---- the same models by hand -----------------------------------------------------------------------------------------


class UNet(nn.Module):
    """Ronneberger's shape: what a level gives is joined to what comes up from below."""

    encoder: Any
    decoder: Any

    def __init__(self) -> None:
        super().__init__()
        widths = [4, 6, 8]
        self.encoder = nn.Module()
        self.encoder.down = nn.ModuleList([level(a, b) for a, b in zip([3, 4, 6], widths, strict=True)])
        self.decoder = nn.Module()
        self.decoder.up = nn.ModuleList()
        for below, width in zip([8, 8, 6], reversed(widths), strict=True):
            up = nn.Module()
            up.up = nn.ConvTranspose2d(below, width, 2, stride=2)
            up.conv = nn.Conv2d(2 * width, width, 3, padding=1)
            self.decoder.up.append(up)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x, skips = image, []
        for down in self.encoder.down:
            skips.append(F.relu(down.conv(x)))
            x = F.max_pool2d(skips[-1], 2)
        for up in self.decoder.up:
            x = F.relu(up.conv(torch.cat([skips.pop(), up.up(x)], dim=1)))
        return x


def level(c_in: int, c_out: int) -> nn.Module:
    module = nn.Module()
    module.conv = nn.Conv2d(c_in, c_out, 3, padding=1)
    return module


class Pyramid(nn.Module):
    """Lin's shape: every level of the backbone by 1 x 1, with the level above added, and by 3 x 3."""

    backbone: Any
    fpn: Any

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.stages = nn.ModuleList(
            [nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in ((3, 4), (4, 6), (6, 8))]
        )
        self.fpn = nn.Module()
        self.fpn.lateral = nn.ModuleList([nn.Conv2d(c, 5, 1) for c in (4, 6, 8)])
        self.fpn.smooth = nn.ModuleList([nn.Conv2d(5, 5, 3, padding=1) for _ in range(3)])
        self.head = nn.Linear(15, 2)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        levels, x = [], image
        for stage in self.backbone.stages:
            x = F.relu(stage(x))
            levels.append(x)
        found = [lateral(x) for lateral, x in zip(self.fpn.lateral, levels, strict=True)]
        for i in (1, 0):
            found[i] = found[i] + F.interpolate(found[i + 1], scale_factor=2.0)
        found = [smooth(x) for smooth, x in zip(self.fpn.smooth, found, strict=True)]
        pooled = torch.cat([x.mean((2, 3)) for x in found], dim=1)
        return found[0], self.head(pooled)


class Gather(nn.Module):
    """Lists of one type and several lengths, handed on, reversed, through a list of blocks, a fn and a method."""

    blocks: Any
    total: Any

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        for _ in range(2):
            block = nn.Module()
            block.mix = nn.Linear(4, 4)
            self.blocks.append(block)
        self.total = nn.Module()
        self.total.scale = nn.Parameter(torch.ones(4))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        first = x
        for block in self.blocks:
            x = block.mix(x) + (x - (2 * first + 2 * x))
        scale: torch.Tensor = self.total.scale
        return (x + y + x) * scale + (x - y) * scale + (3 * y - x) - (y - x)


REFERENCES: dict[str, type[nn.Module]] = {"unet": UNet, "pyramid": Pyramid, "gather": Gather}
FEEDS: dict[str, Callable[[int], tuple[torch.Tensor, ...]]] = {
    "unet": lambda n: (torch.randn(n, 3, 8 * n, 16),),
    "pyramid": lambda n: (torch.randn(n, 3, 16, 8 * n),),
    "gather": lambda n: (torch.randn(n, 3, 4), torch.randn(n, 3, 4)),
}


def results(found: Any) -> tuple[torch.Tensor, ...]:
    return found if isinstance(found, tuple) else (found,)


@pytest.mark.parametrize("name", SPECS)
def test_torch_is_the_reference(name: str) -> None:
    """The reference's state_dict fits; results and gradients are equal."""
    torch.manual_seed(1)
    module, reference = module_of(load(name)), REFERENCES[name]()
    module.load_state_dict(reference.state_dict())
    for n in (1, 3):
        feed = FEEDS[name](n)
        grads = []
        for one in (module, reference):
            one.zero_grad()
            made = results(one(*feed))
            sum((y * torch.linspace(-1, 2, y.numel()).reshape(y.shape)).sum() for y in made).backward()  # type: ignore[union-attr]
            grads.append((*made, *(dict(one.named_parameters())[key].grad for key in reference.state_dict())))
        for found, expected in zip(*grads, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * max(1, expected.abs().max().item()))


@pytest.mark.parametrize("opset", [17, 23])
@pytest.mark.parametrize("name", SPECS)
def test_onnx_is_torch(name: str, opset: int) -> None:
    model = load(name)
    module = module_of(model)
    weights = Embedded({key: tensor.numpy().tobytes() for key, tensor in module.state_dict().items()})
    proto = build(model, Target(opset=opset, weights=weights))
    onnx.checker.check_model(proto, full_check=True)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    reference = ReferenceEvaluator(proto)
    for n in (1, 3):
        feed = FEEDS[name](n)
        given = {i.name: x.numpy() for i, x in zip(session.get_inputs(), feed, strict=True)}
        with torch.no_grad():
            expected = results(module(*feed))
        for made in (session.run(None, given), reference.run(None, given)):
            for found, y in zip(made, expected, strict=True):
                np.testing.assert_allclose(found, y.numpy(), rtol=0, atol=1e-5 * max(1, y.abs().max().item()))


@pytest.mark.parametrize("name", SPECS)
def test_torch_compiles_and_exports(name: str) -> None:
    module, feed = module_of(load(name)), FEEDS[name](2)
    with torch.no_grad():
        expected = results(module(*feed))
        whole: Any = torch.compile(module, fullgraph=True, backend="eager")
        compiled = results(whole(*feed))
        exported = results(torch.export.export(module, feed).module()(*feed))
    for y, a, b in zip(expected, compiled, exported, strict=True):
        torch.testing.assert_close(a, y)
        torch.testing.assert_close(b, y)


@pytest.mark.parametrize("name", SPECS)
def test_source(name: str, golden: Callable[[Path, str], None]) -> None:
    golden(GOLDEN / f"{name}.py", emit(load(name)))


@pytest.mark.parametrize("name", SPECS)
def test_picture_and_ir(name: str) -> None:
    """A block that takes a list is drawn with an input for each tensor; the IR names them so too."""
    model = load(name)
    whole, blocks = view(model)
    onnx.checker.check_model(whole)
    inputs = [i.name for proto in blocks.values() for i in proto.graph.input]
    named = [a["name"] for module in to_json(model)["modules"] for g in module["graphs"] for a in g["inputs"]]
    lists = {"unet": "skips", "pyramid": "levels", "gather": "xs"}
    assert f"{lists[name]}[1]" in inputs and f"{lists[name]}[1]" in named
