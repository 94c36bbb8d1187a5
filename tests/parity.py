"""Equality with transformers: a small random checkpoint, `specc build --weights`, both programs against it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import parity_table

from specc_runtime import open_build
from specc_runtime.build import Request, Result, build

Arrays = Mapping[str, np.ndarray]

LIMIT = 1e-5
"""Largest difference allowed, relative to max(1, largest |reference|)."""


def randomised(model: Any) -> Any:
    """A transformers module in eval mode, every parameter and stored buffer at values that no mistake leaves unseen."""
    import torch

    torch.manual_seed(1)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            values = torch.randn(tensor.shape)
            if not tensor.is_floating_point():  # a counter
                tensor.fill_(7)
            elif name.endswith("running_var"):
                tensor.copy_(0.5 + values.abs())
            elif tensor.dim() == 1 and name.endswith(".weight"):  # of a norm
                tensor.copy_(1 + 0.2 * values)
            elif tensor.dim() < 2:
                tensor.copy_(0.3 * values)
            else:
                tensor.copy_(values * tensor[0].numel() ** -0.5)
    return model.eval()


@dataclass(frozen=True)
class Parity:
    """A build of a spec with the weights of a transformers model; numpy in, numpy out."""

    model: Any
    made: Result
    module: Any
    session: Any

    def check(self, given: Arrays, expected: Arrays, visible: Mapping[str, np.ndarray] | None = None) -> None:
        """Both programs give `expected`, by output name.

        Inputs that `given` leaves out are optional: torch is called without them, onnxruntime with what a graph that
        has them takes for nothing: a mask of ones, ids of zeros. `visible`: rows to compare, by output name.
        """
        import torch

        with torch.no_grad():
            ours = self.module(**{name: torch.from_numpy(array) for name, array in given.items()})
        names = [output.name for output in self.session.get_outputs()]
        results = [ours] if len(names) == 1 else list(ours)
        theirs = self.session.run(None, self._feeds(given))
        for backend, arrays in (("torch", [r.numpy() for r in results]), ("onnxruntime", theirs)):
            for name, array in zip(names, arrays, strict=True):
                if name in expected:
                    rows = (visible or {}).get(name, ...)
                    assert_close(array[rows], expected[name][rows], self.family, backend, name)

    @property
    def family(self) -> str:
        """Transformers' name of it, else the spec's."""
        if hasattr(self.model, "config"):
            return str(self.model.config.model_type)
        return f"{self.made.manifest['name']} (torch.nn)"

    def _feeds(self, given: Arrays) -> dict[str, np.ndarray]:
        shape = next((given[name].shape for name in ("input_ids", "input_values") if name in given), ())
        nothing = {"tensor(bool)": np.ones(shape, bool), "tensor(int64)": np.zeros(shape, np.int64)}
        return {i.name: given[i.name] if i.name in given else nothing[i.type] for i in self.session.get_inputs()}

    def check_gradients(self, given: Arrays, output: str) -> None:
        """Every parameter has the gradient that it has in transformers, of a sum that no symmetry makes zero.

        Parameters are told by their values, which are random: the two sides may name them differently.
        """
        import torch

        tensors = {name: torch.from_numpy(array) for name, array in given.items()}
        found = []
        for module in (self.module, self.model):
            module.zero_grad()
            results = module(**tensors)
            if module is self.model:
                result = results[output]
            else:
                names = [o.name for o in self.session.get_outputs()]
                result = results if len(names) == 1 else results[names.index(output)]
            (result * torch.linspace(-1, 2, result.numel()).reshape(result.shape)).sum().backward()
            found.append({p.detach().numpy().tobytes(): p.grad for p in module.parameters()})
        ours, theirs = found
        assert ours.keys() == theirs.keys()
        assert any(grad is not None for grad in ours.values())
        scale = max(float(grad.abs().max()) for grad in theirs.values() if grad is not None)
        for key, grad in theirs.items():
            if grad is None:
                assert ours[key] is None
            else:
                torch.testing.assert_close(ours[key], grad, rtol=1e-4, atol=1e-5 * scale)

    def check_compiles(self, given: Arrays) -> None:
        """`torch.compile` takes the module whole and changes nothing; ruff has nothing to say about its source."""
        import torch

        tensors = {name: torch.from_numpy(array) for name, array in given.items()}
        torch.compiler.reset()
        compiled: Any = torch.compile(self.module, fullgraph=True, backend="eager")
        with torch.no_grad():
            torch.testing.assert_close(compiled(**tensors), self.module(**tensors), rtol=0, atol=0)
        [source] = self.made.folder.glob("*.py")
        for command in (["check", "--select", "E,F,W,I,UP,B,C4,PIE,RUF"], ["format", "--check", "--diff"]):
            ruff = [sys.executable, "-m", "ruff", *command, "--isolated", "--line-length", "100", "--no-cache"]
            run = subprocess.run([*ruff, str(source)], capture_output=True, text=True)
            assert run.returncode == 0, run.stdout + run.stderr


def assert_close(found: np.ndarray, expected: np.ndarray, family: str, backend: str, what: str = "") -> None:
    """`backend` gives the reference's values, which the table of parity remembers."""
    assert found.shape == expected.shape, what
    difference, scale = float(np.abs(found - expected).max()), max(1.0, float(np.abs(expected).max()))
    parity_table.compared(family, backend, difference, scale)
    assert difference <= LIMIT * scale, f"{what} of {backend}: differs by {difference:.2g} at a scale of {scale:.2g}"


def built(spec: str, model: Any, folder: Path, without: Sequence[str] = ()) -> Parity:
    """Save a transformers model, build its spec with that checkpoint, proof included, and see that all is there."""
    model.save_pretrained(folder / "checkpoint")
    made = build(
        Request(spec, weights=str(folder / "checkpoint"), out=folder / "out", render=False, without=frozenset(without))
    )
    assert made.warnings == () and "agree" in made.proof
    assert made.manifest["weights"]["source"] == "checkpoint" and made.manifest["weights"]["fresh"] == []
    opened = open_build(made.folder)
    module = opened.module()
    ours, theirs = ({t.data_ptr(): t.numel() for t in m.state_dict().values()} for m in (module, model))
    assert sum(ours.values()) == sum(theirs.values()), "the same numbers are in both"
    return Parity(model, made, module, opened.session())


def published(model: Any, config: Any) -> int:
    """Parameters of a transformers model class at a config, without allocating them."""
    import torch

    with torch.device("meta"):
        return sum(p.numel() for p in model(config).parameters())
