"""What a run that goes on keeps beside its weights: averages, compiled code, precision, losses that are no number."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from interrupted import KINDS, same, spec, write_rows
from safetensors.torch import load_file

from specc.diagnostics import Rejected
from specc_runtime.training.loop import Fit
from specc_runtime.training.run import Request, train

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_rows(tmp_path)


def test_the_average_is_validated_and_kept(folder: Path) -> None:
    """Against the average written out."""
    path = spec(folder, "  val = split(0.2)\n  steps = 6\n")
    seen: list[list[torch.Tensor]] = []
    validated: list[torch.Tensor] = []
    step, validate = torch.optim.Adam.step, Fit.validation_step

    def watched(self: torch.optim.Adam, *args: Any, **more: Any) -> Any:
        found = step(self, *args, **more)
        parameters = self.param_groups[0]["params"]
        if not parameters[0].is_meta:  # the plan's estimate of memory takes a step without numbers
            seen.append([parameter.detach().clone() for parameter in parameters])
        return found

    def validating(self: Fit, *args: Any) -> None:
        validated.append(self.model.get_parameter("head.weight").detach().clone())
        validate(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.Adam, "step", watched)
        patch.setattr(Fit, "validation_step", validating)
        train(Request(path, sets={"ema": "0.7"}, out=folder / "out"))
    average = seen[0]
    for weights in seen[1:]:
        average = [0.7 * before + 0.3 * value for before, value in zip(average, weights, strict=True)]
    shipped = load_file(folder / "out/model.safetensors")
    names = ["first.weight", "first.bias", "norm.weight", "norm.bias", "head.weight", "head.bias"]
    for name, value in zip(names, average, strict=True):
        assert torch.allclose(shipped[name], value, atol=1e-6)
    assert torch.equal(validated[-1], shipped["head.weight"]) and len(seen) == 6
    assert load_file(folder / "out/checkpoints/step-5/model.safetensors").keys() == shipped.keys()


def test_compiled_code_has_the_same_names_and_nearly_the_same_numbers(folder: Path) -> None:
    path = spec(folder, KINDS["steps"])
    train(Request(path, out=folder / "eager"))
    calls: list[str] = []
    compile = torch.compile

    def eagerly(function: Any, **_: Any) -> Any:
        calls.append(function.__name__)
        return compile(function, backend="eager")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", eagerly)
        train(Request(path, sets={"compile": "true"}, out=folder / "compiled"))
    assert calls == ["_call_impl"]
    one, other = (load_file(folder / name / "model.safetensors") for name in ("eager", "compiled"))
    assert one.keys() == other.keys()
    assert all(torch.allclose(value, other[name], atol=1e-5) for name, value in one.items())


@pytest.mark.slow
def test_compiled_by_inductor(folder: Path) -> None:
    path = spec(folder, KINDS["steps"].replace("  ema = 0.9\n", ""))
    train(Request(path, sets={"compile": "true"}, out=folder / "compiled"))
    assert json.loads((folder / "compiled/run.json").read_text())["status"] == "finished"


def test_half_precision_throughout(folder: Path) -> None:
    """Trained in bfloat16, shipped as the model's float32."""
    path = spec(folder, KINDS["unvalidated"].replace("bf16-mixed", "bf16-true"))
    train(Request(path, out=folder / "out"))
    kept, shipped = (load_file(folder / "out" / name / "model.safetensors") for name in ("checkpoints/step-8", ""))
    assert {value.dtype for name, value in kept.items() if name.startswith("head")} == {torch.bfloat16}
    for value in shipped.values():
        if value.is_floating_point():
            assert value.dtype == torch.float32 and torch.equal(value, value.bfloat16().float())
    if not torch.cuda.is_available():
        with pytest.raises(Rejected, match=r"16-mixed.*without a GPU"):
            train(Request(path, sets={"precision": '"16-mixed"'}, out=folder / "other"))


def test_a_loss_that_is_no_number_leaves_the_states_before_it(folder: Path) -> None:
    path = spec(folder, KINDS["steps"])
    step, count, out = Fit.training_step, iter(range(1000)), folder / "out"

    def breaking(self: Fit, *args: Any) -> torch.Tensor:
        if next(count) == 4:
            with torch.no_grad():
                self.model.get_parameter("norm.bias").fill_(torch.inf)
        return step(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Fit, "training_step", breaking)
        with pytest.raises(Rejected, match=r"T532.*at step 5: the first output that is not finite is that of norm"):
            train(Request(path, out=out))
    assert json.loads((out / "run.json").read_text())["status"] == "failed"
    train(Request(resume=out))
    train(Request(path, out=folder / "whole"))
    same(folder / "whole", out)
