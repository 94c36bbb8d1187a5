"""Builds as live objects: the module that trains and compiles, the session, and what is shared between them."""

from __future__ import annotations

import gc
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from building import content, make

from specc import report
from specc.diagnostics import Rejected
from specc_runtime import open_build
from specc_runtime.module import load_module
from specc_runtime.python_file import load_source

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpt2") / "out"
    make("gpt2", folder)
    return folder


def ids(length: int = 5) -> Any:
    return torch.arange(2 * length).reshape(2, length) % 60


def test_called_with_the_names_of_inputs(gpt2: Path) -> None:
    build = open_build(gpt2)
    module, session = build.module(), build.session()
    mask = torch.ones(2, 5, dtype=torch.bool)
    with torch.no_grad():
        expected = module(input_ids=ids(), attention_mask=mask)
        assert torch.equal(module(input_ids=ids()), module(ids(), None))
    assert {i.name for i in session.get_inputs()} == {"input_ids", "attention_mask"}
    [found] = session.run(["logits"], {"input_ids": ids().numpy(), "attention_mask": mask.numpy()})
    assert np.abs(expected.numpy() - found).max() <= 1e-5 * max(1, np.abs(found).max())


def test_ready_to_evaluate_and_to_train(gpt2: Path) -> None:
    module: Any = open_build(gpt2).module()
    assert not module.training
    assert all(p.requires_grad for p in module.parameters())
    before = content(gpt2)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    module.train()
    first = None
    for _ in range(5):
        loss = torch.nn.functional.cross_entropy(module(ids()).flatten(0, 1), ids().flatten())
        first = first or loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < first
    assert module.lm_head.weight is module.wte.weight
    assert content(gpt2) == before  # pages are copied when they are written to: the file stays
    with torch.no_grad():
        assert not torch.equal(open_build(gpt2).module()(ids()), module.eval()(ids()))


def test_tied_parameters_are_one(gpt2: Path) -> None:
    module: Any = open_build(gpt2).module()
    assert module.lm_head.weight is module.wte.weight
    assert len(list(module.parameters())) == len(module.state_dict()) - 1


def test_weights_are_mapped(gpt2: Path) -> None:
    """Every parameter's memory is the mapped file."""
    module: Any = open_build(gpt2).module()
    ranges = []
    with open("/proc/self/maps") as maps:
        for line in maps:
            if line.rstrip().endswith("model.safetensors"):
                low, _, high = line.split()[0].partition("-")
                ranges.append((int(low, 16), int(high, 16)))
    for name, parameter in module.named_parameters():
        assert any(low <= parameter.data_ptr() < high for low, high in ranges), name


def test_loading_again(gpt2: Path) -> None:
    """The same source is one Python module; every live module has parameters of its own."""
    one: Any = open_build(gpt2).module()
    two: Any = open_build(gpt2).module()
    assert type(one) is type(two) and one is not two
    with torch.no_grad():
        one.ln_f.weight.fill_(7.0)
        assert not bool((two.ln_f.weight == 7).any())
        assert torch.equal(two(ids()), open_build(gpt2).module()(ids()))
    assert not list(gpt2.rglob("__pycache__"))


def test_another_build_in_the_same_place(tmp_path: Path) -> None:
    """A live module outlives the build that it came from."""
    make("mlp", tmp_path / "out")
    old: Any = open_build(tmp_path / "out").module()
    x = torch.ones(3, 12)
    with torch.no_grad():
        before = old(image=x)
    make("mlp", tmp_path / "out", sets={"inputs": "12", "hidden": "[5]", "classes": "3"}, seed=1)
    new: Any = open_build(tmp_path / "out").module()
    gc.collect()
    with torch.no_grad():
        assert torch.equal(old(image=x), before)
        assert not torch.equal(new(image=x), before)
    assert type(old) is not type(new) and len(old.net) == 2 and len(new.net) == 1


def test_state_dict_and_pickle(gpt2: Path) -> None:
    module: Any = open_build(gpt2).module()
    other = type(module)()
    other.load_state_dict(module.state_dict())
    again = pickle.loads(pickle.dumps(module))
    with torch.no_grad():
        assert torch.equal(other.eval()(ids()), module(ids()))
        assert torch.equal(again(ids()), module(ids()))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt2", "gpt"])
def test_compiles(name: str, tmp_path: Path) -> None:
    make(name, tmp_path / "out")
    module = open_build(tmp_path / "out").module()
    torch._dynamo.reset()
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    with torch.no_grad():
        x = ids() % 50
        assert torch.allclose(compiled(input_ids=x), module(input_ids=x), atol=1e-5)


TABLES = """dim B
model M(n: int = 4) {
  BUFFER
  param w: Tensor[n] = zeros()
  forward(x: Tensor[B, n]) -> y: Tensor[B, n] = x * TABLE + w
}
"""


@pytest.mark.parametrize(
    ("buffer", "table", "stored"),
    [
        ("buffer t: Tensor[n] = ones()", "t", True),
        ("buffer t: Tensor[n] = constant(2.5)", "t", True),
        ("", "sum(sinusoidal(arange(n), 8), axis = -1)", False),
        ("", "cos(sum(sinusoidal(arange(n), 8), axis = -1))", False),
    ],
)
def test_tables(buffer: str, table: str, stored: bool, tmp_path: Path) -> None:
    """Buffers are stored; a table that depends on no input is computed, and comes out right all the same."""
    from specc_runtime.build import Request, build

    (tmp_path / "m.spec").write_text(TABLES.replace("BUFFER", buffer).replace("TABLE", table))
    build(Request(str(tmp_path / "m.spec"), out=tmp_path / "out", verify=False, render=False))
    opened = open_build(tmp_path / "out")
    module = opened.module()
    assert list(module.named_buffers()) and ({"t"} <= {*module.state_dict()}) == stored
    assert {*module.state_dict()} == ({"w", "t"} if stored else {"w"})
    assert not any(b.is_meta for b in module.buffers())
    x = torch.ones(2, 4)
    [found] = opened.session().run(None, {"x": x.numpy()})
    with torch.no_grad():
        assert np.abs(module(x=x).numpy() - found).max() <= 1e-5


@pytest.mark.parametrize("name", ["gpt", "transformer", "gpt2", "mlp"])
def test_loaded_equals_constructed(name: str, tmp_path: Path) -> None:
    """Loading onto the meta device gives the module that constructing and loading the usual way gives."""
    from safetensors.torch import load_file

    make(name, tmp_path / "out")
    opened = open_build(tmp_path / "out")
    loaded = opened.module()
    usual = type(loaded)().eval()
    absent = usual.load_state_dict(load_file(tmp_path / "out" / "model.safetensors"), strict=False)
    assert not absent.unexpected_keys and {k.split(".")[0] for k in absent.missing_keys} <= {"lm_head", "generator"}
    for (a, one), (b, two) in zip(loaded.named_buffers(), usual.named_buffers(), strict=True):
        assert a == b and torch.equal(one, two)
    for key, value in usual.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value)
    assert not any(t.is_meta for t in (*loaded.parameters(), *loaded.buffers()))


# ---- builds that somebody changed ------------------------------------------------------------------------------------


def refusal(call: Any, *args: Any) -> str:
    with pytest.raises(Rejected) as refused:
        call(*args)
    return report.full(refused.value.diagnostics)


def test_damaged_builds(tmp_path: Path) -> None:
    make("gpt2", tmp_path / "out")
    build = open_build(tmp_path / "out")
    source, weights = build.source, tmp_path / "out" / "model.safetensors"
    text, data = source.read_text(), weights.read_bytes()
    for broken in ("def (", "import nothing_of_this_name", "x = 1", text.replace("self.ln_f", "self.ln_g")):
        source.write_text(broken)
        assert "B660" in refusal(build.module)
    source.write_text(text)
    weights.write_bytes(data[:1000])
    assert "B660" in refusal(build.module)
    weights.unlink()
    assert "B660" in refusal(build.module)
    assert "B660" in refusal(build.session)
    weights.write_bytes(data)
    assert build.module() is not None and build.session() is not None
    assert "available: forward" in refusal(build.session, "decode")


def test_a_source_that_fails_is_not_kept(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("raise ValueError('no')\n")
    before = {*sys.modules}
    with pytest.raises(ValueError, match="no"):
        load_source(tmp_path / "bad.py")
    assert {*sys.modules} == before


def test_weights_of_another_model(gpt2: Path, tmp_path: Path) -> None:
    make("mlp", tmp_path / "out")
    shown = refusal(load_module, open_build(gpt2).source, tmp_path / "out" / "model.safetensors", "GPT2")
    assert "B660" in shown and "does not fit gpt2_tiny.py" in shown
