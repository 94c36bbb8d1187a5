"""The same weights in every form in which checkpoints come: shards with an index, half precision, ties written out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import parity
import pytest

from specc_runtime.build import build

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file  # noqa: E402
from zoo import CASES  # noqa: E402

FAMILIES = [name for name, case in CASES.items() if case.from_transformers]


def stored(name: str, checkpoint: Path) -> dict[str, Any]:
    """The tensors of the build of a checkpoint; every one comes from there."""
    made = build(CASES[name].request(checkpoint, emit=frozenset({"torch"})))
    assert made.warnings == () and made.manifest["weights"]["fresh"] == []
    return dict(load_file(made.folder / "model.safetensors"))


def rounded(tensors: dict[str, Any], dtype: Any) -> dict[str, Any]:
    return {k: t.to(dtype).to(t.dtype) if t.is_floating_point() else t for k, t in tensors.items()}


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        np.testing.assert_array_equal(found[key].numpy(), tensor.numpy(), err_msg=key)


@pytest.mark.parametrize("name", FAMILIES)
def test_forms(name: str, tmp_path: Path) -> None:
    model = parity.randomised(CASES[name].reference())
    model.save_pretrained(tmp_path / "plain")
    plain = stored(name, tmp_path / "plain")

    # Every name of the live module: what is tied stands in the file twice.
    whole = {key: tensor.detach().clone().contiguous().half() if tensor.is_floating_point() else tensor.clone()
             for key, tensor in model.state_dict().items()}  # fmt: skip
    model.bfloat16().save_pretrained(tmp_path / "shards", max_shard_size="4KB")
    index = json.loads((tmp_path / "shards" / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) >= 2
    assert_same(stored(name, tmp_path / "shards"), rounded(plain, torch.bfloat16))

    names = set(load_file(tmp_path / "plain" / "model.safetensors"))
    if names <= whole.keys():  # else files name tensors otherwise than the module in memory does
        (tmp_path / "half").mkdir()
        save_file(whole, tmp_path / "half" / "model.safetensors", metadata={"format": "pt"})
        (tmp_path / "half" / "config.json").write_text((tmp_path / "plain" / "config.json").read_text())
        assert_same(stored(name, tmp_path / "half"), rounded(plain, torch.float16))
