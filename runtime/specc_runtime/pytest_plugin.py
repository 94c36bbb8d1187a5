"""pytest: `test` sections of specs are collected as tests; fixtures for tests of a spec against other programs.

On by default where specc is installed (`-p no:specc` leaves it out). Nothing heavy is imported before a spec is found.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from specc.diagnostics import Diagnostic
    from specc.driver import Project
    from specc.syntax import ast
    from specc_runtime.module import Build
    from specc_runtime.spectest import Report

# Other tools have `.spec` files, too: only a file with a section that looks like ours is read, or one that was named.
_SECTION = re.compile(r'^(?:test\s+(?:\w+\s*)?"[^"\n]*"[^\n]*\{|preset\s+"[^"\n]*"\s*=)', re.MULTILINE)
_MARKS = {"passed": "ok", "failed": "FAILED", "skipped": "skipped"}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("specc")
    group.addoption(
        "--specc-trust", action="append", default=[], metavar="FILE.py", help="extern functions of specs that may run"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "specc: a `test` section of a spec, collected by specc")


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    if file_path.suffix != ".spec":
        return None
    try:
        ours = parent.session.isinitpath(file_path) or _SECTION.search(file_path.read_text("utf-8")) is not None
    except (OSError, UnicodeDecodeError):
        return None
    found: pytest.Collector | None = SpecFile.from_parent(parent, path=file_path) if ours else None
    return found


class SpecFile(pytest.File):
    """A spec with `test` sections, or presets that `expect`."""

    def collect(self) -> Iterable[pytest.Item]:
        from specc import driver
        from specc.diagnostics import Rejected
        from specc.syntax.preset_tests import tests_of

        try:
            project = driver.open_project(str(self.path))
        except Rejected as rejected:
            raise self.CollectError(_shown(rejected.diagnostics, self.config)) from None
        for section in tests_of(project.file.tree):
            name = f"{section.model.id}[{section.name.value}]"
            yield SpecTest.from_parent(self, name=name, project=project, section=section)


class SpecTest(pytest.Item):
    """One `test` section: it fails if one of its expectations does, and is skipped if none could be judged."""

    def __init__(self, *, project: Project, section: ast.Test, **more: Any) -> None:
        super().__init__(**more)
        self.project, self.section = project, section
        self.add_marker("specc")
        self.extra_keyword_matches.add(section.model.id)

    def runtest(self) -> None:
        from specc_runtime.spectest import run_test

        trust = tuple(self.config.getoption("--specc-trust"))
        report = run_test(self.project, str(self.path), self.section, trust)
        self.user_properties += [(o.text, o.detail or o.status) for o in report.outcomes]
        if report.failed:
            raise SpecFailure(report)
        reasons = [o.detail for o in report.outcomes if o.status == "skipped"]
        if reasons and len(reasons) == len(report.outcomes):
            pytest.skip("; ".join(dict.fromkeys(reasons)))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if isinstance(excinfo.value, SpecFailure):
            return "\n".join(_explained(excinfo.value.report, self.config))
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int, str]:
        line, _ = self.section.span.source.position(self.section.span.start)
        return self.path, line - 1, self.name


class SpecFailure(Exception):
    """Expectations of a section do not hold."""

    def __init__(self, report: Report) -> None:
        super().__init__(report.name)
        self.report = report


def _explained(report: Report, config: pytest.Config) -> Iterator[str]:
    """The findings with their lines, then each expectation with its result."""
    yield _shown([*report.broken, *(o.diagnostic for o in report.outcomes if o.diagnostic is not None)], config)
    for outcome in report.outcomes:
        yield f"  {_MARKS[outcome.status]:<8} {outcome.text}" + (f"   ({outcome.detail})" if outcome.detail else "")


def _shown(diagnostics: Iterable[Diagnostic], config: pytest.Config) -> str:
    from specc import report

    return report.full(list(diagnostics), color=config.get_terminal_writer().hasmarkup).rstrip("\n")


# ---- fixtures --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def spec_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Build]:
    """Builds a spec once per session and choice of arguments: `spec_model("gpt2.spec", preset="tiny").module()`.

    Takes what `specc_runtime.build.Request` takes (`preset`, `sets`, `weights`, `cache`, ..); nothing is proved or
    rendered unless asked for. Raises AssertionError with the findings where the spec is wrong.
    """
    from specc_runtime.foreign_program import built

    made: dict[str, Build] = {}

    def model(target: str | Path, **request: Any) -> Build:
        __tracebackhide__ = True
        key = repr((str(target), sorted(request.items())))
        if key not in made:
            made[key] = built(str(target), tmp_path_factory.mktemp("spec") / "build", **request)
        return made[key]

    return model


@pytest.fixture(scope="session")
def assert_equivalent() -> Callable[..., None]:
    """`specc_runtime.assert_equivalent`: a spec against an `nn.Module`, an ONNX file or a transformers model."""
    from specc_runtime.equivalence import assert_equivalent as function

    return function
