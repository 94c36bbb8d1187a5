"""The Python files of extern functions: trusted or refused, loaded, called, held against their signatures."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from specc import driver
from specc.backends.torch.optext import torch_dtype
from specc.diagnostics import Diagnostic, Label, Rejected
from specc.dims import DimError
from specc.elaborate.names import available
from specc.elaborate.values import ExternDecl
from specc.ir.graph import Model
from specc.ops.extern import Extern
from specc.passes.externs import extern_calls, extern_files, extern_modules
from specc.source import Span
from specc.types import DType, TensorType
from specc_runtime.lock import LOCK, read_lock
from specc_runtime.python_file import UserFile, function

if TYPE_CHECKING:
    import torch

    from specc.backends.onnx.externs import Graph, Value

MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class Meta:
    """What `infer` of a user's file is given for a tensor: `shape` in ints, `dtype` by the spec's name ("f32")."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, eq=False)
class Loaded:
    """The files of one model, imported. Implements `specc.backends.onnx.externs.Externs`."""

    files: Mapping[str, UserFile] = field(default_factory=dict)
    modules: Mapping[str, ModuleType] = field(default_factory=dict)
    places: Mapping[str, Span] = field(default_factory=dict)  # file -> where the spec names it
    functions: Mapping[tuple[str, str], Span] = field(default_factory=dict)  # (file, function) -> its name in the spec

    def onnx(self, op: Extern, graph: Graph, operands: Sequence[Value | None]) -> Any:
        """What the file's `onnx` function returns; raises `Rejected`: B610 if it has none, X904 if it fails."""
        build = function(self.modules[op.file], "onnx")
        if build is None:
            found = ", ".join(n for n in ("torch", "infer") if function(self.modules[op.file], n)) or "nothing"
            missing = f"onnx(g, {', '.join([*op.tensors, *op.arguments()])}) in {op.file}"
            raise Rejected(
                [
                    Diagnostic(
                        "B610",
                        f"no ONNX lowering for `{op.function}`",
                        self.functions.get((op.file, op.function)),
                        notes=(("found", found), ("missing", missing)),
                        help="define it, or build with  --emit torch",
                    )
                ]
            )
        with self.files[op.file].running("in onnx(..)", self.places.get(op.file)):
            return build(graph, *operands, **op.arguments())

    def call_torch(self, op: Extern, operands: Sequence[torch.Tensor | None]) -> Any:
        """What the file's `torch` function returns; raises `Rejected` (X904) if it fails or is missing."""
        run = function(self.modules[op.file], "torch")
        if run is None:
            message = f"{op.file} defines no `torch({', '.join([*op.tensors, *op.arguments()])})`"
            raise Rejected([Diagnostic("X904", message, self.places.get(op.file), help="define it: gradients need it")])
        with self.files[op.file].running("in torch(..)", self.places.get(op.file)):
            return run(*operands, **op.arguments())

    def check(
        self,
        op: Extern,
        operands: Sequence[torch.Tensor | None],
        made: Any,
        sizes: Mapping[str, int],
        compute: torch.dtype,
    ) -> list[torch.Tensor]:
        """The results, if they are what the signature declares at these sizes; raises `Rejected` (X903)."""
        import torch

        declared = [_concrete(result, sizes) for result in op.results]
        results = list(made) if isinstance(made, (tuple, list)) else [made]
        if not all(isinstance(r, torch.Tensor) for r in results):
            kinds = ", ".join("nothing" if r is None else type(r).__name__ for r in results) or "an empty tuple"
            raise self._disagrees(op, "torch", kinds, declared)
        found = [Meta(tuple(r.shape), _dtype_name(r.dtype, compute)) for r in results]
        if found != declared:
            raise self._disagrees(op, "torch", _shown(found), declared)
        self._inferred(op, operands, declared, compute)
        return results

    def _inferred(
        self, op: Extern, operands: Sequence[torch.Tensor | None], declared: list[Meta], compute: torch.dtype
    ) -> None:
        infer = function(self.modules[op.file], "infer")
        if infer is None:
            return
        given = [Meta(tuple(x.shape), _dtype_name(x.dtype, compute)) if x is not None else None for x in operands]
        with self.files[op.file].running("in infer(..)", self.places.get(op.file)):
            said = infer(*given, **op.arguments())
        pairs = said if isinstance(said, list) else [said]
        try:
            found = [Meta(tuple(int(n) for n in shape), str(dtype)) for shape, dtype in pairs]
        except (TypeError, ValueError):
            raise self._disagrees(op, "infer", f"{said!r}"[:200], declared) from None
        if found != declared:
            raise self._disagrees(op, "infer", _shown(found), declared)

    def _disagrees(self, op: Extern, what: str, found: str, declared: list[Meta]) -> Rejected:
        place = self.places.get(op.file)
        note = "the signature decides: mend the one that is wrong"
        if what == "infer":
            note = "infer returns (shape, dtype), for several results a list of those"
        return Rejected(
            [
                Diagnostic(
                    "X903",
                    f"`{op.function}` disagrees with its signature: `{what}` of {op.file}",
                    self.functions.get((op.file, op.function)),
                    others=(Label(place, "the file"),) if place is not None else (),
                    notes=(("expected", _shown(declared)), ("found", found)),
                    note=note,
                )
            ]
        )


def _concrete(type_: TensorType, sizes: Mapping[str, int]) -> Meta:
    dtype = DType.F32 if type_.dtype is DType.COMPUTE else type_.dtype
    plain = (d.substitute({name: 0 for name in d.symbols if name.startswith("past(")}) for d in type_.shape)
    try:
        return Meta(tuple(d.evaluate(sizes) for d in plain), dtype.value)
    except DimError as error:
        raise AssertionError(f"{type_} has no size here: {error}") from None


def _dtype_name(dtype: torch.dtype, compute: torch.dtype) -> str:
    """The spec's name; the compute dtype is called f32, which is what builds are verified in."""
    if dtype == compute:
        return DType.F32.value
    shown = str(dtype)
    known: dict[str, str] = {torch_dtype(d): d.value for d in DType if d is not DType.COMPUTE}
    return known.get(shown, shown)


def _shown(types: Sequence[Meta]) -> str:
    return ", ".join(f"{t.dtype}{list(t.shape)}" for t in types) or "nothing"


# ---- trust -----------------------------------------------------------------------------------------------------------


def load_trusted(checked: driver.Checked, root: Path, trust: Sequence[str] = ()) -> Loaded:
    """Import the files of a model's extern functions, each only if it is trusted.

    `trust`: files for this run alone, relative to the current folder or to the root. Raises `Rejected` with X901 X902
    for every file that is not trusted (then none is run), X904 for one that fails, X905 for a damaged lock.
    """
    places = extern_files(checked.model)
    now = _trusted_now(trust, root, _declared(checked))
    if not places:
        return Loaded()
    files = {name: read_file(name, root / name, places[name]) for name in places}
    locked = read_lock(root) if files.keys() - now else {}
    found = [
        _untrusted(files[name], places[name], root, locked.get(name))
        for name in places
        if name not in now and locked.get(name) != files[name].sha256
    ]
    if found:
        raise Rejected(found)
    return _loaded(checked.model, files, places)


def load_copies(model: Model | None, copies: Mapping[str, UserFile]) -> Loaded:
    """The files of a build, by their names in the spec; their hashes were checked."""
    return Loaded() if model is None else _loaded(model, copies, extern_files(model))


def _loaded(model: Model, files: Mapping[str, UserFile], places: Mapping[str, Span]) -> Loaded:
    modules = {name: file.load(places.get(name)) for name, file in files.items()}
    functions = {(call.op.file, call.op.function): call.function for call in extern_calls(model)}
    return Loaded(files, modules, places, functions)


def read_file(name: str, path: Path, at: Span | None = None) -> UserFile:
    """The bytes that are hashed, run and copied: read once. Raises `Rejected` (E006, P090)."""
    try:
        with path.open("rb") as stream:
            text = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise Rejected([Diagnostic("E006", f"cannot read `{name}`: {error.strerror}", at)]) from None
    if len(text) > MAX_BYTES:
        raise Rejected([Diagnostic("P090", f"`{name}` is larger than 1 MiB", at)])
    return UserFile(name, path, text)


def _declared(checked: driver.Checked) -> list[str]:
    """The files of all extern functions of a spec and what it imports, of other models too."""
    files = checked.elaborator.files.by_key.values()
    return list({d.path: None for file in files for d in file.names.values() if isinstance(d, ExternDecl)})


def _trusted_now(trust: Sequence[str], root: Path, known: Sequence[str]) -> set[str]:
    """The files of `--trust`, by path from the root; raises `Rejected` (X901) for one that no function comes from."""
    found: set[str] = set()
    for given in trust:
        real = [Path(os.path.realpath(base / given)) for base in (Path.cwd(), root)]
        name = next((n for n in known for path in real if path == root / n), None)
        if name is None:
            message = f"--trust {given}: no extern function of this spec comes from there"
            raise Rejected([Diagnostic("X901", message, notes=(("available", available(known) or "none"),))])
        found.add(name)
    return found


def _untrusted(file: UserFile, at: Span, root: Path, known: str | None) -> Diagnostic:
    """X901, or X902 where another content was trusted."""
    command = f"specc trust {trust_arguments(file.path, root)}"
    if known is None:
        return Diagnostic(
            "X901",
            f"{file.name} is Python code and is not trusted",
            at,
            notes=(("why", "building this model would run that file on this machine"),),
            help=f"read it, then  {command}    (records its SHA-256; any change asks again)",
            note="`specc check` does not need it",
        )
    return Diagnostic(
        "X902",
        f"{file.name} has changed since it was trusted",
        at,
        notes=(("trusted", known), ("found", file.sha256)),
        help=f"read what changed, then  {command}",
        note=f"{LOCK} records the content that was trusted; nothing was run",
    )


def trust_arguments(path: Path, root: Path) -> str:
    """The arguments of `specc trust` that record a file in the lock of this root, typed in the current folder."""
    shown = os.path.relpath(path)
    if default_root(Path(shown)) == root.resolve():
        return shown
    return f"{shown} --root {os.path.relpath(root)}"


def default_root(path: Path) -> Path:
    """The root that `specc trust` takes for a file: the folder above it with a specc.toml, else with a lock, else the
    current one if the file is below it, else the file's own.
    """
    place = Path(os.path.realpath(path))
    for name in ("specc.toml", LOCK):
        found = next((folder for folder in place.parents if (folder / name).is_file()), None)
        if found is not None:
            return found
    here = Path.cwd().resolve()
    return here if place.is_relative_to(here) else place.parent


# ---- copies ----------------------------------------------------------------------------------------------------------


def write_copies(work: Path, model: Model, loaded: Loaded) -> None:
    """Put the very bytes that were trusted beside the emitted source."""
    for name, module in extern_modules(model).items():
        (work / f"{module}.py").write_bytes(loaded.files[name].text)


def copies(model: Model) -> dict[str, str]:
    """File in the build -> file in the spec's project."""
    return {f"{module}.py": name for name, module in extern_modules(model).items()}
