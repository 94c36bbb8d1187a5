"""How a session is loaded: ready to run as fast as it can, or ready at once.

onnxruntime brings the weights of a session into the order that its kernels read fastest and computes what is constant,
a transposed table of a vocabulary above all: copies of nearly all weights. `instant` leaves them where they are, mapped
from the build's file and shared by every process that has it open. GPT-2 small on two cores: 0.06 s in place of 0.7 s,
3 MB of memory of its own in place of 475 MB. The first step reads the file; later ones may be slower than prepared
ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import onnxruntime

Load = Literal["full", "instant"]


def settings(load: Load, options: onnxruntime.SessionOptions | None) -> dict[str, Any]:
    """Arguments of `InferenceSession`; `options` are changed for `instant`."""
    import onnxruntime

    if load == "full":
        return {"sess_options": options}
    options = options or onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_prepacking", "1")
    return {"sess_options": options, "disabled_optimizers": ["ConstantFolding"]}
