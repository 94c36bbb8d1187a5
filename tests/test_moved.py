"""`moved "old" -> "new"`, and W320 where such a line is missing: checkpoints written before a rename stay loadable."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path

import pytest
import torch
from building import specc
from safetensors.torch import load_file, save_file

from specc import driver
from specc.diagnostics import Rejected
from specc_runtime.build import Request, build

GOLDEN = Path(__file__).with_name("golden") / "moved"

OLD = """\
from std.nn import Linear
dim T

block Attention(dim: int) {
  c_attn: Linear(dim, 3*dim)
  c_proj: Linear(dim, dim)
  forward(x: Tensor[T, dim]) -> Tensor[T, dim] = c_proj(c_attn(x)[:, :dim])
}

model Net(dim: int = 4) {
  h:    [{ attn: Attention(dim) } for i in range(3)]
  head: Linear(dim, 7)
  param scale: Tensor[dim] = ones()
  forward(x: Tensor[T, dim]) -> Tensor[T, 7] {
    for b in h { x = b.attn(x) }
    return head(x * scale)
  }
}
"""

State = dict[str, torch.Tensor]


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A build of the model before any rename, in a folder with its spec."""
    (tmp_path / "old.spec").write_text(OLD)
    with chdir(tmp_path):
        build(Request("old.spec", out=tmp_path / "old", render=False, verify=False, emit=frozenset({"torch"})))
    return tmp_path


def load(folder: Path, text: str) -> State:
    """The weights that a build of this text takes from the old build."""
    (folder / "new.spec").write_text(text)
    with chdir(folder):
        options = {"render": False, "verify": False, "emit": frozenset({"torch"})}
        build(Request("new.spec", weights="old", out=folder / "new", **options))  # type: ignore[arg-type]
    return load_file(folder / "new" / "model.safetensors")


def renamed(*names: tuple[str, str], text: str = OLD) -> str:
    for before, after in names:
        text = re.sub(rf"\b{before}\b", after, text)
    return text


def check(folder: Path, text: str, *words: str) -> str:
    (folder / "new.spec").write_text(text)
    return specc("check", "new.spec", "--against", "old", *words, cwd=folder).stderr


def before(state: State, *names: tuple[str, str]) -> State:
    """The tensors by the names they had."""
    return {renamed(*((b, a) for a, b in names), text=name): tensor for name, tensor in state.items()}


def same(a: State, b: State) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# ---- moved -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "lines"),
    [
        ((("c_attn", "qkv"),), {"Attention": ['moved "c_attn" -> "qkv"']}),
        ((("c_attn", "qkv"),), {"Net": ['moved "h.{i}.attn.c_attn.*" -> "h.{i}.attn.qkv.*"']}),
        ((("c_attn", "qkv"),), {"Attention": ['moved "c_attn" -> "c_qkv"', 'moved "c_qkv" -> "qkv"']}),
        ((("h", "layers"), ("attn", "mixer"), ("c_attn", "qkv")),
         {"Net": ['moved "h.{i}.attn" -> "layers.{i}.mixer"'], "Attention": ['moved "c_attn" -> "qkv"']}),
        ((("scale", "gain"), ("head", "out")), {"Net": ['moved "scale" -> "gain"', 'moved "head" -> "out"']}),
    ],
    ids=["part", "pattern", "chain", "nested", "parameter"],
)  # fmt: skip
def test_moved(old: Path, names: tuple[tuple[str, str], ...], lines: dict[str, list[str]]) -> None:
    text = renamed(*names)
    for block, moves in lines.items():
        head = re.search(rf"(?:block|model) {block}\(.*\n", text)
        assert head is not None
        text = text[: head.end()] + "".join(f"  {line}\n" for line in moves) + text[head.end() :]
    state = load(old, text)
    assert same(before(state, *names), load_file(old / "old" / "model.safetensors"))
    assert check(old, text) == ""


def test_into_and_out_of_groups(old: Path) -> None:
    grouped = OLD.replace("  head: Linear(dim, 7)\n", '  moved "head" -> "top.head"\n  top: { head: Linear(dim, 7) }\n')
    grouped = grouped.replace("return head(", "return top.head(")
    state = load(old, grouped)
    first = load_file(old / "old" / "model.safetensors")
    assert torch.equal(state["top.head.weight"], first["head.weight"])
    save_file(state, old / "old" / "model.safetensors")
    assert same(load(old, OLD.replace("  head:", '  moved "top.head" -> "head"\n  head:')), first)


def test_a_new_checkpoint_still_loads(old: Path) -> None:
    """With the line, a file of either age is read; without a rename the line changes nothing."""
    text = renamed(("c_attn", "qkv")).replace("  qkv: ", '  moved "c_attn" -> "qkv"\n  qkv: ')
    state = load(old, text)
    save_file(state, old / "old" / "model.safetensors")
    assert same(load(old, text), state)


def test_two_names_for_one_tensor(old: Path) -> None:
    text = renamed(("head", "out")).replace("  out: ", '  moved "head" -> "out"\n  out: ')
    state = load_file(old / "old" / "model.safetensors")
    save_file({**state, "out.weight": state["head.weight"] + 1}, old / "old" / "model.safetensors")
    with pytest.raises(Rejected) as caught:
        load(old, text)
    assert [d.code for d in caught.value.diagnostics] == ["W312"]


# ---- W320 ------------------------------------------------------------------------------------------------------------


def test_a_rename_is_told(old: Path, golden: Callable[[Path, str], None]) -> None:
    text = renamed(("c_attn", "qkv"))
    golden(GOLDEN / "W320_part.txt", check(old, text))
    with pytest.raises(Rejected) as caught, chdir(old):
        build(Request("new.spec", weights="old", out=old / "new", render=False, verify=False))
    assert [d.code for d in caught.value.diagnostics] == ["W320"] and not (old / "new").exists()
    assert "fixed new.spec: W320" in check(old, text, "--fix")
    fixed = (old / "new.spec").read_text()
    assert '  moved "c_attn" -> "qkv"\n  qkv: Linear(dim, 3*dim)\n' in fixed
    assert same(before(load(old, fixed), ("c_attn", "qkv")), load_file(old / "old" / "model.safetensors"))


def test_several_renames_at_once(old: Path) -> None:
    names = (("h", "layers"), ("attn", "mixer"), ("c_attn", "qkv"), ("scale", "gain"), ("head", "out"))
    check(old, renamed(*names), "--fix")
    fixed = (old / "new.spec").read_text()
    assert not [d for d in driver.check(old / "new.spec") if d.severity == "error"]
    assert same(before(load(old, fixed), *names), load_file(old / "old" / "model.safetensors"))


def test_a_rename_in_a_block_on_one_line(old: Path) -> None:
    text = OLD.replace("[{ attn: Attention(dim) } for i in range(3)]", "[Layer(dim) for i in range(3)]")
    text = text.replace("model Net", "block Layer(dim: int) { mixer: Attention(dim); forward(x: Tensor[T, dim]) -> "
                        "Tensor[T, dim] = mixer(x) }\n\nmodel Net").replace("b.attn(x)", "b(x)")  # fmt: skip
    check(old, text, "--fix")
    fixed = (old / "new.spec").read_text()
    assert 'block Layer(dim: int) { moved "attn" -> "mixer"; mixer: Attention(dim);' in fixed
    assert load(old, fixed)


def test_what_shapes_cannot_tell(old: Path, golden: Callable[[Path, str], None]) -> None:
    """Two parts of one shape with new names: either could be the other, so nothing is offered as a fix."""
    twins = OLD.replace("c_attn: Linear(dim, 3*dim)", "a: Linear(dim, dim)").replace("c_proj", "b_")
    twins = twins.replace("c_attn(x)[:, :dim]", "a(x)")
    (old / "old.spec").write_text(twins)
    with chdir(old):
        build(Request("old.spec", out=old / "old", render=False, verify=False, emit=frozenset({"torch"})))
    text = renamed(("a", "first"), ("b_", "second"), text=twins)
    golden(GOLDEN / "W320_doubt.txt", check(old, text))
    assert check(old, text, "--fix") and (old / "new.spec").read_text() == text


def test_what_no_rename_explains(old: Path) -> None:
    wider = check(old, renamed(("c_attn", "qkv")).replace("Linear(dim, 3*dim)", "Linear(dim, 4*dim)"))
    assert "W320" not in wider and "W311" in wider
    assert "W320" not in check(old, OLD.replace("3)]", "2)]"))
    assert check(old, OLD) == ""
    assert "E006" in specc("check", "old.spec", "--against", "nowhere", cwd=old).stderr


def test_two_files_against_one(old: Path) -> None:
    (old / "two.spec").write_text(OLD)
    assert specc("check", "old.spec", "two.spec", "--against", "old", cwd=old).returncode == 2


def test_names_of_blocks_that_are_imported(old: Path) -> None:
    """The line goes where the block is written."""
    block, model = OLD.split("model Net")
    (old / "lib.spec").write_text(renamed(("c_attn", "qkv"), text=block))
    text = f'from std.nn import Linear\nfrom "./lib.spec" import Attention\ndim T\n\nmodel Net{model}'
    assert "fixed lib.spec: W320" in check(old, text, "--fix")
    assert 'moved "c_attn" -> "qkv"' in (old / "lib.spec").read_text()
    assert load(old, text)
