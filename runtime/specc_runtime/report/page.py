"""`specc view --report`: everything that is known of a model as one HTML file, which opens without a network.

The page holds what it shows, and its content policy lets it load nothing. Without JavaScript everything can be read;
the script lights lines of the source up and enlarges pictures.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

import specc
from specc.api import written
from specc_runtime.report import figures, source
from specc_runtime.report.figures import Fact
from specc_runtime.report.proof import Proof, proof
from specc_runtime.report.svg import inlined
from specc_runtime.report.training import Training, training
from specc_runtime.units import size

if TYPE_CHECKING:
    from onnx import ModelProto

    from specc_runtime.drawn.subject import Chosen


@dataclass(frozen=True)
class Pictures:
    """SVGs as Netron drew them: of the whole, and of blocks by name; or why there are none."""

    whole: bytes = b""
    blocks: Mapping[str, bytes] = field(default_factory=dict)
    missing: str = ""


@dataclass(frozen=True)
class Page:
    """What the template reads. What is empty has no section."""

    name: str
    kind: str
    doc: str = ""
    lead: Sequence[Fact] = ()
    texts: Sequence[source.Text] = ()
    rows: Sequence[figures.Row] = ()
    headings: Sequence[str] = ()
    unused: Sequence[tuple[str, str, str]] = ()
    at: str = ""
    totals: Sequence[Fact] = ()
    inputs: Sequence[Fact] = ()
    promises: Sequence[str] = ()
    hypers: Sequence[Fact] = ()
    picture: Markup | None = None
    blocks: Sequence[tuple[str, Markup]] = ()
    no_picture: str = ""
    proof: Proof | None = None
    unproved: bool = False
    training: Training | None = None
    graph: Sequence[Fact] = ()
    operators: Sequence[tuple[str, int]] = ()
    files: Sequence[Fact] = ()
    summary: str = ""


def page(chosen: Chosen, sizes: Mapping[str, int], pictures: Pictures, run: Path | None = None) -> bytes:
    """The file. `sizes`: what numbers are for, those left out as `specc bench` takes them; `run`: a run of training.

    Raises `Rejected`: what is wrong with the spec or the build, E009 for sizes, B660 for a run that is none.
    """
    if chosen.file is not None:
        content = _of_file(chosen, sizes)
    elif chosen.lost:
        content = _of_record(chosen) | _of_build(chosen)
    else:
        content = _of_spec(chosen, sizes) | (_of_build(chosen) if chosen.folder is not None else {})
    drawn: dict[str, Any] = {
        "picture": inlined(pictures.whole, "p-", f"The graph of {chosen.name}") if pictures.whole else None,
        "blocks": [
            (name, inlined(svg, f"b{i}-", f"The graph of {name}"))
            for i, (name, svg) in enumerate(pictures.blocks.items())
        ],
        "no_picture": pictures.missing,
        "training": training(run, chosen.model_name) if run is not None else None,
    }
    return _rendered(Page(**{**content, **drawn}))


def _of_spec(chosen: Chosen, sizes: Mapping[str, int]) -> dict[str, Any]:
    """A spec, and what its build adds."""
    from specc.inspect import report
    from specc_runtime.drawn.figures import usual_sizes

    checked = chosen.checked
    counted = report(checked.model, chosen.entry, without=chosen.absent, at=usual_sizes(chosen, sizes))
    texts = source.texts(checked)
    places = list(source.places(checked, texts, counted))
    preset = f', preset "{counted.preset}"' if counted.preset else ""
    totals = list(figures.totals(counted))
    found: dict[str, Any] = {
        "name": chosen.name,
        "kind": f"{counted.model}{preset}, entry {counted.entry}",
        "doc": checked.model.module.doc,
        "lead": [fact for fact in totals if fact.name in ("parameters", "FLOPs, forward")],
        "texts": texts,
        "rows": figures.rows(counted, places),
        "headings": figures.headings(),
        "unused": figures.unused(counted),
        "at": ", ".join(f"{name} = {value}" for name, value in (counted.at or {}).items()),
        "totals": totals,
        "inputs": figures.inputs(counted),
        "promises": counted.facts,
        "hypers": figures.hypers(checked.model),
    }
    return found


def _of_record(chosen: Chosen) -> dict[str, Any]:
    """What a build says of its spec, where that isn't found as it was: no source, no costs."""
    record = chosen.manifest
    preset = f', preset "{record["preset"]}"' if record["preset"] else ""
    parameters = Fact("parameters", f"{record['parameters']:,}")
    spec = Fact("spec", f"{next(iter(record['spec']['files']))}, which isn't found as it was: its costs are not told")
    return {
        "name": chosen.name,
        "kind": f"{record['model']}{preset}",
        "lead": [parameters],
        "totals": [parameters, spec],
        "hypers": [Fact(name, str(written(value))) for name, value in record["hyperparameters"].items()],
    }


def _of_build(chosen: Chosen) -> dict[str, Any]:
    """The proof, the graph and the files of a build."""
    from specc_runtime.drawn.subject import load

    assert chosen.folder is not None
    record = chosen.manifest
    certificate = record["certificate"]
    made = record["entries"].get(chosen.entry, {})
    found: dict[str, Any] = {
        "proof": proof(certificate) if certificate is not None else None,
        "unproved": certificate is None,
        "files": [Fact(name, size(file["bytes"]), file["sha256"] or "") for name, file in record["files"].items()],
    }
    file = chosen.folder / made["onnx"] if made.get("onnx") else None
    if file is not None and file.is_file():
        found |= _graph(load(file))
    return found


def _graph(model: ModelProto) -> dict[str, Any]:
    """Operator sets and how often each operator is there, in functions too."""
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    counts = Counter(f"{node.domain}.{node.op_type}" if node.domain else node.op_type for node in nodes)
    opsets = ", ".join(f"{opset.domain or 'ai.onnx'} {opset.version}" for opset in model.opset_import)
    producer = " ".join(part for part in (model.producer_name, model.producer_version) if part)
    facts = [Fact("nodes", f"{len(nodes):,}"), Fact("operator sets", opsets)]
    if producer:
        facts.append(Fact("written by", producer))
    return {"graph": facts, "operators": counts.most_common()}


def _of_file(chosen: Chosen, sizes: Mapping[str, int]) -> dict[str, Any]:
    """An ONNX file, as far as it tells of itself."""
    from specc_runtime import foreign
    from specc_runtime.drawn.subject import load

    assert chosen.file is not None
    told = foreign.summary(chosen.file, at=sizes or None)
    facts = [Fact(name, value) for name, value in told.facts if name not in ("operators", "opset", "producer")]
    return {
        "name": chosen.file.name,
        "kind": "ONNX graph",
        "totals": facts,
        "summary": told.shown("tree").partition("\n\n")[0],  # what follows is in the facts
        **_graph(load(chosen.file)),
    }


def _rendered(content: Page) -> bytes:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    ours = resources.files("specc_runtime") / "report"
    script = (ours / "page.js").read_text("utf-8")
    environment = Environment(
        loader=PackageLoader("specc_runtime", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    text = environment.get_template("page.html").render(
        page=content,
        style=Markup((ours / "page.css").read_text("utf-8")),
        script=Markup(script),
        script_hash=b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        version=specc.__version__,
    )
    return text.encode(errors="replace")
