"""Files that are named where a spec is wanted: what they are, and which command takes them."""

from __future__ import annotations

_ZIP, _GGUF, _PICKLE = b"PK\x03\x04", b"GGUF", b"\x80"
_ONNX = b"\x08"  # the first field of a ModelProto, its IR version; then, in a model that says who made it, the name
_PRODUCER = b"\x12"
_PROTOCOLS = (b"\x02", b"\x03", b"\x04", b"\x05")
_TORCH = (".bin", ".pt", ".pth", ".ckpt")
_AS_WEIGHTS = "specc build FILE.spec --weights {name}"
_AS_SAFETENSORS = "from safetensors.torch import save_file; save_file(torch.load(FILE, weights_only=True), NEW)"


def told(name: str, head: bytes) -> tuple[str, str] | None:
    """What a file is and how to go on, by its name and first bytes (16 are enough); None for one that may be a spec."""
    suffix = name[name.rfind(".") :].lower() if "." in name else ""
    if suffix == ".safetensors" or (head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 30):
        return "a safetensors file with weights", _AS_WEIGHTS.format(name=name)
    if suffix == ".onnx" or (head[:1] == _ONNX and head[2:3] == _PRODUCER):
        return "an ONNX graph", f"specc view {name}      draws it"
    if head.startswith(_GGUF):
        return "a GGUF file with weights", "specc reads the safetensors file that its authors publish"
    if (suffix in _TORCH and head.startswith(_ZIP)) or (head[:1] == _PICKLE and head[1:2] in _PROTOCOLS):
        return "a checkpoint that torch pickled", _AS_SAFETENSORS
    if head.startswith(_ZIP):
        return "a zip archive", "name a spec that was in it"
    if suffix == ".json" and head.lstrip()[:1] in (b"{", b"["):
        return "JSON", "name a spec, or the folder of a build or checkpoint that it is of"
    return None
