"""wav2vec 2.0 of the zoo against transformers: both front ends and both kinds of layers, padded sounds, training."""

from __future__ import annotations

import json
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

SPECS = Path(__file__).resolve().parents[1] / "specs"
RNG = np.random.default_rng(0)
REACH = 11  # samples that the first frame sees, below

OLDER = {
    "feat_extract_dropout": 0.0, "freeze_feat_extract_train": True, "gradient_checkpointing": False,
    "mask_channel_length": 10, "mask_channel_min_space": 1, "mask_channel_other": 0.0, "mask_channel_prob": 0.0,
    "mask_channel_selection": "static", "mask_time_min_space": 1, "mask_time_other": 0.0,
    "mask_time_selection": "static", "no_mask_channel_overlap": False, "no_mask_time_overlap": False,
}  # fmt: skip
"""Keys of the published files that transformers does not read."""

STABLE = {"do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_bias": True}


def wav2vec2(**changes: Any) -> Any:
    config = {
        "vocab_size": 11, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40,
        "conv_dim": [8, 12], "conv_kernel": [5, 3], "conv_stride": [3, 2], "num_conv_pos_embeddings": 6,
        "num_conv_pos_embedding_groups": 4,
    }  # fmt: skip
    return transformers.Wav2Vec2ForCTC(transformers.Wav2Vec2Config(**{**config, **changes}))


def sound(batch: int, samples: int) -> dict[str, np.ndarray]:
    return {"input_values": RNG.standard_normal((batch, samples)).astype(np.float32)}


def padded(given: dict[str, np.ndarray], step: int = 13) -> dict[str, np.ndarray]:
    """Row r is `step`*r samples shorter, and as long as one frame at least."""
    batch, samples = given["input_values"].shape
    lengths = np.maximum(REACH, samples - step * np.arange(batch))
    return {**given, "attention_mask": np.arange(samples) < lengths[:, None]}


def logits(model: Any, given: dict[str, np.ndarray]) -> np.ndarray:
    with torch.no_grad():
        result: np.ndarray = model(**{k: torch.from_numpy(v) for k, v in given.items()}).logits.numpy()
    return result


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {**STABLE, "num_conv_pos_embeddings": 5, "hidden_act": "relu", "layer_norm_eps": 1e-3, "mask_time_prob": 0.0},
        {"feat_extract_norm": "layer", "feat_extract_activation": "silu", "mask_feature_prob": 0.2},
    ],
    ids=["base", "stable", "mixed"],
)
def test_wav2vec2(changes: dict[str, Any], tmp_path: Path) -> None:
    case = parity.built("wav2vec2", parity.randomised(wav2vec2(**changes)), tmp_path)
    for batch, samples in ((1, REACH), (3, 17), (1, 64), (3, 101)):
        plain = sound(batch, samples)
        for given in (plain, padded(plain)):
            case.check(given, {"logits": logits(case.model, given)})
    case.check_gradients(given, "logits")
    case.check_compiles(given)


def test_wav2vec2_without_its_mask(tmp_path: Path) -> None:
    case = parity.built("wav2vec2", parity.randomised(wav2vec2()), tmp_path, without=["attention_mask"])
    assert [i.name for i in case.session.get_inputs()] == ["input_values"]
    given = sound(2, 50)
    case.check(given, {"logits": logits(case.model, given)})


def test_wav2vec2_exported_and_in_half_precision(tmp_path: Path) -> None:
    module = trained(tmp_path, **STABLE).eval()
    first, other = ({k: torch.from_numpy(v) for k, v in padded(sound(*size)).items()} for size in ((2, 70), (3, 101)))
    sizes = {0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO}  # one frame is a case of its own in torch
    program = torch.export.export(module, (), first, dynamic_shapes=dict.fromkeys(first, sizes)).module()
    with torch.no_grad():
        torch.testing.assert_close(program(**other), module(**other), rtol=0, atol=0)
        expected = module(**other)
        half = module.to(torch.bfloat16)(other["input_values"].bfloat16(), other["attention_mask"])
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), expected, rtol=0.1, atol=0.1 * float(expected.abs().max()))  # 8 bits


@pytest.mark.parametrize("older", [False, True], ids=["pre-training", "weight_g"])
def test_other_files(older: bool, tmp_path: Path) -> None:
    """As published: of pre-training, without a head for letters; with the names that weight norm had before torch 2."""
    from safetensors.torch import load_file, save_file

    source = tmp_path / "checkpoint"
    model = parity.randomised(wav2vec2())
    if older:
        model.save_pretrained(source)
        tensors = load_file(source / "model.safetensors")
        for old, new in (("weight_g", "original0"), ("weight_v", "original1")):
            [name] = [n for n in tensors if n.endswith(new)]
            tensors[name.replace(f"parametrizations.weight.{new}", old)] = tensors.pop(name)
        save_file(tensors, source / "model.safetensors")
        config = json.loads((source / "config.json").read_text())
        (source / "config.json").write_text(json.dumps({**config, **OLDER}))
    else:
        whole = transformers.Wav2Vec2ForPreTraining(model.config)
        whole.wav2vec2.load_state_dict(model.wav2vec2.state_dict())
        whole.save_pretrained(source)
    request = Request("wav2vec2", weights=str(source), render=False, out=tmp_path / "out", entries=("encode",))
    made = build(request)
    assert made.manifest["weights"]["fresh"] == ([] if older else ["lm_head.weight", "lm_head.bias"])
    given = padded(sound(3, 70))
    module: Any = open_build(made.folder).module()
    with torch.no_grad():
        tensors = {k: torch.from_numpy(v) for k, v in given.items()}
        ours, theirs = module.encode(**tensors), model.wav2vec2(**tensors)
    parity.assert_close(ours.numpy(), theirs.last_hidden_state.numpy(), "wav2vec2", "torch")


@pytest.mark.parametrize(
    ("changes", "shown"),
    [({"add_adapter": True}, "add_adapter"), ({"adapter_attn_dim": 4, **STABLE}, "adapter_attn_dim")],
)
def test_wav2vec2_refuses(changes: dict[str, Any], shown: str, tmp_path: Path) -> None:
    wav2vec2(**changes).save_pretrained(tmp_path)
    with pytest.raises(Rejected) as refused:
        build(Request("wav2vec2", weights=str(tmp_path), verify=False, render=False, out=tmp_path / "out"))
    assert shown in report.full(refused.value.diagnostics)


# ---- training --------------------------------------------------------------------------------------------------------


def trained(tmp_path: Path, **changes: Any) -> Any:
    """A module in training, where nothing is random but what `changes` say."""
    still = dict.fromkeys(
        "hidden_dropout attention_dropout activation_dropout feat_proj_dropout final_dropout layerdrop".split(), 0.0
    )
    model = parity.randomised(wav2vec2(**{**still, "mask_time_prob": 0.0, **changes}))
    model.save_pretrained(tmp_path / "checkpoint")
    request = Request(
        "wav2vec2", weights=str(tmp_path / "checkpoint"), verify=False, render=False, out=tmp_path / "out"
    )
    return open_build(build(request).folder).module().train()


def test_layers_are_left_out_in_training(tmp_path: Path) -> None:
    module = trained(tmp_path, layerdrop=0.5)
    given = torch.from_numpy(sound(2, 60)["input_values"])
    seen = {module(given).detach().numpy().round(4).tobytes() for _ in range(40)}
    assert len(seen) == 4  # each of two layers there or not, for the whole batch
    module.eval()
    assert module(given).detach().numpy().round(4).tobytes() in seen


@pytest.mark.parametrize("share", [0.3, 0.65])
def test_spans_are_hidden_in_training(share: float, tmp_path: Path) -> None:
    """As many spans as transformers draws, each within what is heard of its row."""
    from transformers.models.wav2vec2 import modeling_wav2vec2

    length, frames, heard = 4, 31, [31, 20, 5, 3]
    module = trained(tmp_path, mask_time_prob=share, mask_time_length=length, mask_time_min_masks=1)
    mask = torch.arange(frames) < torch.tensor(heard)[:, None]
    draw = modeling_wav2vec2._compute_mask_indices
    for seed in range(20):
        np.random.seed(seed)
        dice = float(np.random.rand(1)[0])
        np.random.seed(seed)
        theirs = draw((len(heard), frames), share, length, mask, 1)
        hidden = module.hidden_spans.times(torch.rand(len(heard), frames), torch.tensor(dice), mask).numpy()
        assert not (hidden & ~mask.numpy()).any()
        for row, size in enumerate(heard):
            begins = min(max(int(share * size / length + dice), 1), frames // length, max(size - length + 1, 0))
            for drawn in (hidden[row, :size], theirs[row, :size]):
                assert min(begins, 1) * length <= drawn.sum() <= begins * length
                assert all(len(run) >= length for run in "".join("01"[int(x)] for x in drawn).split("0") if run)


def test_a_hidden_frame_is_the_learned_one(tmp_path: Path) -> None:
    module = trained(tmp_path, mask_time_prob=0.9, mask_time_length=1, mask_time_min_masks=100)
    given = torch.from_numpy(sound(2, 60)["input_values"])
    first = module(given)
    torch.testing.assert_close(first, module(2 * given + 1))  # all frames are hidden: nothing of the sound is left
    first.sum().backward()
    assert float(module.wav2vec2.masked_spec_embed.grad.abs().max()) > 0
    module.eval()
    assert not torch.allclose(module(given), first)


@pytest.mark.parametrize(
    ("preset", "count", "changes"),
    [
        ("base-960h", 94_371_712, {}),
        ("large-960h", 315_428_992, {"feat_extract_norm": "group"}),
        ("large-960h-lv60", 315_438_720, STABLE),
    ],
)
def test_wav2vec2_sizes(preset: str, count: int, changes: dict[str, Any]) -> None:
    """The published count is of the body; the head is 32 letters more."""
    large = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
    config = transformers.Wav2Vec2Config(**(large if changes else {}), **changes)
    assert parity.published(transformers.Wav2Vec2Model, config) == count
    made = specc.load(SPECS / "wav2vec2.spec", preset=f"wav2vec2-{preset}")
    assert made.parameters == count + 32 * (config.hidden_size + 1)
    assert made.parameters == parity.published(transformers.Wav2Vec2ForCTC, config)
