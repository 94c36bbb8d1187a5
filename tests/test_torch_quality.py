"""The emitted modules as torch users want them, every spec of the zoo: whole to torch.compile, exported with their own
dynamic sizes, trained as the reference is, right in half precision, made of the layers that tools look for.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import parity
import pytest

from specc_runtime import Build, open_build
from specc_runtime.build import build
from specc_runtime.inputs import Interface, Masks, draw
from specc_runtime.sizes import admissible

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.usefixtures("one_thread")
pytest.importorskip("transformers")
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402
from zoo import CASES, SPECS, Case  # noqa: E402 - it needs transformers

Tensors = dict[str, Any]


def once() -> list[Any]:
    """The names of one case of every spec; with the slow tests, of all."""
    return [pytest.param(n, marks=[] if n == case.spec else pytest.mark.slow) for n, case in CASES.items()]


@dataclass(frozen=True)
class Small:
    """A reference with random weights, and what specc built from its checkpoint."""

    case: Case
    reference: Any
    opened: Build
    folder: Path

    @cached_property
    def module(self) -> Any:
        return self.opened.module()

    def fresh(self) -> tuple[Any, Any]:
        """Copies of both, for a test that changes them."""
        return copy.deepcopy(self.module), copy.deepcopy(self.reference)

    def inputs(self, entry: str = "forward", least: int = 3, masks: Masks = "all true") -> Tensors:
        """Arguments by name, at sizes from `least` up, all distinct where the model's facts admit it."""
        of = self.opened.interface(entry)
        sizes = admissible(of, {name: least + 2 * i for i, name in enumerate(of.dims)})
        assert sizes is not None
        feeds = draw(of, sizes, masks=masks)
        return {i.argument: torch.from_numpy(feeds[i.name]) for i in of.inputs}

    def referred(self, model: Any, given: Tensors) -> Any:
        """The reference's result for the output that is compared."""
        theirs = {k: v.long() if v.dtype == torch.bool and self.case.from_transformers else v for k, v in given.items()}
        found = model(**theirs, **self.case.options)
        return found if isinstance(found, torch.Tensor) else found[self.compared(self.opened.interface())]

    @staticmethod
    def compared(of: Interface) -> str:
        return next((o.name for o in of.outputs if o.name.startswith("logits")), of.outputs[0].name)

    def ours(self, module: Any, given: Tensors) -> Any:
        of = self.opened.interface()
        return dict(zip([o.name for o in of.outputs], listed(module(**given)), strict=True))[self.compared(of)]

    def imported(self, model: Any, name: str) -> Tensors:
        """A model of the reference's class as the spec's state_dict: by the map that imports checkpoints."""
        from safetensors.torch import load_file

        folder = self.folder / name
        self.case.save(model, folder)
        made = build(self.case.request(folder, emit=frozenset()))
        return dict(load_file(made.folder / "model.safetensors"))


def listed(result: Any) -> tuple[Any, ...]:
    return result if isinstance(result, tuple) else (result,)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The small model of a name, made once."""
    made: dict[str, Small] = {}

    def get(name: str) -> Small:
        if name not in made:
            case, folder = CASES[name], tmp_path_factory.mktemp(name)
            model = parity.randomised(case.reference())
            case.save(model, folder)
            result = build(case.request(folder, emit=frozenset({"torch"}), entries=None))
            made[name] = Small(case, model, open_build(result.folder), folder)
        return made[name]

    return get


def test_every_spec_has_a_case() -> None:
    assert {case.spec for case in CASES.values()} == {path.stem for path in SPECS.glob("*.spec")}


# ---- compile, export -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", once())
def test_compiles_whole(name: str, small: Any) -> None:
    """The model is one graph, which takes other sizes as well if it is compiled for sizes that vary.

    But where there is a convolution, as torch compiles `nn.Conv2d` itself again for another batch, or a scan, which it
    unrolls.
    """
    case = small(name)
    varies = name == "mamba" or any(isinstance(part, (nn.Conv1d, nn.Conv2d)) for part in case.module.modules())
    torch.compiler.reset()
    whole = torch.compile(case.module, fullgraph=True, backend="eager", dynamic=True)
    for least, stance in ((3, "default"), (6, "default" if varies else "fail_on_recompile")):
        given = case.inputs(least=least)
        with torch.no_grad(), torch.compiler.set_stance(stance):
            torch.testing.assert_close(whole(**given), case.module(**given), rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "keyword"])
def test_inductor(name: str, small: Any) -> None:
    """torch.compile's own backend, training included: losses and gradients are those of eager mode."""
    case = small(name)
    given = case.inputs()
    torch.compiler.reset()
    found = []
    for module in (case.fresh()[0], torch.compile(case.fresh()[0], fullgraph=True)):
        loss(case.ours(module, given)).backward()
        found.append([p.grad for p in module.parameters()])
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-4)


ONE_WITHIN = {"unet", "swin", "wav2vec2"}
"""At their smallest inputs a size within is 1 (a pixel, a window, a frame), which torch keeps apart from all others."""


@pytest.mark.parametrize("name", once())
def test_exports_with_its_sizes_dynamic(name: str, small: Any) -> None:
    """One program for all sizes, smallest and larger, equal to the module."""
    case = small(name)
    for entry in case.opened.manifest["entries"]:
        program = case.opened.exported(entry).module()
        for least in (20, 31) if name in ONE_WITHIN else (1, 6, 13):
            given = case.inputs(entry, least, "random")
            with torch.no_grad():
                found, expected = listed(program(**given)), listed(getattr(case.module, entry)(**given))
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


# ---- training --------------------------------------------------------------------------------------------------------


def loss(result: Any) -> Any:
    """A scalar that no symmetry makes stationary."""
    return (result * torch.linspace(-1, 2, result.numel()).reshape(result.shape)).sum()


@pytest.mark.parametrize("name", CASES)
def test_gradients(name: str, small: Any) -> None:
    """Every parameter's gradient is the reference's within 1e-4 of its largest element.

    The reference's gradients are written as a checkpoint and imported: what maps weights maps them. A gradient that is
    zero in exact arithmetic (of a key's bias) is rounding on both sides, hence the floor under the scale. What the
    reference never trains (Whisper's table of positions) has none to compare.
    """
    case = small(name)
    ours, theirs = case.fresh()
    given = case.inputs()
    for model, run in ((ours, case.ours), (theirs, case.referred)):
        model.zero_grad()
        loss(run(model, given)).backward()
    with torch.no_grad():
        for parameter in theirs.parameters():
            unused = torch.full_like(parameter, 0.0 if parameter.requires_grad else torch.nan)
            parameter.copy_(unused if parameter.grad is None else parameter.grad)
    expected = case.imported(theirs, "gradients")
    floor = 1e-3 * max(float(p.grad.abs().max()) for p in ours.parameters() if p.grad is not None)
    for key, parameter in ours.named_parameters():
        if expected[key].isnan().all():
            continue
        found = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        scale = max(float(expected[key].abs().max()), floor)
        assert float((found - expected[key]).abs().max()) <= 1e-4 * scale, key
    assert floor > 0


def marked(x: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """In place of dropout: not random, no symmetry, and different for every probability."""
    return x + p * torch.sin(3 * x) if training and p else x


def attention(
    query: Any, key: Any, value: Any, attn_mask: Any = None, dropout_p: float = 0.0, is_causal: bool = False,
    scale: float | None = None, enable_gqa: bool = False,
) -> Any:  # fmt: skip
    """F.scaled_dot_product_attention with `marked` where its dropout is."""
    if enable_gqa:
        key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (key, value))
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
    return marked(scores.softmax(dim=-1), dropout_p) @ value


@pytest.mark.parametrize("name", CASES)
def test_training_mode(name: str, small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout acts where the reference's does, with its probability: both give the same with a function in its place.

    Dropped paths draw one number for each sample: both draw the same.
    """
    case = small(name)
    ours, theirs = (model.train() for model in case.fresh())
    given = case.inputs()
    monkeypatch.setattr(functional, "dropout", marked)
    monkeypatch.setattr(functional, "scaled_dot_product_attention", attention)
    monkeypatch.setattr(torch, "bernoulli", lambda p: (p + 0.375).floor())
    monkeypatch.setattr(torch, "rand", lambda *size, **options: torch.full(*size, 0.375, **options))
    with torch.no_grad():
        found, expected = case.ours(ours, given), case.referred(theirs, given)
        quiet = case.referred(theirs.eval(), given)
    scale = max(1.0, float(expected.abs().max()))
    assert float((found - expected).abs().max()) <= 2 * parity.LIMIT * scale
    acts = any(getattr(p, "p", 0) for p in theirs.modules() if isinstance(p, nn.Dropout)) or "resnet" in name
    assert not acts or float((expected - quiet).abs().max()) > 1e-3


@pytest.mark.parametrize("name", CASES)
def test_modes(name: str, small: Any) -> None:
    """Eval mode repeats itself; train mode does not where something is dropped."""
    case = small(name)
    module, _ = case.fresh()
    given = case.inputs()
    with torch.no_grad():
        once, twice = case.ours(module, given), case.ours(module, given)
        assert torch.equal(once, twice)
        module.train()
        once, twice = case.ours(module, given), case.ours(module, given)
    drops = any(value for key, value in case.opened.manifest["hyperparameters"].items() if "drop" in key)
    assert torch.equal(once, twice) != drops


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.spec in ("resnet", "keyword")])
def test_running_statistics(name: str, small: Any) -> None:
    """After two steps of training every number is the reference's, statistics and counters included."""
    case = small(name)
    ours, theirs = (model.train() for model in case.fresh())
    for model, run in ((ours, case.ours), (theirs, case.referred)):
        optimiser = torch.optim.SGD(model.parameters(), lr=1e-4)
        for least in (3, 5):
            optimiser.zero_grad()
            loss(run(model, case.inputs(least=least))).backward()
            optimiser.step()
    expected = case.imported(theirs, "trained")
    buffers = dict(ours.named_buffers())
    assert any(key.endswith("running_var") for key in buffers)
    for key, value in ours.state_dict().items():
        torch.testing.assert_close(value, expected[key], rtol=1e-4, atol=1e-5, msg=lambda text, key=key: key + text)
        if key.endswith("num_batches_tracked"):
            assert value == 9  # 7 in the checkpoint


# ---- half precision --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "f16"])
@pytest.mark.parametrize("name", CASES)
def test_half_precision(name: str, dtype: Any, small: Any) -> None:
    """`module.to(dtype)` takes inputs of that type and stays near float32: within 16 roundings of the largest output.

    A rounding is 2**-8 of a number in bf16 and 2**-11 in f16; errors of a chain of layers add up like a random walk.
    """
    case = small(name)
    module = copy.deepcopy(case.module).to(dtype)
    given = case.inputs(masks="random")
    halves = {k: v.to(dtype) if v.is_floating_point() else v for k, v in given.items()}
    with torch.no_grad():
        found, expected = case.ours(module, halves), case.ours(case.module, given)
    assert found.dtype == dtype and bool(found.isfinite().all())
    scale = max(1.0, float(expected.abs().max()))
    assert float((found.float() - expected).abs().max()) <= 16 * torch.finfo(dtype).eps / 2 * scale


# ---- layers that tools find ------------------------------------------------------------------------------------------

MATRICES = (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d)
LAYERS = (*MATRICES, nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.BatchNorm1d, nn.BatchNorm2d)
OWN = {"Conv1D": "Linear", "CausalConv1d": "Conv1d", "WeightNormConv1d": "Conv1d", "DeepseekGate": "Linear"}
"""transformers' transposed Linear; convolutions that no class of torch is: padded left alone, a weight in factors; a
product in f32 whatever its weight is in.
"""
READ_WHOLE = {
    "whisper": {"model.encoder.embed_positions"},
    "clip": {"vision_model.embeddings.position_embedding"},
}
"""Tables of which a model reads every row: nothing to look up."""


@pytest.mark.parametrize("name", CASES)
def test_made_of_torch_layers(name: str, small: Any) -> None:
    """At least as many layers of each class as the reference has, and all are called: what wraps one acts.

    More where transformers stacks experts in one parameter.
    """
    case = small(name)
    module = case.module
    for owner in module.modules():
        weight = owner._parameters.get("weight")
        assert weight is None or weight.dim() < 2 or isinstance(owner, MATRICES) or type(owner).__name__ in OWN
    found = counted(module)
    for kind, count in counted(case.reference).items():
        assert found[kind] >= count, kind
    called: set[str] = set()
    layers = {key: part for key, part in module.named_modules() if isinstance(part, LAYERS)}
    hooks = [part.register_forward_hook(lambda *_, key=key: called.add(key)) for key, part in layers.items()]
    with torch.no_grad():
        module(**case.inputs())
    for hook in hooks:
        hook.remove()
    assert layers.keys() - called == READ_WHOLE.get(name, set())


def counted(model: Any) -> dict[str, int]:
    """Layers by class, those of other names as in `OWN`; embeddings that share a weight are one."""
    found: dict[str, set[int]] = {}
    for part in model.modules():
        kinds = [kind.__name__ for kind in MATRICES if isinstance(part, kind)]
        kinds += [OWN[type(part).__name__]] if type(part).__name__ in OWN else []
        for kind in kinds:
            found.setdefault(kind, set()).add(id(part.weight) if isinstance(part, nn.Embedding) else id(part))
    return {kind: len(weights) for kind, weights in found.items()}
