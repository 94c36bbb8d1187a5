"""Python that specc runs: emitted source, and the files of extern functions, whose errors are the user's to read."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any

from specc.diagnostics import Diagnostic, Label, Rejected
from specc.source import Source, Span


def load_source(path: Path, text: bytes | None = None, beside: Mapping[str, ModuleType] | None = None) -> ModuleType:
    """Import a Python file under a private name; nothing is written beside it.

    `text`: its bytes, if they were read already; `beside`: what it finds when it imports these names. Loading the same
    text from the same place again gives the same Python module, and so the same classes.
    """
    place = path.resolve()
    if text is None:
        text = place.read_bytes()
    beside = beside or {}
    key = sha256("\0".join([str(place), *(module.__name__ for module in beside.values()), ""]).encode() + text)
    name = f"_specc_build_{path.stem}_{key.hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = spec_from_loader(name, SourceFileLoader(name, str(place)))
    assert spec is not None
    module = module_from_spec(spec)
    hidden = {other: sys.modules.get(other) for other in beside}
    sys.modules[name] = module  # torch.compile and pickle look a class's module up by name
    sys.modules.update(beside)
    try:
        exec(compile(text, place, "exec"), module.__dict__)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        for other, before in hidden.items():
            if before is None:
                del sys.modules[other]
            else:
                sys.modules[other] = before
    return module


@dataclass(frozen=True)
class UserFile:
    """The Python file of extern functions. `name` is its path as a spec's project knows it, `text` what was hashed."""

    name: str
    path: Path
    text: bytes

    @property
    def sha256(self) -> str:
        return sha256(self.text).hexdigest()

    def load(self, at: Span | None = None) -> ModuleType:
        """Import it; raises `Rejected` (X904) with the line at which it fails."""
        with self.running("when it is imported", at):
            return load_source(self.path, self.text)

    @contextmanager
    def running(self, what: str, at: Span | None = None) -> Iterator[None]:
        """Whatever the file raises inside becomes a `Rejected` (X904) at its own line. `at`: its name in the spec."""
        try:
            yield
        except Rejected:
            raise
        except (Exception, SystemExit) as error:  # a user's code may raise anything, and may try to leave
            raise Rejected([self.failure(error, what, at)]) from error

    def failure(self, error: BaseException, what: str, at: Span | None) -> Diagnostic:
        """X904 for an exception: the last line of this file on the way to it, else where the spec names the file."""
        lines = (str(error).strip() or "no message").splitlines()
        raised = f"{type(error).__name__}: {lines[0][:300]}"
        line = self.line_of(error)
        message = f"{self.name} fails {what}: {raised}"
        if line is None:
            return Diagnostic("X904", message, at)
        others = (Label(at, "the file is named here"),) if at is not None else ()
        return Diagnostic("X904", message, self._line(line), others=others)

    def line_of(self, error: BaseException) -> int | None:
        """The last line of this file on the way to an exception; None if it never was there."""
        own = str(self.path.resolve())
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == own]
        if not lines and isinstance(error, SyntaxError) and error.filename == own:
            return error.lineno
        return lines[-1] if lines else None

    def _line(self, number: int) -> Span:
        source = Source(self.name, self.text.decode("utf-8", "replace"), os.path.relpath(self.path))
        start = source.line_starts[min(number, len(source.line_starts)) - 1]
        text = source.line(min(number, len(source.line_starts)))
        indent = len(text) - len(text.lstrip())
        return Span(source, start + indent, start + max(len(text), indent + 1))


@contextmanager
def blaming(files: Collection[UserFile]) -> Iterator[None]:
    """What is raised on the way through one of these files becomes a `Rejected` (X904) at its line; the rest passes."""
    try:
        yield
    except Rejected:
        raise
    except (Exception, SystemExit) as error:
        cause: BaseException | None = error
        while cause is not None:
            for file in files:
                if file.line_of(cause) is not None:
                    raise Rejected([file.failure(cause, "in torch(..)", None)]) from error
            cause = cause.__cause__
        raise


def function(module: ModuleType, name: str) -> Any:
    """A function of a loaded file; None if it has none of that name."""
    found = getattr(module, name, None)
    return found if callable(found) and not isinstance(found, ModuleType) else None
