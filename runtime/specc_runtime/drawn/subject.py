"""What a user names to look at: a spec or a preset, a build's folder, an ONNX file. Each gives a drawing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specc.diagnostics import Diagnostic, Rejected

if TYPE_CHECKING:
    from onnx import ModelProto

    from specc.driver import Checked

DRAWN = ("model.view.onnx", "model.onnx")
"""What of a build is shown: the drawing with its hierarchy, else the flat graph that runs."""


@dataclass(frozen=True)
class Chosen:
    """A target on the command line with the options that choose a configuration of it."""

    target: str
    preset: str | None = None
    sets: Mapping[str, str] = field(default_factory=dict)
    model: str | None = None
    entry: str = "forward"
    without: frozenset[str] = frozenset()

    @cached_property
    def folder(self) -> Path | None:
        """Of a build."""
        path = Path(self.target)
        return path if path.is_dir() else None

    @cached_property
    def file(self) -> Path | None:
        """The ONNX file that is named; raises `Rejected` (E006) if there is none."""
        path = Path(self.target)
        if self.folder is not None or path.suffix.lower() != ".onnx":
            return None
        if not path.is_file():
            raise Rejected([Diagnostic("E006", f"`{self.target}` does not exist")])
        return path

    @property
    def name(self) -> str:
        """For a title: the name of the file, of the build or of what the spec makes."""
        if self.file is not None:
            return self.file.stem
        if self.folder is not None:
            return self.folder.resolve().name
        return self.checked.model.name

    @property
    def model_name(self) -> str | None:
        """What the spec calls the model; None where there is only an ONNX file."""
        if self.file is not None:
            return None
        return str(self.manifest["model"]) if self.folder is not None else self.checked.model.module.name

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """Of a build; raises `Rejected` (B660)."""
        from specc_runtime import manifest

        assert self.folder is not None
        return manifest.read(self.folder, "manifest.json")

    @cached_property
    def checked(self) -> Checked:
        """The spec, as it was built if this is a build. Raises `Rejected`: its own errors, B660 if it isn't found."""
        from specc import driver

        if self.folder is None:
            return driver.load(self.target, preset=self.preset, model=self.model, sets=self.sets)
        from specc_runtime.origin import origin_of

        origin = origin_of(self.folder)
        return driver.load(
            origin.file,
            preset=origin.preset,
            model=origin.model,
            sets=origin.sets,
            position_ids=origin.position_ids,
        )

    @cached_property
    def lost(self) -> bool:
        """Whether this is a build whose spec isn't found as it was."""
        if self.folder is None:
            return False
        try:
            return self.checked is None
        except Rejected:
            return True

    @cached_property
    def absent(self) -> frozenset[str]:
        """The optional inputs that the entry is drawn without."""
        if self.without or self.folder is None:
            return self.without
        made = self.manifest["entries"].get(self.entry)
        return frozenset(made["without"]) if made is not None else frozenset()

    @cached_property
    def drawing(self) -> tuple[ModelProto, dict[str, ModelProto]]:
        """The spec drawn with its hierarchy, and each block; raises as `checked`, E103 for names it does not have."""
        from specc.backends.onnx.functions import view
        from specc.inspect import chosen_graph

        model = self.checked.model
        chosen_graph(model, self.entry, self.absent)  # says what is wrong with the names
        return view(model, self.entry, without=self.absent)

    def as_it_is(self) -> Path | None:
        """The file that is drawn already: the ONNX file, the drawing in a build; None where the spec has to be drawn.

        Of a build whose spec isn't found and that has no drawing, the flat graph.
        """
        if self.folder is None:
            return self.file
        hierarchy, flat = (self.folder / name for name in DRAWN)
        if hierarchy.is_file() and self.entry == "forward" and not self.without:
            return hierarchy
        if not (self.folder / "manifest.json").is_file():
            if flat.is_file():
                return flat
            help = "name a build's folder (build/NAME), an .onnx file or a spec"
            raise Rejected([Diagnostic("B660", f"`{self.target}` holds no {DRAWN[1]}", help=help)])
        return flat if self.lost and flat.is_file() and self.entry == "forward" else None

    def shown(self) -> tuple[ModelProto, dict[str, ModelProto]]:
        """The drawing and its blocks; a file has none of its own. Raises `Rejected`."""
        found = self.as_it_is()
        return (load(found), {}) if found is not None else self.drawing

    def drawn_anew(self) -> tuple[ModelProto, dict[str, ModelProto]]:
        """As `shown`, but of a build from its spec, if that is found."""
        return self.shown() if self.folder is None or self.lost else self.drawing


def load(path: Path) -> ModelProto:
    """A graph without the data of its weights; raises `Rejected` (E006) for a file that is none."""
    import onnx

    damaged: type[Exception] = import_module("google.protobuf.message").DecodeError  # it has no stubs
    try:
        return onnx.load(path, load_external_data=False)
    except damaged:
        why = "it is not an ONNX graph, or it is cut off"
    except OSError as error:
        why = error.strerror or str(error)
    raise Rejected([Diagnostic("E006", f"cannot read `{path}`: {why}")])
