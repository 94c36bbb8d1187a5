"""Folders of images and sounds: a file per row, the folders that they are in are classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from specc.elaborate.names import available
from specc.source import Span
from specc.syntax import ast
from specc_runtime.training.data import images, sounds
from specc_runtime.training.data.asked import Asked
from specc_runtime.training.data.blobs import Blobs, Files
from specc_runtime.training.data.columns import Array, bad
from specc_runtime.training.data.fields import Table

KINDS = {"image_folder": ("image", images.ENDINGS), "audio_folder": ("audio", sounds.ENDINGS)}


@dataclass(frozen=True, eq=False)
class Folder(Table):
    """Files under a folder, sorted. Columns: what they are (`image`, `audio`), and `folder`, their classes."""

    asked: Asked
    name: str
    files: Files
    what: str
    known: Sequence[str]

    def __len__(self) -> int:
        return len(self.files)

    def place(self, row: int) -> str:
        return self.files.place(row)

    def _folders(self, column: str, span: Span) -> list[str]:
        if column != "folder":
            raise self.asked.missing(self.name, column, [self.what, "folder"], span)
        found = [name.rpartition("/")[0].partition("/")[0] for name in self.files.names]
        if "" in found:
            row = found.index("")
            raise bad(f"{self.place(row)} of {self.name} is in no folder that says its class", span)
        return found

    def texts(self, column: str, span: Span) -> Sequence[str]:
        return self._folders(column, span)

    def blobs(self, column: str, span: Span) -> Blobs | None:
        return self.files if column == self.what else None

    def classes(self, column: str) -> Sequence[str]:
        return self.known if column == "folder" else ()

    def given(self) -> Mapping[str, ast.Expr]:
        """The images or sounds as they are, and their classes if they are in folders; what is asked for is not here."""
        span, asked = self.asked.span, self.asked.named()
        found: dict[str, ast.Expr] = {}
        if self.what not in asked and not any(isinstance(e, ast.Call) or _is(self.what, e) for e in asked.values()):
            image = ast.Call(span, ast.Name(span, "pixels"), ())
            found[self.what] = image if self.what == "image" else ast.Str(span, self.what)
        in_folders = all("/" in name for name in self.files.names)
        if in_folders and "label" not in asked and not any(_is("folder", e) for e in asked.values()):
            found["label"] = ast.Str(span, "folder")
        return found

    def numbers(self, column: str, span: Span) -> Array:
        found = self._folders(column, span)
        number_of = {name: i for i, name in enumerate(self.known)}
        for row, name in enumerate(found):
            if name not in number_of:
                message = f"{self.place(row)}: the class `{name}` is not in the data to train on"
                raise bad(message, span, "", available=available(list(self.known)))
        return np.array([number_of[name] for name in found], np.int64)


def read_folder(asked: Asked) -> Table:
    """`image_folder(path, split = ..)`, `audio_folder(path, split = ..)`."""
    name, path = asked.path
    what, endings = KINDS[asked.kind]
    split = asked.chosen_split
    if split is not None:
        name, path = f"{name.rstrip('/')}/{split}", path / split
    if not path.is_dir():
        help = f"paths are relative to the spec: {asked.section.folder}"
        if split is not None and path.parent.is_dir():
            inside = sorted(p.name for p in path.parent.iterdir() if p.is_dir() and p.name[0] != ".")
            help = f"the splits are its folders: {available(inside) or 'there are none'}"
        raise bad(f"there is no folder {name}", asked.span, help)
    names = sorted(
        file.relative_to(path).as_posix()
        for file in path.rglob("*")
        if file.suffix.lower() in endings and not _hidden(file.relative_to(path)) and file.is_file()
    )
    if not names:
        raise bad(f"{name} has no {what} in it", asked.span, f"endings that are known: {', '.join(endings)}")
    folders = sorted({n.partition("/")[0] for n in names if "/" in n})
    known = folders if asked.like is None else asked.like.classes.get(_label(asked), folders)
    return Folder(asked, name, Files(path, names, what == "audio"), what, known)


def _hidden(path: Path) -> bool:
    """`.cache`, and the folders such as `_background_noise_` that are no class."""
    return any(part.startswith((".", "_")) for part in path.parts)


def _label(asked: Asked) -> str:
    """The field that the folders' names go to."""
    folders = [name for name, expr in asked.named().items() if _is("folder", expr)]
    return folders[0] if folders else "label"


def _is(column: str, expr: ast.Expr) -> bool:
    return isinstance(expr, ast.Str) and expr.value == column
