"""`test` sections: a configuration is built in a temporary folder, run, and held against its expectations (LANGUAGE
17).
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specc import driver
from specc.diagnostics import Diagnostic, Rejected, Size
from specc.dims import DimError
from specc.elaborate.models import Given, Options
from specc.elaborate.values import Fail
from specc.inspect.lowering import Lowerings, lowerings
from specc.ir.members import parameter_count
from specc.reading import project_root
from specc.syntax import ast
from specc.syntax.preset_tests import tests_of
from specc_runtime import expectations
from specc_runtime.expectations import Skip
from specc_runtime.externs import load_trusted
from specc_runtime.inputs import NUMPY, Interface, draw, interface
from specc_runtime.libraries import installed
from specc_runtime.sizes import admissible

if TYPE_CHECKING:
    import numpy as np

    from specc_runtime.build import Request
    from specc_runtime.module import Build

    Array = np.ndarray[Any, Any]

PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47)


@dataclass(frozen=True)
class Outcome:
    """One `expect`. `status` is passed, failed or skipped; `detail` a figure or the reason for skipping."""

    text: str
    status: str
    detail: str = ""
    diagnostic: Diagnostic | None = None


@dataclass(frozen=True)
class Report:
    """One `test` section. `broken`: why its configuration cannot be built, then there are no outcomes."""

    name: str
    outcomes: tuple[Outcome, ...]
    seconds: float
    broken: tuple[Diagnostic, ...] = ()

    @property
    def failed(self) -> bool:
        return bool(self.broken) or any(o.status == "failed" for o in self.outcomes)


def run_tests(target: str, pattern: str = "", trust: tuple[str, ...] = ()) -> Iterator[Report]:
    """Run the sections whose name contains `pattern`; raises `Rejected` if the file itself is wrong.

    `trust`: files of extern functions that may run this time.
    """
    project = driver.open_project(target)
    tests = tests_of(project.file.tree)
    if not tests:  # "no tests" is said of a spec that is right
        wrong = [
            d
            for d in driver.check(target, all_presets=False, sets={}, model=None, preset=None)
            if d.severity == "error"
        ]
        if wrong:
            raise Rejected(wrong)
    for item in tests:
        if pattern in f"{item.model.id} {item.name.value}":
            yield run_test(project, target, item, trust)


def run_test(project: driver.Project, target: str, test: ast.Test, trust: tuple[str, ...] = ()) -> Report:
    """Run one section of an open project, which `target` names."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="specc-test-") as folder:
        try:
            subject = Subject(project, target, test, Path(folder), trust)
            outcomes = tuple(_expect(subject, e) for e in test.items if isinstance(e, ast.Expect))
        except Fail as fail:
            return Report(test.name.value, (), time.perf_counter() - start, (fail.diagnostic,))
        except Rejected as rejected:
            return Report(test.name.value, (), time.perf_counter() - start, rejected.diagnostics)
    return Report(test.name.value, outcomes, time.perf_counter() - start)


def _expect(subject: Subject, expect: ast.Expect) -> Outcome:
    text = " ".join(expect.span.text.removeprefix("expect").split())
    try:
        detail, problem = expectations.hold(subject, expect)
    except Skip as skip:
        return Outcome(text, "skipped", str(skip))
    except Fail as fail:
        return Outcome(text, "failed", diagnostic=fail.diagnostic)
    if problem is None:
        return Outcome(text, "passed", detail)
    about = subject.sizes if problem.sizes is None else problem.sizes
    sizes = tuple(Size(name, str(size)) for name, size in about.items())
    path = f'in test "{subject.test.name.value}"'
    diagnostic = Diagnostic("T520", problem.message, expect.span, path=path, sizes=sizes, notes=problem.notes)
    return Outcome(text, "failed", diagnostic=diagnostic)


@dataclass
class Subject:
    """The configuration that a section tests: checked at once, built and run when an expectation asks for values."""

    project: driver.Project
    target: str
    test: ast.Test
    folder: Path
    trust: tuple[str, ...] = ()
    settings: Mapping[str, ast.Expr] = field(init=False)

    def __post_init__(self) -> None:
        self.settings = {item.name.id: item.value for item in self.test.items if isinstance(item, ast.Setting)}
        for item in self.test.items:
            if isinstance(item, ast.Setting) and item.name.id not in ("preset", "model", "seed", "inputs"):
                known = (("available", "preset, model, seed, inputs"),)
                raise Fail(Diagnostic("T501", f"a test has no setting `{item.name.id}`", item.name.span, notes=known))
        options = Options(self.test.model.id, self._preset(), driver.parse_sets(self.sets), self._config())
        self.checked = self.project.check(options)

    # ---- configuration -------------------------------------------------------------------------------------------

    def _preset(self) -> str | None:
        value = self.settings.get("preset")
        if value is None:
            return None
        if not isinstance(value, ast.Str):
            raise Fail(Diagnostic("E125", "a preset is named by a string", value.span))
        return value.value

    def _config(self) -> Mapping[str, Given]:
        """The hyper-parameters of the checkpoint that the section compares with."""
        from specc_runtime.weights import open_source

        source = open_source(self.checkpoint, None, self.project, self.request)
        if source is None:
            return {}
        source.close()
        return source.config

    @cached_property
    def request(self) -> Request:
        """The build of this configuration, without a proof, in the temporary folder."""
        from specc_runtime.build import Request

        return Request(
            self.target,
            preset=self._preset(),
            model=self.test.model.id,
            sets=self.sets,
            weights=self.checkpoint,
            verify=False,
            render=False,
            out=self.folder / "build",
            seed=self.seed,
            trust=self.trust,
        )

    @cached_property
    def sets(self) -> dict[str, str]:
        """The arguments of `model = Model(..)` as `--set` texts."""
        value = self.settings.get("model")
        if value is None:
            return {}
        decl = next((d for d in self.project.file.models() if d.name == self.test.model.id), None)
        named = isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == self.test.model.id
        if not isinstance(value, ast.Call) or not named or decl is None:
            raise Fail(Diagnostic("E125", f"expected {self.test.model.id}(..)", value.span))
        sets = {}
        for param, arg in zip(decl.node.params, value.args, strict=False):
            if isinstance(arg, ast.StarArg):
                raise Fail(Diagnostic("E100", "`*` has nothing to pass on in a test", arg.span))
            sets[arg.name.id if arg.name is not None else param.name.id] = arg.value.span.text
        return sets

    @cached_property
    def seed(self) -> int:
        value = self.settings.get("seed")
        if value is None:
            return 0
        if not isinstance(value, ast.Int):
            raise Fail(Diagnostic("E125", "a seed is an int", value.span))
        return value.value

    @cached_property
    def of(self) -> Interface:
        return interface(self.checked.model)

    @cached_property
    def sizes(self) -> dict[str, int]:
        """The fixed dims as given, the others a prime not used elsewhere, or what the model's facts allow near it.

        Raises `Fail` if they forbid the fixed ones.
        """
        fixed = {}
        for bind in self.test.dims:
            value = expectations.Evaluation(self, names={}).value(bind.value)
            if bind.name.id not in self.of.dims or not isinstance(value, int) or isinstance(value, bool) or value < 1:
                known = (("available", ", ".join(self.of.dims) or "none"),)
                message = f"`{bind.name.id}` must be a dim of {self.test.model.id}.forward and its size an int >= 1"
                raise Fail(Diagnostic("S103", message, bind.span, notes=known))
            fixed[bind.name.id] = value
        free = (p for p in PRIMES if p not in fixed.values())
        sizes = {name: fixed[name] if name in fixed else next(free) for name in self.of.dims}
        near = admissible(self.of, sizes)
        if near is not None and all(near[name] == value for name, value in fixed.items()):
            return near
        broken = self.of.facts.satisfied_by(sizes)
        if broken is not None:
            raise Fail(Diagnostic("S223", f"the model promises {broken}", self.test.name.span, "these sizes break it"))
        return sizes

    @cached_property
    def names(self) -> dict[str, Any]:
        """What an expectation may name: hyper-parameters, lets and dims, derived ones too."""
        names = {h.name: h.value for h in self.checked.model.module.hypers}
        names |= self.sizes
        for name, dim in self.checked.elaborator.file_dims(self.project.file).items():
            plain = dim.substitute({s: 0 for s in dim.symbols if s.startswith("past(")})
            try:
                names.setdefault(name, plain.evaluate(self.sizes))
            except DimError:  # a dim of another model of the file
                continue
        return names

    @property
    def count_params(self) -> int:
        return parameter_count(self.checked.model.module)

    @cached_property
    def lowerings(self) -> Lowerings:
        """What the operators become in the graph that a test builds."""
        return lowerings(self.checked.model, opset=self.request.opset)

    @property
    def nodes(self) -> int:
        """How many the graph of `forward` has."""
        import onnx

        path = self.build.folder / self.build.manifest["entries"]["forward"]["onnx"]
        return len(onnx.load(path, load_external_data=False).graph.node)

    # ---- values --------------------------------------------------------------------------------------------------

    @cached_property
    def checkpoint(self) -> str | None:
        """The folder of the `hf("..")` that the section compares with: its weights are built."""
        folders = [f for e in self.test.items if isinstance(e, ast.Expect) for f in expectations.hf_folders(e.cond)]
        return next((f for f in folders if Path(f).is_dir()), None)

    @cached_property
    def build(self) -> Build:
        """The finished build."""
        from specc_runtime.build import build
        from specc_runtime.module import open_build

        made = open_build(build(self.request).folder)
        externs = load_trusted(self.checked, project_root(self.project.path), self.trust)
        if externs.files:
            from specc_runtime.verify import check_externs

            entries = [(name, frozenset[str]()) for name in made.manifest["entries"]]
            check_externs(self.checked.model, made.module(), entries, externs, self.seed)
        return made

    @cached_property
    def feeds(self) -> dict[str, Array]:
        """The inputs: drawn, or as `inputs = bind(..)` says."""
        import numpy as np

        feeds = draw(self.of, self.sizes, seed=self.seed, masks="all true" if self.checkpoint else "random")
        value = self.settings.get("inputs")
        if value is None:
            return feeds
        if not isinstance(value, ast.Call) or not isinstance(value.func, ast.Name) or value.func.id != "bind":
            raise Fail(Diagnostic("E125", "inputs are given by  bind(name = ..)", value.span))
        for arg in value.args:
            name = arg.name.id if isinstance(arg, ast.Arg) and arg.name is not None else ""
            item = next((i for i in self.of.inputs if i.name == name), None)
            if item is None or not isinstance(arg, ast.Arg):
                known = (("available", ", ".join(feeds)),)
                raise Fail(Diagnostic("T504", f"{self.test.model.id} has no input `{name}`", arg.span, notes=known))
            try:
                array = np.array(expectations.Evaluation(self).value(arg.value), dtype=NUMPY[item.dtype])
            except (ValueError, TypeError) as error:
                raise Fail(Diagnostic("E125", f"`{name}` is not a list of numbers: {error}", arg.span)) from None
            if array.shape != feeds[name].shape:
                expected = (("expected", str(list(feeds[name].shape))), ("found", str(list(array.shape))))
                raise Fail(Diagnostic("S201", f"`{name}` has another shape", arg.span, notes=expected))
            feeds[name] = array
        return feeds

    @cached_property
    def torch(self) -> dict[str, Array]:
        """The outputs of the emitted module, by name."""
        from specc_runtime.module import extern_copies
        from specc_runtime.programs import Crash, run_torch
        from specc_runtime.python_file import blaming

        try:
            with blaming(extern_copies(self.build).values()):
                return run_torch(self.build.module(), self.of, self.feeds)
        except Crash as crash:
            raise Fail(Diagnostic("B630", str(crash), self.test.name.span)) from None

    @cached_property
    def onnx(self) -> dict[str, Array]:
        """The outputs of the graph in onnxruntime, by name."""
        from specc_runtime.programs import OPTIMISED, Crash, open_session, run_session

        try:
            session = open_session(OPTIMISED, self.build.folder / self.build.manifest["entries"]["forward"]["onnx"])
            return run_session(session, OPTIMISED, self.feeds)
        except Crash as crash:
            raise Fail(Diagnostic("B630", str(crash), self.test.name.span)) from None

    @cached_property
    def incremental(self) -> dict[str, Array]:
        """The outputs of the incremental entry in onnxruntime, for parts of the inputs that include a single position.

        Fails with B620 for a model that keeps nothing, D401 to D408 for one whose steps are not its whole.
        """
        from specc_runtime.build import build
        from specc_runtime.cache import Request as Cache
        from specc_runtime.module import open_build
        from specc_runtime.programs import Crash
        from specc_runtime.steps import in_parts, open_steps

        request = replace(self.request, cache=Cache(innermost=False, logits="all"), out=self.folder / "cached")
        try:
            steps = open_steps(open_build(build(request).folder))
        except Rejected as rejected:
            raise Fail(rejected.diagnostics[0]) from None
        length = self.sizes[steps.cache.step]
        parts = [n for n in (length // 2, 1, length - length // 2 - 1) if n > 0]
        try:
            return in_parts(steps, self.of, self.feeds, parts)
        except Crash as crash:
            raise Fail(Diagnostic("B630", str(crash), self.test.name.span)) from None

    def hf(self, where: str) -> dict[str, Array]:
        """The outputs of transformers' own model of a local folder; raises `Skip` where there is none."""
        import importlib
        import json

        if not Path(where).is_dir():
            raise Skip(f'hf("{where}") is not a local folder')
        if not installed("transformers"):
            raise Skip(f'hf("{where}") needs transformers')
        import torch

        from specc_runtime.programs import TORCH_ERRORS

        feeds = {name: torch.from_numpy(value) for name, value in self.feeds.items()}
        try:
            config = json.loads((Path(where) / "config.json").read_text("utf-8"))
            name = (config.get("architectures") or ["AutoModel"])[0]
            model = getattr(importlib.import_module("transformers"), name)
            live = model.from_pretrained(where, dtype=torch.float32).eval()
            with torch.inference_mode():
                found = live(**{name: v.long() if v.dtype == torch.bool else v for name, v in feeds.items()})
        except (*TORCH_ERRORS, OSError, KeyError) as error:
            message = f'hf("{where}") does not run on these inputs: {error}'
            raise Fail(Diagnostic("T520", message, self.test.name.span)) from None
        return {name: found[name].numpy() for name in (o.name for o in self.of.outputs) if name in found}
