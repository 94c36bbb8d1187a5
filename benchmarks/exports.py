"""Graphs of one checkpoint by every exporter: each in a process of its own, timed, with the memory that it took."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.measuring import ROOT, SPECC

PEERS = Path(__file__).parent / "peers"
ENVIRONMENTS = ROOT / ".peers"
_OURS = """
import json, sys, time
import jsonschema, numpy, onnx
import specc.backends.onnx.buffers, specc_runtime.build, specc_runtime.cli.build, specc_runtime.weights_writer
from specc.op import operators
from specc_runtime.cli import main
operators()
sys.argv = ["specc", *sys.argv[1:]]
start = time.perf_counter()
code = main()
print()
print(json.dumps({"seconds": time.perf_counter() - start, "version": "this checkout"}))
sys.exit(code)
"""


@dataclass(frozen=True)
class Model:
    """A model that is compared: its spec, a checkpoint of random weights, how many positions it can read. `linkable`:
    whether the checkpoint has torch's layout, so that a graph can refer to its file."""

    name: str
    spec: Path
    checkpoint: Path
    context: int
    vocab: int
    width: int
    linkable: bool = True


@dataclass(frozen=True)
class Graph:
    """What an exporter made. `seconds` and `rss` (bytes) are of the whole process, `inside` is without imports."""

    name: str
    file: Path
    seconds: float
    inside: float
    rss: int
    version: str

    def nodes(self) -> int:
        import onnx

        return len(onnx.load(self.file, load_external_data=False).graph.node)

    def bytes(self) -> int:
        """Of the graph and of the files that it refers to."""
        import onnx
        from onnx.external_data_helper import ExternalDataInfo

        proto = onnx.load(self.file, load_external_data=False)
        beside = {
            ExternalDataInfo(tensor).location
            for tensor in proto.graph.initializer
            if tensor.data_location == onnx.TensorProto.EXTERNAL
        }
        return sum((self.file.parent / name).stat().st_size for name in {self.file.name, *beside})


@dataclass(frozen=True)
class Exporter:
    """`line` gives the command for a model, a file and what was made before; a cache in one buffer is `buffer`."""

    name: str
    line: Callable[[Model, Path, dict[str, Graph]], Sequence[object]]
    environment: str = ""
    buffer: bool = False
    made: str = "model.onnx"
    needs: tuple[str, ...] = field(default=())


def _peer(name: str, environment: str, script: str, *options: str, buffer: bool = False) -> Exporter:
    def line(model: Model, file: Path, before: dict[str, Graph]) -> Sequence[object]:
        filled = [option.format(context=model.context) for option in options]
        python = ENVIRONMENTS / environment / "bin" / "python" if environment else sys.executable
        return [python, PEERS / script, model.checkpoint, file, *filled]

    return Exporter(name, line, environment, buffer)


def _int8(source: str) -> Exporter:
    def line(model: Model, file: Path, before: dict[str, Graph]) -> Sequence[object]:
        return [sys.executable, PEERS / "int8.py", before[source].file, file]

    return Exporter(f"{source}, int8", line, needs=(source,))


def _ours(name: str, *options: str, made: str = "model.forward_cached.onnx") -> Exporter:
    def line(model: Model, file: Path, before: dict[str, Graph]) -> Sequence[object]:
        weights = model.checkpoint
        if "--link" in options and not model.linkable:  # the file of a build has torch's layout
            weights = _place(file.parent.parent, CONCAT) / "model.safetensors"
        filled = [option.format(context=model.context) for option in options]
        fixed = ["--without", "attention_mask", "--emit", "onnx", "--no-verify", "--no-render", "-o", file.parent]
        return [sys.executable, "-c", _OURS, "build", model.spec, "--weights", weights, *filled, *fixed]

    return Exporter(name, line, made=made)


CONCAT, STATIC, FORWARD, LINK = "specc concat", "specc static", "specc forward", "specc concat --link"
TORCH, TORCH_CACHE, GENAI = "torch.onnx", "torch.onnx + cache", "genai"
_STATIC_CACHE = ("--cache", "static={context}", "--opset", "24")
OURS = (_ours(CONCAT, "--cache", "concat"), _ours(STATIC, *_STATIC_CACHE))
# The checkpoint's own file is the weights of the build; where something has to change in it, that of an earlier build.
LINKED = (_ours(LINK, "--cache", "concat", "--link"),)
OTHERS = (
    _peer(TORCH, "", "torch_onnx.py"),
    _peer(TORCH_CACHE, "", "torch_onnx.py", "--cache"),
    _peer("optimum", "optimum", "optimum_onnx.py"),
    _peer("mobius", "mobius", "mobius_onnx.py"),
    _peer("mobius static", "mobius", "mobius_onnx.py", "--static={context}"),
    _peer(GENAI, "genai", "genai.py", buffer=True),
)
OURS_INT8, OURS_INT8_STATIC, OURS_INT4 = "specc int8", "specc int8 static", "specc int4"
TORCH_INT8, GENAI_INT4 = f"{TORCH_CACHE}, int8", "genai int4"
# The head too, as the peers do.
QUANTISED = (
    _ours(OURS_INT8, "--cache", "concat", "--quant", "int8:head", made="model.forward_cached.int8.onnx"),
    _ours(OURS_INT8_STATIC, *_STATIC_CACHE, "--quant", "int8:head", made="model.forward_cached.int8.onnx"),
    _ours(OURS_INT4, "--cache", "concat", "--quant", "int4:head", made="model.forward_cached.int4.onnx"),
    _int8(TORCH_CACHE),
    _peer(GENAI_INT4, "genai", "genai.py", "--precision=int4", buffer=True),
)


class Exports:
    """Graphs by exporter's name, and why there is none: kept in a folder, so that they need be made once only."""

    def __init__(self, model: Model, folder: Path) -> None:
        self.model, self.folder = model, folder
        self.graphs: dict[str, Graph] = {}
        self.missing: dict[str, str] = {}

    def make(self, exporters: Sequence[Exporter]) -> None:
        for exporter in exporters:
            if exporter.name not in self.graphs:
                self._make(exporter)

    def _make(self, exporter: Exporter) -> None:
        name = exporter.name
        folder = _place(self.folder, name)
        facts = folder / "facts.json"
        if facts.exists():
            kept = json.loads(facts.read_text())
            self.graphs[name] = Graph(name, folder / exporter.made, **kept)
            return
        if exporter.environment and not (ENVIRONMENTS / exporter.environment / ".ready").exists():
            self.missing[name] = "not installed: sh benchmarks/peers/setup.sh"
            return
        lacking = [need for need in exporter.needs if need not in self.graphs]
        if lacking:
            self.missing[name] = f"needs {lacking[0]}: {self.missing.get(lacking[0], 'not made')}"
            return
        folder.mkdir(parents=True, exist_ok=True)
        made = measured(exporter.line(self.model, folder / "model.onnx", self.graphs))
        if isinstance(made, str):
            self.missing[name] = made.replace(str(self.model.checkpoint), "checkpoint")[:100]
        elif not (folder / exporter.made).exists():
            self.missing[name] = f"wrote no {exporter.made}"
        else:
            self.graphs[name] = graph = Graph(name, folder / exporter.made, **made)
            facts.write_text(json.dumps({k: v for k, v in asdict(graph).items() if k not in ("name", "file")}))


def _place(folder: Path, exporter: str) -> Path:
    return folder / exporter.replace(" ", "_").replace(",", "")


def measured(line: Sequence[object]) -> dict[str, Any] | str:
    """What a process that ends with a line of JSON took: wall seconds, peak memory; or its last words."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    command = [sys.executable, "-S", str(PEERS / "timed.py"), *(str(word) for word in line)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    if found["status"]:
        return f"failed: {found['error'] or found['status']}"
    told = json.loads(found["last"])
    return {"seconds": found["seconds"], "inside": told["seconds"], "rss": found["rss"], "version": told["version"]}


def whole_build(model: Model, out: Path) -> Sequence[object]:
    """The command that a user gives."""
    fixed = ["--without", "attention_mask", "--emit", "onnx", "--no-verify", "--no-render", "-o", out]
    return [SPECC, "build", model.spec, "--weights", model.checkpoint, "--cache", "concat", *fixed]
