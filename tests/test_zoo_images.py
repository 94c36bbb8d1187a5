"""EfficientNet of the zoo against transformers, and the diffusion transformer against one made of torch.nn's layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import parity
import pytest

import specc

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from test_zoo_encoders import assert_image_parity  # noqa: E402 - they need the two above
from test_zoo_others import built, expected, normal  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
RNG = np.random.default_rng(0)


# ---- efficientnet ----------------------------------------------------------------------------------------------------


def efficientnet(**changes: Any) -> Any:
    config = {
        "width_coefficient": 0.25, "depth_coefficient": 0.5, "hidden_dim": 320, "num_labels": 5, "dropout_rate": 0.25,
        "drop_connect_rate": 0.5, "num_block_repeats": [1, 1, 3, 1, 1, 1, 1],
    }  # fmt: skip
    return transformers.EfficientNetForImageClassification(transformers.EfficientNetConfig(**{**config, **changes}))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "width_coefficient": 0.3, "hidden_dim": 384, "depthwise_padding": [1, 4],
            "num_channels": 1, "squeeze_expansion_ratio": 0.5, "hidden_act": "relu",
        },
    ],
    ids=["base", "square"],
)  # fmt: skip
def test_efficientnet(changes: dict[str, Any], tmp_path: Path) -> None:
    assert_image_parity("efficientnet", efficientnet(**changes), tmp_path, [(1, 32, 32), (3, 37, 64), (2, 65, 33)])


@pytest.mark.parametrize(
    ("preset", "config"),
    [
        ("efficientnet-b0", {"width_coefficient": 1.0, "depth_coefficient": 1.0, "hidden_dim": 1280}),
        ("efficientnet-b4", {"width_coefficient": 1.4, "depth_coefficient": 1.8, "hidden_dim": 1792}),
        ("efficientnet-b7", {}),
    ],
)
def test_efficientnet_sizes(preset: str, config: dict[str, Any]) -> None:
    full = transformers.EfficientNetConfig(num_labels=1000, **config)
    count = parity.published(transformers.EfficientNetForImageClassification, full)
    assert specc.load("efficientnet", preset=preset).parameters == count


# ---- dit -------------------------------------------------------------------------------------------------------------


def waves(places: Any, dim: int, *functions: Any) -> Any:
    """Sines, cosines or both of some places, `dim` of them."""
    angles = places.double()[:, None] * 10_000 ** (-torch.arange(dim // 2, dtype=torch.float64) / (dim // 2))
    return torch.cat([function(angles) for function in functions], dim=1).float()


class Layer(nn.Module):
    """A transformer layer whose norms have no weights; the condition has six of each channel."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attn = nn.ModuleDict({"qkv": nn.Linear(dim, 3 * dim), "proj": nn.Linear(dim, dim)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(dim, 4 * dim), "fc2": nn.Linear(4 * dim, dim)})
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.norm = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)

    def forward(self, x: Any, condition: Any) -> Any:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(condition)[:, None].chunk(6, dim=-1)
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.attn["qkv"](self.norm(x) * (1 + scale1) + shift1).chunk(3, dim=-1)
        )
        seen = torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, dim=-1) @ v
        x = x + gate1 * self.attn["proj"](seen.transpose(1, 2).flatten(2))
        y = functional.gelu(self.mlp["fc1"](self.norm(x) * (1 + scale2) + shift2), approximate="tanh")
        return x + gate2 * self.mlp["fc2"](y)


class Latents(nn.Module):
    """The diffusion transformer; `class_drop` is 0."""

    def __init__(self, size: int, patch: int, channels: int, dim: int, layers: int, heads: int, classes: int) -> None:
        super().__init__()
        self.patch, self.grid = patch, size // patch
        self.x_embedder = nn.ModuleDict({"proj": nn.Conv2d(channels, dim, patch, stride=patch)})
        self.t_embedder = nn.ModuleDict({"mlp": nn.Sequential(nn.Linear(256, dim), nn.SiLU(), nn.Linear(dim, dim))})
        self.y_embedder = nn.ModuleDict({"embedding_table": nn.Embedding(classes + 1, dim)})
        self.blocks = nn.ModuleList(Layer(dim, heads) for _ in range(layers))
        modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 2 * dim))
        last = nn.Linear(dim, patch * patch * 2 * channels)
        self.final_layer = nn.ModuleDict({"linear": last, "adaLN_modulation": modulation})
        self.norm = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)

    def forward(self, latent: Any, t: Any, label: Any) -> dict[str, Any]:
        x = self.x_embedder["proj"](latent).flatten(2).transpose(1, 2)
        rows, columns = torch.meshgrid(torch.arange(self.grid), torch.arange(self.grid), indexing="ij")
        places = [waves(each.flatten(), x.shape[-1] // 2, torch.sin, torch.cos) for each in (columns, rows)]
        x = x + torch.cat(places, dim=1)
        condition = self.t_embedder["mlp"](waves(t, 256, torch.cos, torch.sin))
        condition = condition + self.y_embedder["embedding_table"](label)
        for block in self.blocks:
            x = block(x, condition)
        shift, scale = self.final_layer["adaLN_modulation"](condition)[:, None].chunk(2, dim=-1)
        x = self.final_layer["linear"](self.norm(x) * (1 + scale) + shift)
        squares = x.transpose(1, 2).unflatten(1, (self.patch, self.patch, -1)).unflatten(-1, (self.grid, self.grid))
        return {"noise": squares.permute(0, 3, 4, 1, 5, 2).flatten(4, 5).flatten(2, 3)}


DIT = {"size": 12, "patch": 2, "channels": 3, "dim": 32, "layers": 2, "heads": 4, "classes": 7}


@pytest.mark.parametrize("changes", [{}, {"size": 8, "patch": 4, "channels": 1}], ids=["base", "large-patches"])
def test_dit(changes: dict[str, int], tmp_path: Path) -> None:
    sizes = {**DIT, **changes}
    case = built("dit", Latents(**sizes), tmp_path, {name: str(value) for name, value in sizes.items()})
    for batch in (1, 3):
        latent = normal(batch, sizes["channels"], sizes["size"], sizes["size"])
        given = {"latent": latent, "t": RNG.integers(0, 1000, batch), "label": RNG.integers(0, 8, batch)}
        case.check(given, expected(case.model, given))
    case.check_gradients(given, "noise")
    if not changes:
        case.check_compiles(given)


@pytest.mark.parametrize(
    ("preset", "dim", "layers", "heads"),
    [("dit-xl-2", 1152, 28, 16), ("dit-l-2", 1024, 24, 16), ("dit-b-2", 768, 12, 12), ("dit-s-2", 384, 12, 6)],
)
def test_dit_sizes(preset: str, dim: int, layers: int, heads: int) -> None:
    with torch.device("meta"):
        count = sum(p.numel() for p in Latents(32, 2, 4, dim, layers, heads, 1000).parameters())
    assert specc.load("dit", preset=preset).parameters == count


def test_dit_draws_classes_in_training(tmp_path: Path) -> None:
    """With a probability a label is that of no class."""
    sets = {**DIT, "class_drop": 1.0}
    case = built("dit", Latents(**DIT), tmp_path, {name: str(value) for name, value in sets.items()})
    given = {"latent": torch.randn(2, 3, 12, 12), "t": torch.tensor([3, 500])}
    with torch.no_grad():
        trained = case.module.train()(**given, label=torch.tensor([1, 2]))
        none = case.module.eval()(**given, label=torch.tensor([7, 7]))
    torch.testing.assert_close(trained, none)
