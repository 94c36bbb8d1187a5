"""Mixtures of experts of the zoo against transformers: the same checkpoint, outputs, gradients and training loss."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import parity
import pytest

import specc
from specc import report
from specc.diagnostics import Rejected
from specc_runtime.build import Request, build

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import families  # noqa: E402 - it needs the two above
from families import assert_counts, masks, rope  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


class Family(families.Family):
    """One with experts."""

    def made(self, **config: Any) -> Any:
        """transformers' model with random values everywhere."""
        full = self.config(**{**self.small, **config}, attn_implementation="eager")
        model = parity.randomised(self.model(full))
        with torch.no_grad():  # experts are stacked in memory: one of them has the scale of its own matrix
            for tensor in model.state_dict().values():
                if tensor.dim() == 3:
                    tensor.mul_(tensor.shape[1] ** 0.5)
        return model


SMALL = {
    "vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 32, "num_experts_per_tok": 2, "bos_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
MIXTRAL = Family(
    "mixtral",
    transformers.MixtralConfig,
    transformers.MixtralForCausalLM,
    {**SMALL, "intermediate_size": 40, "num_local_experts": 4},
)
QWEN3_MOE = Family(
    "qwen3_moe",
    transformers.Qwen3MoeConfig,
    transformers.Qwen3MoeForCausalLM,
    {**SMALL, "head_dim": 16, "intermediate_size": 40, "moe_intermediate_size": 24, "num_experts": 6},
)
CASES = [
    pytest.param(MIXTRAL, {}, id="mixtral"),
    pytest.param(MIXTRAL, {"sliding_window": 4, "tie_word_embeddings": True, "head_dim": 6}, id="mixtral-sliding"),
    pytest.param(MIXTRAL, {"num_local_experts": 3, "num_experts_per_tok": 1, "hidden_act": "gelu"}, id="mixtral-top1"),
    pytest.param(MIXTRAL, {"num_local_experts": 3, "num_experts_per_tok": 3}, id="mixtral-all"),
    pytest.param(MIXTRAL, {"num_local_experts": 1, "num_experts_per_tok": 1}, id="mixtral-one"),
    pytest.param(QWEN3_MOE, {"norm_topk_prob": True, "num_experts_per_tok": 3}, id="qwen3_moe"),
    pytest.param(QWEN3_MOE, {"mlp_only_layers": [0], "attention_bias": True}, id="qwen3_moe-dense"),
    pytest.param(
        QWEN3_MOE, {"decoder_sparse_step": 2, "use_sliding_window": True, "sliding_window": 4}, id="qwen3_moe-step"
    ),
]


def feeds(case: parity.Parity, batch: int, length: int) -> Iterator[tuple[dict[str, Any], dict[str, Any], Any]]:
    """Inputs, transformers' outputs, and the rows to compare."""
    rng = np.random.default_rng(batch * 100 + length)
    ids = rng.integers(0, 61, (batch, length))
    for mask in masks(batch, length):
        given, theirs = {"input_ids": ids}, {"input_ids": torch.from_numpy(ids)}
        if mask is not None:
            given["attention_mask"] = mask
            theirs["attention_mask"] = torch.from_numpy(mask).long()
            theirs["position_ids"] = torch.from_numpy(np.maximum(mask.cumsum(-1) - 1, 0))
        with torch.no_grad():
            made = case.model(**theirs, use_cache=False, output_router_logits=True)
        rows = ... if mask is None else mask
        assert_no_ties(case.model.config, made.router_logits, rows)
        yield given, {"logits": made.logits.numpy()}, rows


def assert_no_ties(config: Any, router_logits: Any, rows: Any) -> None:
    """No choice of an expert hangs on the last bits: another order of sums may not choose another."""
    for logits in router_logits:
        ordered = logits.sort(-1, descending=True).values[:, : config.num_experts_per_tok + 1]
        if ordered.shape[1] > config.num_experts_per_tok:
            gap = (ordered[:, -2] - ordered[:, -1])[torch.from_numpy(rows).flatten() if rows is not ... else ...]
            assert float(gap.min()) > 1e-4


@pytest.mark.parametrize(("family", "config"), CASES)
def test_outputs(family: Family, config: dict[str, Any], tmp_path: Path) -> None:
    case = parity.built(family.spec, family.made(**config), tmp_path)
    for batch, length in ((1, 1), (3, 9), (1, 31)):
        for given, expected, rows in feeds(case, batch, length):
            case.check(given, expected, {"logits": rows})
    if "num_experts_per_tok" in config:
        given, _, _ = next(feeds(case, 2, 7))
        assert_gradients(case, given)
        case.check_compiles(given)


def unstacked(name: str, tensor: Any) -> list[Any]:
    """The matrices of a parameter of transformers as files hold them."""
    if tensor.dim() < 3:
        return [tensor]
    return [part for expert in tensor for part in (expert.chunk(2) if "gate_up" in name else [expert])]


def assert_gradients(case: parity.Parity, given: dict[str, Any]) -> None:
    """Every parameter has transformers' gradient, those of experts that no token chose too: zero."""
    tensors = {name: torch.from_numpy(array) for name, array in given.items()}
    loss = []
    for module in (case.module, case.model):
        module.zero_grad()
        result = module(**tensors)
        result = result if module is case.module else result.logits
        loss.append((result * torch.linspace(-1, 2, result.numel()).reshape(result.shape)).sum())
        loss[-1].backward()
    ours = {p.detach().numpy().tobytes(): p.grad for p in case.module.parameters()}
    theirs: dict[bytes, Any] = {}
    for name, parameter in case.model.named_parameters():
        for part, grad in zip(unstacked(name, parameter.detach()), unstacked(name, parameter.grad), strict=True):
            theirs[part.contiguous().numpy().tobytes()] = grad
    assert ours.keys() == theirs.keys()
    scale = max(float(grad.abs().max()) for grad in theirs.values())
    for key, grad in theirs.items():
        torch.testing.assert_close(ours[key], grad, rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize("family", [MIXTRAL, QWEN3_MOE], ids=lambda family: family.spec)
def test_experts_that_no_token_chooses(family: Family, tmp_path: Path) -> None:
    """One token leaves most experts without rows, in training as in both programs."""
    case = parity.built(family.spec, family.made(), tmp_path)
    given = {"input_ids": np.array([[7]])}
    assert_gradients(case, given)
    idle = [p.grad for n, p in case.module.named_parameters() if "experts" in n and not p.grad.any()]
    experts = family.made().config.num_local_experts
    assert len(idle) == 2 * (experts - 2) * 3, "three matrices of each expert but two, in two layers"


@pytest.mark.parametrize("family", [MIXTRAL, QWEN3_MOE], ids=lambda family: family.spec)
def test_load_balance(family: Family, tmp_path: Path) -> None:
    """The training-only loss is transformers' of each layer, and no graph has it."""
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    case = parity.built(family.spec, family.made(router_aux_loss_coef=0.5), tmp_path)
    ids = torch.arange(14).reshape(2, 7)
    config = case.model.config
    with torch.no_grad():
        logits = case.model(ids, output_router_logits=True).router_logits
    case.module.train()(ids)
    layers = [m for m in case.module.modules() if getattr(m, "aux", None)]
    found = [m.aux["load_balance"] for m in layers]
    expected = [
        load_balancing_loss_func((one,), config.num_local_experts, config.num_experts_per_tok) for one in logits
    ]
    torch.testing.assert_close(torch.stack(found), 0.5 * torch.stack(expected))
    sum(found).backward()
    assert all(m.gate.weight.grad.any() for m in layers)
    assert not [n.name for n in case.session.get_outputs() if n.name != "logits"]


# ---- config.json -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "changes", "shown"),
    [
        (MIXTRAL, {"router_jitter_noise": 0.1}, "router_jitter_noise"),
        (MIXTRAL, rope("dynamic"), "rope_type"),
        (MIXTRAL, {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        (MIXTRAL, {"shared_expert_intermediate_size": 64}, "shared_expert_intermediate_size"),
        (QWEN3_MOE, rope("dynamic"), "rope_type"),
        (QWEN3_MOE, {"hidden_act": "xielu"}, "xielu"),
        (QWEN3_MOE, {"shared_expert_intermediate_size": 64}, "shared_expert_intermediate_size"),
    ],
)
def test_refused(family: Family, changes: dict[str, Any], shown: str, tmp_path: Path) -> None:
    family.made().save_pretrained(tmp_path / "checkpoint")
    path = tmp_path / "checkpoint" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(Rejected) as refused:
        build(Request(family.spec, weights=str(path.parent), verify=False, render=False, out=tmp_path / "out"))
    assert shown in report.full(refused.value.diagnostics)


@pytest.mark.parametrize(("family", "config"), CASES[1:2] + CASES[5:])
def test_transformers_4(family: Family, config: dict[str, Any], tmp_path: Path) -> None:
    """Before version 5: `rope_theta`, `num_experts` of Qwen3, keys that are written at their defaults."""
    family.made(**config).save_pretrained(tmp_path / "checkpoint")
    path = tmp_path / "checkpoint" / "config.json"
    emit: frozenset[str] = frozenset()
    requests = [
        Request(family.spec, weights=str(path.parent), emit=emit, verify=False, render=False, out=tmp_path / name)
        for name in ("new", "old")
    ]
    first = build(requests[0]).manifest["hyperparameters"]
    found = json.loads(path.read_text())
    found["rope_theta"] = found.pop("rope_parameters")["rope_theta"]
    found["rope_scaling"] = None
    if family is QWEN3_MOE:
        found["num_experts"] = found.pop("num_local_experts")
        found["max_window_layers"] = 2
    path.write_text(json.dumps(found))
    assert build(requests[1]).manifest["hyperparameters"] == first


@pytest.mark.parametrize(
    ("family", "preset", "config"),
    [
        (MIXTRAL, "mixtral-8x7b", {}),
        (MIXTRAL, "mixtral-8x22b", {"hidden_size": 6144, "num_hidden_layers": 56, "num_attention_heads": 48,
                                    "intermediate_size": 16_384}),
        (QWEN3_MOE, "qwen3-30b-a3b", {"head_dim": 128, "num_hidden_layers": 48}),
        (QWEN3_MOE, "qwen3-235b-a22b", {"head_dim": 128, "num_hidden_layers": 94, "hidden_size": 4096,
                                        "num_attention_heads": 64, "moe_intermediate_size": 1536}),
    ],
)  # fmt: skip
def test_sizes(family: Family, preset: str, config: dict[str, Any]) -> None:
    assert_counts(family.spec, preset, family.model, family.config(**config))


def test_presets_have_the_published_numbers() -> None:
    assert specc.load("mixtral", preset="mixtral-8x7b").parameters == 46_702_792_704
    assert specc.load("qwen3_moe", preset="qwen3-30b-a3b").parameters == 30_532_122_624
