"""Every spec of the zoo at a small size, beside the module that says what it should compute.

`CASES` has a row for every file in `specs/`. A row makes the reference: transformers' model of the family, or one
written from torch.nn's layers. Every dropout of a row has a probability of its own, so that no two can be mistaken for
each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import references
import transformers
from families import GATED, GEMMA, GEMMA2, LLAMA, LLAMA3, MISTRAL, QWEN2, QWEN3, SLIDING, T5, WHISPER, Family
from test_gpt2_checkpoint import SMALL as GPT2
from test_zoo_encoders import bert, clip
from test_zoo_images import DIT, Latents, efficientnet
from test_zoo_mamba import MAMBA
from test_zoo_moe import MIXTRAL, QWEN3_MOE
from test_zoo_more import DISTILBERT, NEOX, PHI3, ROBERTA
from test_zoo_others import Keyword, Noise, Words, bart
from test_zoo_recent import GEMMA3, V3, modernbert
from test_zoo_swin import swin
from test_zoo_wav2vec2 import wav2vec2

from specc_runtime.build import Request

SPECS = Path(__file__).resolve().parents[1] / "specs"


@dataclass(frozen=True)
class Case:
    """A spec at a small size. `sets`: its hyper-parameters; None where the reference's config.json gives them.

    `form`: of the reference's tensor names, where there is no config.json and they are not the spec's own. `options`:
    what the reference is called with beside the inputs.
    """

    spec: str
    reference: Callable[[], Any]
    sets: Mapping[str, Any] | None = None
    form: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def from_transformers(self) -> bool:
        return self.sets is None

    def request(self, folder: Path, **more: Any) -> Request:
        """The build of `folder`, into which `save` wrote the reference."""
        sets = {k: v if isinstance(v, str) else str(v).lower() for k, v in (self.sets or {}).items()}
        weights = folder if self.from_transformers else folder / "model.safetensors"
        found = {"weights": str(weights), "weights_format": self.form, "sets": sets, **more}
        return Request(self.spec, verify=False, render=False, out=folder / "out", **found)

    def save(self, model: Any, folder: Path) -> None:
        """As a checkpoint: a folder of transformers, or a file of tensors."""
        from safetensors.torch import save_model

        if self.from_transformers:
            model.save_pretrained(folder)
        else:
            folder.mkdir(exist_ok=True)
            save_model(model, str(folder / "model.safetensors"))


def _family(family: Family, **config: Any) -> Case:
    untied = config.pop("untied", False)

    def make() -> Any:
        import torch

        model = family.model(family.config(**{**family.small, **config}, attn_implementation="eager"))
        if untied:  # transformers 5 loads T5 1.1's own head, but does not make one
            model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())
        return model

    return Case(family.spec, make)


def _image(spec: str, name: str, **config: Any) -> Case:
    model, full = getattr(transformers, f"{name}ForImageClassification"), getattr(transformers, f"{name}Config")
    return Case(spec, lambda: model(full(**config)))


def _own(spec: str, module: Callable[..., Any], **sizes: Any) -> Case:
    """A reference that takes what the spec takes, by the same names."""
    return Case(spec, partial(module, **sizes), sizes)


DROPOUTS = {"hidden_dropout_prob": 0.125, "attention_probs_dropout_prob": 0.25}
TEXT = {"vocab": 61, "dim": 32, "layers": 2, "heads": 4, "hidden": 48, "dropout": 0.125}

CASES: dict[str, Case] = {
    "gpt2": Case("gpt2", lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT2))),
    "llama": _family(LLAMA, attention_dropout=0.125),
    "llama-biases": _family(LLAMA, attention_bias=True, mlp_bias=True, tie_word_embeddings=True, **LLAMA3),
    "mistral": _family(MISTRAL, sliding_window=4, attention_dropout=0.125),
    "qwen2": _family(QWEN2, **SLIDING),
    "qwen3": _family(QWEN3),
    "gemma": _family(GEMMA, attention_dropout=0.125),
    "gemma2": _family(GEMMA2, attention_dropout=0.125),
    "gemma3": _family(GEMMA3, attention_dropout=0.125),
    "phi3": _family(PHI3, attention_dropout=0.125, resid_pdrop=0.25),
    "gpt_neox": _family(NEOX, attention_dropout=0.125, hidden_dropout=0.25),
    "mixtral": Case("mixtral", partial(MIXTRAL.made, attention_dropout=0.125)),
    "qwen3_moe": Case("qwen3_moe", partial(QWEN3_MOE.made, attention_dropout=0.125, mlp_only_layers=[0])),
    "deepseek": Case("deepseek", partial(V3.made, attention_dropout=0.125)),
    "mamba": Case("mamba", lambda: MAMBA.model(MAMBA.config(**MAMBA.small))),
    "bert": Case("bert", lambda: bert(**DROPOUTS)),
    "modernbert": Case(
        "modernbert", lambda: modernbert(attention_dropout=0.125, embedding_dropout=0.25, mlp_dropout=0.375)
    ),
    "roberta": _family(ROBERTA, **DROPOUTS, classifier_dropout=0.375),
    "distilbert": _family(DISTILBERT, dropout=0.125, attention_dropout=0.25, seq_classif_dropout=0.375),
    "t5": _family(T5, dropout_rate=0.125),
    "flan-t5": _family(T5, dropout_rate=0.125, **GATED),
    "bart": Case("bart", lambda: bart(dropout=0.125, attention_dropout=0.25, activation_dropout=0.375)),
    "whisper": _family(WHISPER, dropout=0.125, attention_dropout=0.25, activation_dropout=0.375),
    "vit": _image(
        "vit", "ViT", hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40, image_size=12,
        patch_size=4, num_labels=5, **DROPOUTS,
    ),
    "resnet": _image("resnet", "ResNet", embedding_size=8, hidden_sizes=[16, 24, 32, 40], depths=[2, 1, 2, 1]),
    "resnet-basic": _image(
        "resnet", "ResNet", embedding_size=8, hidden_sizes=[8, 12, 16, 20], depths=[1, 2, 1, 1], layer_type="basic"
    ),
    "convnext": _image(
        "convnext", "ConvNext", hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 2, 1], drop_path_rate=0.25, num_labels=5
    ),
    "efficientnet": Case("efficientnet", efficientnet),
    "swin": Case("swin", lambda: swin(drop_path_rate=0.25, **DROPOUTS)),
    "wav2vec2": Case(
        "wav2vec2",
        lambda: wav2vec2(
            hidden_dropout=0.125, attention_dropout=0.25, activation_dropout=0.375, feat_proj_dropout=0.0625,
            final_dropout=0.1875, layerdrop=0.0, mask_time_prob=0.0,
        ),
    ),
    "clip": Case("clip", lambda: clip(attention_dropout=0.0)),
    "dit": Case("dit", partial(Latents, **DIT), {**DIT, "class_drop": 0.0}),
    "unet": _own("unet", Noise, channels=3, base=16, mults=[1, 2, 4]),
    "lstm": Case(
        "lstm", partial(Words, "LSTM", 53, 24, 32, 2),
        {"vocab": 53, "dim": 24, "hidden": 32, "layers": 2, "dropout": 0.0}, "torch:lm",
    ),
    "keyword": Case(
        "keyword", partial(Keyword, "GRU", 10, 12, 16, 2, 5),
        {"mels": 10, "channels": 12, "hidden": 16, "layers": 2, "classes": 5, "cell": "GRU", "dropout": 0.0},
        "torch:kws",
    ),
    "gpt": _own("gpt", references.GPT, **TEXT),
    "transformer": _own("transformer", references.Transformer, **TEXT),
    "mlp": _own("mlp", references.MLP, inputs=12, hidden=[8, 6], classes=3, dropout=0.25),
    "linear": Case("linear", references.LinearModel, {}),
}  # fmt: skip
"""By name; the first row of a spec has its name."""
