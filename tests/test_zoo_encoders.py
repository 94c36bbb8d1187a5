"""Encoders and vision models of the zoo against transformers: published sizes, whole checkpoints, equal outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import parity
import pytest

import specc
from specc_runtime.build import Request, build

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SPECS = Path(__file__).resolve().parents[1] / "specs"
RNG = np.random.default_rng(0)
LENGTHS = ((1, 1), (3, 1), (1, 7), (3, 11))


def ids(batch: int, length: int, below: int) -> np.ndarray:
    return RNG.integers(0, below, (batch, length))


def right_padded(batch: int, length: int) -> np.ndarray:
    """True = visible: row r has r positions of padding, at most all but one."""
    return np.arange(length) < np.maximum(1, length - np.arange(batch))[:, None]


def tensors(given: dict[str, np.ndarray]) -> dict[str, Any]:
    """What transformers takes: masks as integers."""
    return {k: torch.from_numpy(v.astype(np.int64) if v.dtype == bool else v) for k, v in given.items()}


def outputs(model: Any, given: dict[str, np.ndarray], **options: Any) -> Any:
    with torch.no_grad():
        return model(**tensors(given), **options)


# ---- bert ------------------------------------------------------------------------------------------------------------


def bert(**changes: Any) -> Any:
    config = {
        "vocab_size": 61, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40,
        "max_position_embeddings": 16, "type_vocab_size": 3, "num_labels": 5, "hidden_dropout_prob": 0.2,
    }  # fmt: skip
    return transformers.BertForSequenceClassification(transformers.BertConfig(**{**config, **changes}))


@pytest.mark.parametrize("changes", [{}, {"hidden_act": "relu", "layer_norm_eps": 1e-3}], ids=["base", "relu"])
def test_bert(changes: dict[str, Any], tmp_path: Path) -> None:
    case = parity.built("bert", parity.randomised(bert(**changes)), tmp_path)
    for batch, length in LENGTHS:
        given = {"input_ids": ids(batch, length, 61)}
        masked = {**given, "attention_mask": right_padded(batch, length)}
        typed = {**masked, "token_type_ids": ids(batch, length, 3)}
        for feeds in (given, masked, typed):
            result = outputs(case.model, feeds, output_hidden_states=True)
            expected = {"logits": result.logits.numpy(), "hidden": result.hidden_states[-1].numpy()}
            case.check(feeds, expected, {"hidden": feeds["attention_mask"]} if "attention_mask" in feeds else None)
    case.check_gradients(typed, "logits")
    case.check_compiles(typed)


def test_bert_without_its_mask(tmp_path: Path) -> None:
    """A graph without the optional inputs."""
    case = parity.built("bert", parity.randomised(bert()), tmp_path, without=["attention_mask", "token_type_ids"])
    assert [i.name for i in case.session.get_inputs()] == ["input_ids"]
    for batch, length in LENGTHS:
        given = {"input_ids": ids(batch, length, 61)}
        case.check(given, {"logits": outputs(case.model, given).logits.numpy()})


def test_bert_from_its_pretraining(tmp_path: Path) -> None:
    """The published files: pre-training heads are left out, the classifier is new."""
    config = bert().config
    transformers.BertForPreTraining(config).save_pretrained(tmp_path / "checkpoint")
    made = build(Request("bert", weights=str(tmp_path / "checkpoint"), out=tmp_path / "out", render=False))
    assert made.manifest["weights"]["fresh"] == ["classifier.weight", "classifier.bias"]


# ---- images ----------------------------------------------------------------------------------------------------------


def assert_image_parity(spec: str, model: Any, tmp_path: Path, sizes: Iterable[tuple[int, int, int]]) -> parity.Parity:
    """Logits of a classifier at (batch, height, width)."""
    case = parity.built(spec, parity.randomised(model), tmp_path)
    for size in sizes:
        given = pixels(*size, channels=model.config.num_channels)
        case.check(given, {"logits": outputs(case.model, given).logits.numpy()})
    case.check_gradients(given, "logits")
    case.check_compiles(given)
    return case


def pixels(batch: int, height: int, width: int, channels: int = 3) -> dict[str, np.ndarray]:
    return {"pixel_values": RNG.standard_normal((batch, channels, height, width)).astype(np.float32)}


@pytest.mark.parametrize(
    "changes",
    [{}, {"num_channels": 1, "patch_size": 5, "image_size": 15, "qkv_bias": False, "hidden_act": "gelu_new"}],
    ids=["base", "grey"],
)
def test_vit(changes: dict[str, Any], tmp_path: Path) -> None:
    config = {
        "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40,
        "image_size": 12, "patch_size": 4, "num_labels": 5, "hidden_dropout_prob": 0.1,
    }  # fmt: skip
    model = transformers.ViTForImageClassification(transformers.ViTConfig(**{**config, **changes}))
    size = model.config.image_size
    assert_image_parity("vit", model, tmp_path, [(1, size, size), (3, size, size)])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"layer_type": "basic", "hidden_act": "silu", "num_channels": 1},
        {"downsample_in_bottleneck": True, "downsample_in_first_stage": True},
    ],
    ids=["bottleneck", "basic", "early"],
)
def test_resnet(changes: dict[str, Any], tmp_path: Path) -> None:
    config = {"embedding_size": 8, "hidden_sizes": [16, 24, 32, 40], "depths": [2, 1, 2, 1], "num_labels": 5}
    model = transformers.ResNetForImageClassification(transformers.ResNetConfig(**{**config, **changes}))
    case = assert_image_parity("resnet", model, tmp_path, [(1, 32, 32), (3, 37, 64), (2, 65, 33)])
    assert_same_training(case, pixels(3, 64, 37, channels=model.config.num_channels))


def assert_same_training(case: parity.Parity, given: dict[str, np.ndarray]) -> None:
    """In train mode batch statistics count, and the running ones move as transformers' do."""
    case.module.train()
    case.model.train()
    with torch.no_grad():
        ours, theirs = case.module(**tensors(given)), case.model(**tensors(given)).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    moved = [{name.split(".")[-1]: 0.0 for name, _ in module.named_buffers()} for module in (case.module, case.model)]
    for total, module in zip(moved, (case.module, case.model), strict=True):
        for name, buffer in module.named_buffers():
            total[name.split(".")[-1]] += float(buffer.double().square().sum())
    assert moved[0].keys() == {"running_mean", "running_var", "num_batches_tracked"}
    assert moved[0] == pytest.approx(moved[1], rel=1e-5)


def test_resnet_by_torchvision_names(tmp_path: Path) -> None:
    """A file with the names that torchvision publishes, and no config."""
    from safetensors.torch import load_file, save_file

    sizes = {"sizes": "[16, 24, 32, 40]", "stem": "8", "depths": "[2, 1, 1, 1]", "classes": "3"}
    request = Request("resnet", sets=sizes, render=False, verify=False)
    first = build(replace(request, out=tmp_path / "first", seed=5)).folder / "model.safetensors"
    stored = load_file(first)
    assert {"conv1.weight", "bn1.running_var", "layer1.1.bn3.num_batches_tracked", "layer4.0.downsample.1.bias"} < set(
        stored
    )
    save_file(stored, tmp_path / "resnet.safetensors")
    published = replace(request, weights=str(tmp_path / "resnet.safetensors"), weights_format="torchvision:resnet50")
    again = build(replace(published, out=tmp_path / "again"))
    assert again.manifest["weights"]["fresh"] == []
    assert (again.folder / "model.safetensors").read_bytes() == first.read_bytes()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"layer_scale_init_value": 0.0, "drop_path_rate": 0.2, "hidden_act": "relu", "patch_size": 2},
        {"hidden_sizes": [8, 16], "depths": [1, 2], "num_stages": 2, "layer_norm_eps": 1e-3},
    ],
    ids=["base", "no-scale", "two-stages"],
)
def test_convnext(changes: dict[str, Any], tmp_path: Path) -> None:
    config = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1], "num_labels": 5}
    model = transformers.ConvNextForImageClassification(transformers.ConvNextConfig(**{**config, **changes}))
    assert_image_parity("convnext", model, tmp_path, [(1, 32, 32), (3, 37, 64), (2, 65, 33)])


# ---- clip ------------------------------------------------------------------------------------------------------------


def clip(eos: int = 60, **changes: Any) -> Any:
    text = {
        "vocab_size": 61, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40,
        "max_position_embeddings": 16, "eos_token_id": eos, "bos_token_id": 0, "pad_token_id": 0,
    }  # fmt: skip
    vision = {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
        "image_size": 12, "patch_size": 4,
    }  # fmt: skip
    text, vision = {**text, **changes}, {**vision, **changes}
    return transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=20))


@pytest.mark.parametrize(
    ("eos", "changes"),
    [(60, {}), (2, {}), (60, {"hidden_act": "gelu", "layer_norm_eps": 1e-3})],
    ids=["base", "first-files", "gelu"],
)
def test_clip(eos: int, changes: dict[str, Any], tmp_path: Path) -> None:
    """Three texts against two images; the files that say end-of-text is 2 mean the largest id."""
    case = parity.built("clip", parity.randomised(clip(eos, **changes)), tmp_path)
    names = ("logits_per_image", "logits_per_text", "text_embeds", "image_embeds")
    for texts, length, images in ((1, 1, 1), (3, 1, 2), (1, 7, 3), (3, 11, 2)):
        words = ids(texts, length, 61)
        words[:, -1] = 60
        words[0, length // 2] = 60  # the first one counts
        given = {"input_ids": words, **pixels(images, 12, 12)}
        masked = {**given, "attention_mask": right_padded(texts, length)}
        for feeds in (given, masked):
            result = outputs(case.model, feeds)
            case.check(feeds, {name: getattr(result, name).numpy() for name in names})
    case.check_gradients(masked, "logits_per_text")
    case.check_compiles(masked)


# ---- published sizes -------------------------------------------------------------------------------------------------

PUBLISHED: dict[tuple[str, str], Callable[[], int]] = {
    ("bert", "bert-base-uncased"): lambda: parity.published(
        transformers.BertForSequenceClassification, transformers.BertConfig()
    ),
    ("bert", "bert-large-uncased"): lambda: parity.published(
        transformers.BertForSequenceClassification,
        transformers.BertConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096),
    ),
    ("vit", "vit-base-patch16-224"): lambda: parity.published(
        transformers.ViTForImageClassification, transformers.ViTConfig(num_labels=1000)
    ),
    ("vit", "vit-large-patch16-224"): lambda: parity.published(
        transformers.ViTForImageClassification,
        transformers.ViTConfig(
            num_labels=1000, hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096
        ),
    ),
    **{
        ("resnet", f"resnet{n}"): partial(
            parity.published,
            transformers.ResNetForImageClassification,
            transformers.ResNetConfig(num_labels=1000, depths=depths, **more),
        )
        for n, depths, more in (
            (18, [2, 2, 2, 2], {"layer_type": "basic", "hidden_sizes": [64, 128, 256, 512]}),
            (34, [3, 4, 6, 3], {"layer_type": "basic", "hidden_sizes": [64, 128, 256, 512]}),
            (50, [3, 4, 6, 3], {}),
            (101, [3, 4, 23, 3], {}),
            (152, [3, 8, 36, 3], {}),
        )
    },
    **{
        ("convnext", f"convnext-{size}"): partial(
            parity.published,
            transformers.ConvNextForImageClassification,
            transformers.ConvNextConfig(num_labels=1000, **more),
        )
        for size, more in (
            ("tiny", {}),
            ("small", {"depths": [3, 3, 27, 3]}),
            ("base", {"depths": [3, 3, 27, 3], "hidden_sizes": [128, 256, 512, 1024]}),
            ("large", {"depths": [3, 3, 27, 3], "hidden_sizes": [192, 384, 768, 1536]}),
        )
    },
    **{
        ("clip", f"clip-vit-{size}"): partial(parity.published, transformers.CLIPModel, transformers.CLIPConfig(**more))
        for size, more in (
            ("base-patch32", {}),
            ("base-patch16", {"vision_config": {"patch_size": 16}}),
            (
                "large-patch14",
                {
                    "projection_dim": 768,
                    "text_config": {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12},
                    "vision_config": {
                        "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
                        "num_attention_heads": 16, "patch_size": 14,
                    },
                },
            ),
        )
    },
}  # fmt: skip


@pytest.mark.parametrize(("name", "preset"), PUBLISHED)
def test_presets_have_the_published_size(name: str, preset: str) -> None:
    assert specc.load(SPECS / f"{name}.spec", preset=preset).parameters == PUBLISHED[name, preset]()
