"""Texts that are checked as a spec, the imports of a head before them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from specc import driver
from specc.diagnostics import Rejected
from specc.driver import Checked
from specc.ir import members

HEAD = "from std.nn import Linear, LayerNorm, Embedding, RMSNorm\ndim B, T, S = past(T) + T\n"
IDENTITY = "forward(x: Tensor[B, T]) -> Tensor[B, T] = x"
Load = Callable[..., Checked]


def loading(folder: Path) -> Load:
    """Checks a text as `main.spec` of the folder; `files` lie beside it."""

    def run(text: str, *, files: Mapping[str, str] | None = None, head: str = HEAD, **options: Any) -> Checked:
        for name, content in (files or {}).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(content, encoding="utf-8")
        path = folder / "main.spec"
        path.write_text(head + text, encoding="utf-8")
        return driver.load(path, **options)

    return run


def codes(load: Load, text: str, **options: Any) -> list[str]:
    with pytest.raises(Rejected) as caught:
        load(text, **options)
    return [d.code for d in caught.value.diagnostics]


def hypers(checked: Checked) -> dict[str, Any]:
    return {h.name: h.value for h in checked.model.module.hypers}


def names(checked: Checked) -> list[str]:
    return list(members.parameters(checked.model.module))
