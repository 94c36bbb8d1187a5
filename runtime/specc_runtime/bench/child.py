"""One measurement in a process of its own: `python -m specc_runtime.bench.child` reads a case, prints the result.

Alone, so that no backend's threads or memory are in another's figures.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specc.diagnostics import Diagnostic, Rejected
from specc_runtime.bench.request import Case, cache_of, feeds
from specc_runtime.inputs import Interface, draw
from specc_runtime.module import Build, open_build

if TYPE_CHECKING:
    import numpy as np
    import torch

    Array = np.ndarray[Any, Any]

WARM_UP = 3
"""Runs before the measured ones: caches are warm, onnxruntime's memory pattern is known, torch has compiled."""
FEWEST, MOST = 5, 10_000


def measure(case: Case, folder: Path, seconds: float) -> dict[str, Any]:
    """Times of the runs of about `seconds`, at least five of them."""
    made = open_build(folder)
    of = made.interface(case.entry)
    given = feeds(made, case)
    bare = _libraries(case)
    start = time.perf_counter()
    step = _prepared(case, made, of, given)
    loading = time.perf_counter() - start
    first = _seconds(step)
    for _ in range(WARM_UP - 1):
        step()
    times: list[float] = []
    while len(times) < FEWEST or (sum(times) < seconds and len(times) < MOST):
        times.append(_seconds(step))
    return {"times": times, "first": first, "loading": loading, "peak": max(0, _peak() - bare)}


def _libraries(case: Case) -> int:
    """Resident memory once the backend is imported, nothing of the model being there."""
    if case.backend.startswith("torch"):
        import torch

        torch.set_num_threads(case.threads)
        torch.zeros(8, 8) @ torch.zeros(8, 8)
    else:
        import onnxruntime

        onnxruntime.SessionOptions()
    return _resident()


def _prepared(case: Case, made: Build, of: Interface, drawn: Mapping[str, Array]) -> Callable[[], object]:
    """What runs the entry once."""
    cuda = case.backend.endswith("-cuda")
    if case.backend.startswith("torch"):
        return _torch(case, made, of, drawn, cuda)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = case.threads
    session = made.session(case.entry, options, "cuda" if cuda else "cpu", quantized=case.quantized)
    taken = {i.name for i in session.get_inputs()}
    given = {name: value for name, value in drawn.items() if name in taken}
    return lambda: session.run(None, given)


def _torch(case: Case, made: Build, of: Interface, drawn: Mapping[str, Array], cuda: bool) -> Callable[[], object]:
    import torch

    from specc_runtime.devices import check_torch

    check_torch("cuda" if cuda else "cpu")
    device = "cuda" if cuda else "cpu"
    module = made.module().to(device)
    given = {name: torch.from_numpy(value).to(device) for name, value in drawn.items()}
    method: Callable[..., Any] = module if case.entry == "forward" else getattr(module, case.entry)
    with torch.inference_mode():
        arguments = _arguments(case, made, of, given, method)
    if case.backend.startswith("torch.compile"):
        method = torch.compile(method)

    def run() -> None:
        with torch.inference_mode():
            method(**arguments)
            if cuda:
                torch.cuda.synchronize()

    return run


def _arguments(
    case: Case, made: Build, of: Interface, given: Mapping[str, torch.Tensor], method: Callable[..., Any]
) -> dict[str, Any]:
    """Of a call in torch, where the states of a cache are one argument, a tuple for each group of them."""
    import torch

    kept = cache_of(made, case.entry)
    if kept is None:
        return {i.argument: given[i.name] for i in of.inputs}
    if kept.length is not None or kept.mask is not None:
        raise Rejected([Diagnostic("B650", "torch's cache grows: it has no buffers of a fixed length")])
    once = [state.input for group in kept.once.states for state in group] if kept.once is not None else []
    states = [[state.input for state in group] for group in kept.states]
    own = [i for i in of.inputs if i.name not in {*once, *(name for group in states for name in group)}]
    arguments: dict[str, Any] = {i.argument: given[i.name] for i in own}
    if kept.once is None:
        return arguments | {"past": [tuple(given[name] for name in group) for group in states]}
    plain = made.interface(kept.of)  # torch keeps what it computes of these in its own order: a first call gives it
    sizes = {**case.sizes, kept.step: max(1, case.sizes.get(kept.past, 0))}
    place = next(iter(given.values())).device
    first = {name: torch.from_numpy(value).to(place) for name, value in draw(plain, sizes, masks="all true").items()}
    constant = {i.argument: first[i.name] for i in plain.inputs if i.name in kept.once.inputs}
    *_, past = method(**{i.argument: first[i.name] for i in plain.inputs})
    return arguments | constant | {"past": past if case.sizes.get(kept.past) else None}


def _seconds(step: Callable[[], object]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def _resident() -> int:
    """Resident memory now, in bytes, its largest so far forgotten where the system lets it be."""
    try:
        Path("/proc/self/clear_refs").write_text("5", "ascii")
    except OSError:  # no Linux: what the imports needed for a moment counts as theirs
        return _peak()
    return _status("VmRSS")


def _peak() -> int:
    """Largest resident memory since, in bytes (macOS counts in bytes, other systems in KiB)."""
    if Path("/proc/self/status").exists():
        return _status("VmHWM")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024


def main() -> None:
    asked = json.loads(sys.stdin.read())
    try:
        result = measure(Case(**asked["case"]), Path(asked["folder"]), asked["seconds"])
    except Rejected as rejected:
        result = {"failed": "; ".join(d.message for d in rejected.diagnostics)}
    except Exception as error:  # whatever a backend raises is the result of its measurement
        result = {"failed": f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
