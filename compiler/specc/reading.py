"""Reading specs: the file that a command line names, what it imports, the standard library, the zoo.

Nothing else reads them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from specc import foreign
from specc.diagnostics import Collector, Diagnostic, Rejected
from specc.elaborate.files import FileScope
from specc.elaborate.values import Fail
from specc.source import Source, Span
from specc.syntax import ast
from specc.syntax.parser import parse

PACKAGE = Path(__file__).parent
MAX_BYTES = 1 << 20


def locate(target: str | Path) -> Path:
    """The file that a command line names: a path, else a model of the zoo (`gpt2`)."""
    path = Path(target)
    try:
        if not path.exists() and path.suffix == "" and len(path.parts) == 1:
            for folder in zoo_folders():
                if (folder / f"{target}.spec").is_file():
                    return (folder / f"{target}.spec").resolve()
        return path.resolve() if path.exists() else path
    except (OSError, RuntimeError, ValueError):  # too long a name, a loop of links, a NUL: reading it says so
        return path


PASSED_OVER = frozenset({"build", "dist", "node_modules", "venv", "__pycache__"})
"""Folders that hold no sources; so do hidden ones."""


def specs_below(target: str) -> list[str]:
    """A folder as the specs in it, at any depth and in order; anything else as itself. Raises `Rejected` for a folder
    without one.

    Links to folders are not followed: a loop of them would never end.
    """
    if not os.path.isdir(target):
        return [target]
    found = []

    def unlistable(error: OSError) -> None:
        raise _unreadable(f"cannot list `{error.filename}`: {error.strerror}")

    for folder, folders, files in os.walk(target, onerror=unlistable):
        folders[:] = sorted(f for f in folders if f not in PASSED_OVER and not f.startswith("."))
        found += [os.path.join(folder, f) for f in sorted(files) if f.endswith(".spec")]
    if not found:
        raise _unreadable(f"there is no .spec file in `{target}`", help="specc new NAME      writes one")
    return found


@cache
def zoo_folders() -> tuple[Path, ...]:
    """Where the zoo is: inside an installed package, or `specs/` of a checkout."""
    candidates = (PACKAGE / "zoo", PACKAGE.parent.parent / "specs")
    return tuple(c for c in candidates if c.is_dir())


def zoo() -> list[str]:
    """Names of the models that come with specc."""
    return sorted({p.stem for folder in zoo_folders() for p in folder.glob("*.spec")})


def read_text(path: Path, shown: str) -> str:
    """The text of a spec; raises `Rejected` with E006 or P090 for anything that is none."""
    try:
        if path.is_dir():
            raise _unreadable(f"`{shown}` is a directory", help=f"name a file in it:  {shown.rstrip('/')}/model.spec")
        if not path.exists():
            help = f"models of the zoo: {', '.join(zoo())}" if path.suffix == "" else ""
            raise _unreadable(f"`{shown}` does not exist", help=help)
        if not path.is_file():
            raise _unreadable(f"`{shown}` is not a regular file")
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
        other = foreign.told(shown, data)
        if other is not None:
            what, help = other
            raise _unreadable(f"`{shown}` is {what}, not a spec", help=help)
        if len(data) > MAX_BYTES:
            size = path.stat().st_size
            help = 'split it, and take the parts in:  from "./parts.spec" import Name'
            raise Rejected([Diagnostic("P090", f"`{shown}` is larger than 1 MiB ({size:,} bytes)", help=help)])
    except OSError as error:
        raise _unreadable(f"cannot read `{shown}`: {error.strerror}") from None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _unreadable(f"`{shown}` is not UTF-8 text (byte {error.start})", help="a spec is text") from None


def _unreadable(message: str, *, help: str = "") -> Rejected:
    return Rejected([Diagnostic("E006", message, help=help)])


def project_root(path: Path) -> Path:
    """The directory that holds `specc.toml`, else that of the file."""
    return next((folder for folder in path.parents if (folder / "specc.toml").is_file()), path.parent)


def shown_path(target: str | Path, path: Path) -> str:
    return str(target) if Path(target).exists() else os.path.relpath(path)


@dataclass
class Loader:
    """Resolves imports: `std.*` from the package, strings relative to the importing file and inside the root."""

    root: Path
    display: str  # the main file, as messages call it
    collector: Collector

    def __call__(self, importer: FileScope, item: ast.Import) -> tuple[str, ast.File | None, Source]:
        return self._path(importer, item) if item.is_path else self._std(item)

    def extern(self, importer: FileScope, item: ast.ExternFn) -> str:
        """The file of an `extern fn`, relative to the root with its links resolved; raises `Fail` (E003, E006).

        It must exist. It is neither opened nor imported: a check executes nothing.
        """
        shown, span = item.file.value, item.file.span
        example = f'from "ops/{item.name.id}.py"'
        if importer.is_std:
            raise Fail(Diagnostic("E003", "the standard library has no extern functions", span))
        if Path(shown).is_absolute():
            message = f"`{shown}` is an absolute path; the file of an extern function is relative to the spec"
            raise Fail(Diagnostic("E003", message, span, help=example))
        try:
            path, root = (Path(importer.key).parent / shown).resolve(), self.root.resolve()
            if not path.is_relative_to(root):
                raise Fail(self._outside(shown, span))
            if path.suffix != ".py":
                message = f"`{shown}` is no Python file: an extern function is defined in one"
                raise Fail(Diagnostic("E003", message, span, help=example))
            if not path.is_file():
                what = "is not a regular file" if path.exists() else "does not exist"
                note = f"the path is relative to the folder of {importer.source.display}"
                raise Fail(Diagnostic("E006", f"`{shown}` {what}", span, note=note))
        except (OSError, RuntimeError, ValueError):  # too long a name, a loop of links, a NUL
            raise Fail(Diagnostic("E006", f"cannot read `{shown}`", span)) from None
        return path.relative_to(root).as_posix()

    def _outside(self, shown: str, span: Span) -> Diagnostic:
        why = f"the root is the folder of {self.display}, or of specc.toml"
        return Diagnostic("E003", f"`{shown}` is outside the project", span, notes=(("why", why),))

    def _std(self, item: ast.Import) -> tuple[str, ast.File | None, Source]:
        head, _, name = item.origin.partition(".")
        path = PACKAGE / "std" / f"{name}.spec"
        if head != "std" or not name.isidentifier() or not path.is_file():
            known = ", ".join(f"std.{n}" for n in std_names())
            raise Fail(
                Diagnostic(
                    "E006",
                    f"no module `{item.origin}`",
                    item.origin_span,
                    notes=(("available", known),),
                    help='a file is imported by its path: from "./other.spec" import Name',
                )
            )
        source, tree = std_module(name)
        return source.name, tree, source

    def _path(self, importer: FileScope, item: ast.Import) -> tuple[str, ast.File | None, Source]:
        span = item.origin_span
        if Path(item.origin).is_absolute():
            message = f"`{item.origin}` is an absolute path; an import is relative to its file"
            raise Fail(Diagnostic("E003", message, span, help='from "./other.spec" import Name'))
        if importer.is_std:
            raise Fail(Diagnostic("E003", "the standard library imports only itself", span))
        try:
            path = (Path(importer.key).parent / item.origin).resolve()
        except (OSError, RuntimeError):
            raise Fail(Diagnostic("E006", f"cannot read `{item.origin}`", span)) from None
        if not path.is_relative_to(self.root.resolve()):
            raise Fail(self._outside(item.origin, span))
        if not item.origin.endswith(".spec"):
            raise Fail(Diagnostic("E003", f"`{item.origin}` is no spec", span, help='from "./other.spec" import Name'))
        try:
            text = read_text(path, item.origin)
        except Rejected as rejected:
            found = rejected.diagnostics[0]
            raise Fail(Diagnostic(found.code, found.message, span)) from None
        source = Source(os.path.relpath(path, self.root), text, os.path.relpath(path))
        return str(path), parse(source, self.collector), source


@cache
def std_names() -> tuple[str, ...]:
    return tuple(sorted(p.stem for p in (PACKAGE / "std").glob("*.spec")))


@cache
def std_module(name: str) -> tuple[Source, ast.File | None]:
    """A module of the standard library, parsed once per process."""
    source = Source(f"std/{name}.spec", (PACKAGE / "std" / f"{name}.spec").read_text(encoding="utf-8"))
    return source, parse(source, Collector())


@cache
def std_home(name: str) -> str | None:
    """The std module that exports a name, for import hints."""
    for module in std_names():
        _, tree = std_module(module)
        if tree is not None and any(
            isinstance(i, (ast.BlockDef, ast.Method)) and i.name.id == name for i in tree.items
        ):
            return f"std.{module}"
    return None
