"""specc compiles model specs to readable torch source and ONNX graphs.

    model = specc.load("gpt2.spec", preset="gpt2", dropout=0.0)
    print(model.inspect())
    model.torch_source(), model.onnx()

Importing it loads nothing else: names are resolved on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from specc.api import Model, SpecError, load
    from specc.diagnostics import Diagnostic

    __version__: str

__all__ = ["Diagnostic", "Model", "SpecError", "__version__", "load"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from specc.version import version

        value: Any = version()
    elif name == "Diagnostic":
        from specc.diagnostics import Diagnostic as value
    elif name in __all__:
        from specc import api

        value = getattr(api, name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
