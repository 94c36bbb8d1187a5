"""What fits into memory: terms held against a training step that runs, sizes that are solved for, devices."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from specc import driver
from specc.diagnostics import Rejected
from specc.inspect.devices import DEVICES, device
from specc.inspect.fit import LIMIT, Fit, Setup, fit, parse_bytes
from specc.ir.graph import Model
from specc.quantisation import Scheme

SPECS = Path(__file__).resolve().parents[1] / "specs"
GPT2 = {"dim": "192", "layers": "4", "heads": "6", "vocab": "2000", "context": "128", "dropout": "0.0"}
LLAMA = {"dim": "192", "layers": "4", "heads": "6", "kv_heads": "2", "hidden": "512", "vocab": "2000"}
ALL = 10**15


def model(name: str, sets: Mapping[str, str] | None = None) -> Model:
    return driver.load(SPECS / f"{name}.spec", sets=dict(sets or {})).model


def solved(of: Model, budget: int, at: Mapping[str, int], **setup: Any) -> Fit:
    return fit(of, "forward", of.entries["forward"].full, budget, at, Setup(**setup))


# ---- a training step -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("name", "sets", "at", "optimizer", "checkpointing"),
    [
        ("gpt2", GPT2, {"B": 2, "T": 128}, "adamw", False),
        ("gpt2", GPT2, {"B": 2, "T": 128}, "adamw", True),
        ("llama", LLAMA, {"B": 2, "T": 96}, "adam", False),
        pytest.param("resnet", {}, {"B": 2, "Y": 64, "X": 64}, "momentum", False, marks=pytest.mark.slow),
    ],
)
def test_memory_of_a_training_step(
    name: str, sets: Mapping[str, str], at: dict[str, int], optimizer: str, checkpointing: bool
) -> None:
    """The second step (of the first one the optimiser's numbers are not there yet), in the order of `specc train`:
    forward, gradients of the step before dropped, backward, update. Within 15% of the most that tensors take at once.
    """
    torch = pytest.importorskip("torch")
    import measured

    from specc.backends.torch.export import emit

    of = model(name, sets)
    namespace: dict[str, Any] = {}
    exec(compile(emit(of), "model.py", "exec"), namespace)
    module = namespace[of.module.name]().train()
    feeds, target = made(torch, name, at)
    kinds = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}
    updates = kinds[optimizer](module.parameters()) if optimizer in kinds else None
    updates = updates or torch.optim.SGD(module.parameters(), momentum=0.9)
    if checkpointing:
        for block in module.h:
            again(torch, block)

    def step() -> None:
        result = module(**feeds)
        logits = result.flatten(0, -2)
        loss = torch.nn.functional.cross_entropy(logits, target)
        updates.zero_grad()
        loss.backward()
        updates.step()

    step()
    states = [v for s in updates.state.values() for v in s.values() if isinstance(v, torch.Tensor)]
    held = [*module.parameters(), *module.buffers(), *states, *feeds.values(), target]
    live = measured.Live([*held, *(p.grad for p in module.parameters() if p.grad is not None)])
    with live:
        step()
    found = solved(of, ALL, at, optimizer=optimizer, checkpointing=checkpointing)
    assert found.bytes == pytest.approx(live.peak, rel=0.15)


@pytest.mark.parametrize(
    ("name", "sets", "at"),
    [
        ("gpt2", GPT2, {"B": 4, "T": 128}),
        ("llama", LLAMA, {"B": 2, "T": 96}),
        ("resnet", {}, {"B": 2, "Y": 64, "X": 64}),
    ],
)
def test_memory_of_inference(name: str, sets: Mapping[str, str], at: dict[str, int]) -> None:
    """A value is counted until its last use. Eager torch holds a local until it is assigned again or its method ends,
    so that it takes as much or more, up to a third.
    """
    torch = pytest.importorskip("torch")
    import measured

    from specc.backends.torch.export import emit

    of = model(name, sets)
    namespace: dict[str, Any] = {}
    exec(compile(emit(of), "model.py", "exec"), namespace)
    module, (feeds, _) = namespace[of.module.name]().eval(), made(torch, name, at)
    live = measured.Live([*module.parameters(), *module.buffers(), *feeds.values()])
    held = live.bytes
    with torch.no_grad(), live:
        module(**feeds)
    terms = {term: size for term, _, size in solved(of, ALL, at).terms}
    assert 0.7 * (live.peak - held) < terms["activations"] < 1.01 * (live.peak - held)


def made(torch: Any, name: str, at: dict[str, int]) -> tuple[dict[str, Any], Any]:
    """Inputs, and classes to learn."""
    if name == "resnet":
        return {"pixel_values": torch.randn(at["B"], 3, at["Y"], at["X"])}, torch.arange(at["B"])
    ids = torch.randint(0, 2000, (at["B"], at["T"]))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids, dtype=torch.bool)}, ids.flatten()


def again(torch: Any, block: Any) -> None:
    """The block keeps its inputs alone."""
    forward = block.forward
    block.forward = lambda *args: torch.utils.checkpoint.checkpoint(forward, *args, use_reentrant=False)


# ---- solving ---------------------------------------------------------------------------------------------------------


def test_the_largest_size_fits_and_the_next_does_not() -> None:
    of = model("gpt2")
    for setup in ({}, {"dtype": "bf16"}, {"optimizer": "adamw"}, {"optimizer": "sgd", "checkpointing": True}):
        found = solved(of, 24 * 2**30, {"T": 1024}, **setup)
        assert found.free == "B" and found.found is not None and found.next is not None
        assert found.bytes <= 24 * 2**30 < found.next[1] and found.next[0] == found.found + 1
        assert solved(of, 24 * 2**30, {"T": 1024, "B": found.found}, **setup).bytes == found.bytes


def test_what_the_model_promises_ends_the_search() -> None:
    found = solved(model("gpt2"), 24 * 2**30, {"B": 1})
    assert (found.free, found.found, found.limit) == ("T", 1024, "The model promises T <= 1024")
    assert "memory is not what limits it" in str(found)


def test_more_memory_than_anybody_has_is_not_said_to_be_too_little() -> None:
    found = solved(model("mlp"), 10**30, {})
    assert (found.found, found.next) == (LIMIT, None)
    assert "No size beyond" in str(found) and "would take" not in str(found)


def test_sizes_come_in_steps(tmp_path: Path) -> None:
    """A dim that must be a multiple is solved for in multiples."""
    (tmp_path / "m.spec").write_text(
        "dim B, T\nmodel M {\n  dim T % 8 == 0\n  forward(x: Tensor[B, T]) -> y: Tensor[B, T] = relu(x)\n}\n"
    )
    of = driver.load(tmp_path / "m.spec").model
    found = solved(of, 1000, {"B": 1})
    assert found.found is not None and found.found % 8 == 0 and found.bytes <= 1000
    assert found.next is not None and found.next[0] == found.found + 8


def test_nothing_fits() -> None:
    found = solved(model("llama"), 2**30, {"T": 1024})
    assert found.found is None and not found.fits and "Nothing fits: B = 1" in str(found)


def test_terms_shrink_as_they_should() -> None:
    of, at = model("gpt2"), {"B": 2, "T": 256}

    def terms(**setup: Any) -> dict[str, int]:
        return {name: size for name, _, size in solved(of, ALL, at, optimizer="adamw", **setup).terms}

    plain, lora, shared, kept = terms(), terms(lora=8), terms(devices=4), terms(checkpointing=True)
    count = 124_439_808
    assert plain["weights"] == plain["gradients"] == 4 * count and plain["optimizer"] == 8 * count
    # per block c_attn 768+2304, c_proj 768+768, c_fc and c_proj 768+3072 each, and the head
    adapters = 8 * (12 * (3072 + 1536 + 3840 + 3840) + 768 + 50257)
    assert lora["gradients"] == 4 * adapters and lora["weights"] == 4 * (count + adapters)
    assert shared["optimizer"] * 4 == plain["optimizer"] and shared["gathered"] > 0
    assert kept["activations"] < plain["activations"] / 3


def test_weights_in_few_bits_leave_room() -> None:
    of = model("llama")
    half, few = (
        solved(of, ALL, {"B": 1, "T": 128}, **s) for s in ({"dtype": "bf16"}, {"scheme": Scheme(4, head=True)})
    )
    assert few.terms[0][2] < half.terms[0][2] / 2


@pytest.mark.parametrize(
    ("at", "message"),
    [
        ({}, "--fit solves for one size, `B`, `T` are free"),
        ({"B": 1, "X": 2}, "forward has no dim `X`"),
        ({"T": 2048}, "T = 2048, B = 1: forward needs T <= 1024"),
    ],
)
def test_sizes_that_cannot_be_solved(at: dict[str, int], message: str) -> None:
    with pytest.raises(Rejected) as caught:
        solved(model("gpt2"), 2**30, at)
    assert [(d.code, d.message) for d in caught.value.diagnostics] == [("E009", message)]


@pytest.mark.parametrize(
    ("text", "size"), [("24GiB", 24 * 2**30), ("80GB", 80 * 10**9), ("1.5 TiB", 3 * 2**39), ("512mb", 512 * 10**6)]
)
def test_amounts_of_memory(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "lots", "0GB", "-1GB", "3 GiBs"])
def test_what_is_no_amount(text: str) -> None:
    with pytest.raises(Rejected, match="no amount of memory"):
        parse_bytes(text)


# ---- devices ---------------------------------------------------------------------------------------------------------


def test_the_table_of_devices() -> None:
    for name, one in DEVICES.items():
        assert name == name.lower() and one.source and not one.measured
        assert one.peak("f32") <= one.peak("bf16") == one.peak("f16")
    assert device("H200") is DEVICES["h200"]
    own = device("900GB/s, 125TFLOP/s")
    assert (own.bandwidth, own.peak("bf16"), own.memory) == (900e9, 125e12, None)


@pytest.mark.parametrize("text", ["h300", "900GB/s", "fast,125TFLOP/s", "0,1"])
def test_a_device_that_is_not_there(text: str) -> None:
    with pytest.raises(Rejected) as caught:
        device(text)
    assert [d.code for d in caught.value.diagnostics] == ["E009"]
