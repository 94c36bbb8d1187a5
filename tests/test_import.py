"""`specc import`: the spec of the zoo that a checkpoint is of, found by its config.json."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from specc import driver
from specc.syntax import ast
from specc_runtime.cli import cli
from specc_runtime.families import families
from specc_runtime.module import open_build

LLAMA = {
    "model_type": "llama", "vocab_size": 31, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 24, "max_position_embeddings": 32, "hidden_act": "silu",
    "rms_norm_eps": 1e-6, "attention_bias": False,
}  # fmt: skip


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A folder with a config.json and the weights of a small llama, which has the names of its files."""
    from specc_runtime.build import Request, build

    sets = {"vocab": "31", "dim": "16", "layers": "1", "heads": "4", "kv_heads": "2", "hidden": "24"}
    request = Request("llama", sets=sets, render=False, verify=False, emit=frozenset({"torch"}), out=tmp_path / "first")
    made = build(request)
    folder = tmp_path / "llama"
    folder.mkdir()
    (made.folder / "model.safetensors").rename(folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(LLAMA))
    return folder


@pytest.mark.parametrize("prefix", ["hf:", ""])
def test_import(prefix: str, checkpoint: Path, tmp_path: Path) -> None:
    words = ["import", f"{prefix}{checkpoint}", "--emit", "torch", "--no-verify", "--no-render", "-o"]
    done = CliRunner().invoke(cli, [*words, str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    record = open_build(tmp_path / "out").manifest
    assert record["model"] == "Llama" and "llama.spec" in record["spec"]["files"]
    assert record["weights"]["source"] == "llama" and record["weights"]["section"] == "hf:llama"
    assert record["hyperparameters"]["eps"] == 1e-6
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (checkpoint / "model.safetensors").read_bytes()
    assert str(tmp_path) not in json.dumps(record)


def refused(*words: str) -> str:
    done = CliRunner().invoke(cli, ["import", *words])
    assert done.exit_code == 1
    return done.output


def test_unknown_types(checkpoint: Path) -> None:
    config = checkpoint / "config.json"
    config.write_text(json.dumps({**LLAMA, "model_type": "lama"}))
    text = refused(str(checkpoint))
    assert text.startswith("error[W350]: no spec of the zoo reads `lama`")
    assert "bert" in text and "qwen3" in text and "the nearest name is `llama`" in text
    config.write_text(json.dumps({"vocab_size": 3}))
    assert "its config.json has no `model_type`" in refused(f"hf:{checkpoint}")
    config.unlink()
    assert "it has no config.json" in refused(str(checkpoint))
    assert "there is no checkpoint" in refused(f"hf:{checkpoint}x")


def test_every_section_is_found() -> None:
    """Searching the text gives what parsing gives, and no source is of two models."""
    found = families()
    assert len({f.source for f in found}) == len(found) > 10
    for path in {f.spec for f in found}:
        sections = [item for item in driver.open_project(path).file.tree.items if isinstance(item, ast.Weights)]
        parsed = {(s.model.id, t.value) for s in sections for t in s.sources if t.value.startswith("hf:")}
        assert parsed == {(f.model, f.source) for f in found if f.spec == path}
