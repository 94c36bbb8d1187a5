"""Optimisers and schedules of train sections take the steps of their libraries."""

from __future__ import annotations

import copy
import csv
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lion_pytorch
import numpy as np
import pytest
import torch
from objectives import arrays, opened, save
from safetensors.torch import load_file
from torch import nn

from specc import driver
from specc.elaborate.settings import ARGUMENTS, FUNCTIONS
from specc_runtime.training.muon import MuonAdamW
from specc_runtime.training.optimisers import CLASSES, optimiser
from specc_runtime.training.run import Request, train
from specc_runtime.training.schedules import schedule

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(tmp_path, arrays())
    return tmp_path


def module() -> nn.Module:
    torch.manual_seed(0)
    return nn.ModuleDict({"table": nn.Embedding(5, 4), "first": nn.Linear(4, 6), "head": nn.Linear(6, 3)})


def chosen(folder: Path, optim: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    section = opened(folder, "mean(a)")
    section.settings["optim"] = driver.parse_sets({"optim": optim})["optim"].expr  # type: ignore[index]
    made = module()
    return made, optimiser(section, made)


def stepped(made: nn.Module, chosen: torch.optim.Optimizer, steps: int = 3) -> list[torch.Tensor]:
    """The parameters after steps along gradients that each differ."""
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        for p in made.parameters():
            p.grad = torch.randn(p.shape, generator=generator)
        chosen.step()
    return [p.detach().clone() for p in made.parameters()]


SAME: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "lion(lr = 1e-3, weight_decay = 0.1)": lambda p: lion_pytorch.Lion(p, lr=1e-3, weight_decay=0.1),
    "adafactor(lr = 0.01)": lambda p: torch.optim.Adafactor(p, lr=0.01),
    "rmsprop(lr = 0.01)": lambda p: torch.optim.RMSprop(p, lr=0.01),
    "adamw(lr = 0.01, betas = (0.8, 0.9))": lambda p: torch.optim.AdamW(p, lr=0.01, betas=(0.8, 0.9), fused=True),
    "adamw(lr = 0.01, fused = false)": lambda p: torch.optim.AdamW(p, lr=0.01),
    "adam(lr = 0.01, foreach = true)": lambda p: torch.optim.Adam(p, lr=0.01, foreach=True),
    "adam(lr = 0.01, weight_decay = 0.1)": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1, fused=True),
    "sgd(lr = 0.01, momentum = 0.9)": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, fused=True),
    "adagrad(lr = 0.01)": lambda p: torch.optim.Adagrad(p, lr=0.01, fused=True),
}


@pytest.mark.parametrize("optim", SAME)
def test_optimisers_are_those_of_their_libraries(optim: str, folder: Path) -> None:
    other = module()
    found, wanted = stepped(*chosen(folder, optim)), stepped(other, SAME[optim](other.parameters()))
    assert all(map(torch.equal, found, wanted))


def test_a_fused_step_is_the_other_to_rounding(folder: Path) -> None:
    """As far as a run goes with it: clipped, averaged, of several batches, in autocast."""
    section = opened(folder, "mean(square(a - data.y))", "clip = 0.1; ema = 0.9; accumulate = 2")
    last = {}
    for fused in ("true", "false"):
        for precision in ("32", "bf16-mixed"):
            out = folder / f"{fused}-{precision}"
            sets = {"optim": f"adamw(lr = 0.01, fused = {fused})", "precision": f'"{precision}"', "epochs": "5"}
            train(Request(str(section.project.path), sets=sets, out=out))
            last[fused, precision] = load_file(out / "model.safetensors")
    for precision, close in (
        ("32", 1e-6),
        ("bf16-mixed", 1e-5),
    ):  # in bf16 a rounding may turn an activation's last bit
        for name, value in last["true", precision].items():
            torch.testing.assert_close(value, last["false", precision][name], rtol=close, atol=close)


def test_gradients_of_fp16_are_scaled_before_a_fused_step(folder: Path) -> None:
    """So that they can be clipped; a step whose gradients overflow is left out, and the scale falls."""
    made = {fused: chosen(folder, f"adamw(lr = 0.01, fused = {fused})") for fused in ("true", "false")}
    scalers = {fused: torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=2) for fused in made}
    for turn in range(6):
        x = torch.randn(7, 4, generator=torch.Generator().manual_seed(turn)) * (1e30 if turn == 3 else 1)
        for fused, (parts, steps) in made.items():
            parts.zero_grad()
            scalers[fused].scale(parts["first"](x).square().sum()).backward()  # type: ignore[index]
            scalers[fused].unscale_(steps)
            torch.nn.utils.clip_grad_norm_(parts.parameters(), 1.0)
            scalers[fused].step(steps)
            scalers[fused].update()
    assert scalers["true"].get_scale() == scalers["false"].get_scale() == 2.0**9
    for p, q in zip(made["true"][0].parameters(), made["false"][0].parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)


def test_muon_is_for_the_matrices_of_hidden_layers(folder: Path) -> None:
    text = 'muon(lr = 0.02, weight_decay = 0.1, adamw = ["head"], adamw_lr = 1e-3, no_decay = ["*.bias"])'
    made, both = chosen(folder, text)
    other = module()
    names = dict(other.named_parameters())
    muon = torch.optim.Muon([names["first.weight"]], lr=0.02, weight_decay=0.1)
    groups: list[dict[str, Any]] = [
        {"params": [names["table.weight"], names["head.weight"]]},
        {"params": [names["first.bias"], names["head.bias"]], "weight_decay": 0.0},
    ]
    rest = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    for step in range(3):
        generator = torch.Generator().manual_seed(step)
        for p in other.parameters():
            p.grad = torch.randn(p.shape, generator=generator)
        muon.step()
        rest.step()
    wanted = [p.detach() for p in other.parameters()]
    assert all(map(torch.equal, stepped(made, both), wanted))
    assert isinstance(both, MuonAdamW)
    again_module, again = chosen(folder, text)
    stepped(again_module, again, steps=1)
    for p, q in zip(again_module.parameters(), made.parameters(), strict=True):
        p.data.copy_(q.data)
    again.load_state_dict(copy.deepcopy(both.state_dict()))
    assert all(map(torch.equal, stepped(again_module, again, 1), stepped(made, both, 1)))


def test_groups_have_their_own_settings(folder: Path) -> None:
    groups = '[group(["head"], lr = 1e-2), group("first", weight_decay = 0.5)]'
    text = f'adamw(lr = 1e-3, no_decay = ["*.bias"], groups = {groups})'
    made, found = chosen(folder, text)
    names = {id(p): name for name, p in made.named_parameters()}
    told = [([names[id(p)] for p in g["params"]], g["lr"], g["weight_decay"]) for g in found.param_groups]
    assert told == [
        (["table.weight"], 1e-3, 0.01),
        (["head.weight"], 1e-2, 0.01),
        (["head.bias"], 1e-2, 0.0),
        (["first.weight"], 1e-3, 0.5),
        (["first.bias"], 1e-3, 0.0),
    ]


def test_arguments_are_those_of_the_libraries() -> None:
    for name, kind in CLASSES.items():
        assert list(ARGUMENTS[name]) == [*inspect.signature(getattr(torch.optim, kind)).parameters][1:]
    assert set(ARGUMENTS["lion"]) < inspect.signature(lion_pytorch.Lion).parameters.keys()
    assert set(ARGUMENTS["muon"][:-3]) < inspect.signature(torch.optim.Muon).parameters.keys()
    assert {*FUNCTIONS["optim"], *FUNCTIONS["sched"]} <= ARGUMENTS.keys()


def test_plateau(tmp_path: Path) -> None:
    """The rate falls after two validations that were no better."""
    np.savez(tmp_path / "x.npz", x=np.ones((8, 1), np.float32))
    (tmp_path / "one.spec").write_text(
        "dim B\nmodel One { param w: Tensor[1] = ones(); forward(x: Tensor[B, 1]) -> y: Tensor[B, 1] = x * w }\n"
        'train One {\n  data = npz("x.npz", x = "x"); val = npz("x.npz", x = "x")\n'
        "  loss = mean(detach(y)) + 0.0*mean(y)\n  optim = sgd(lr = 1.0)\n"
        '  sched = plateau("val_loss", factor = 0.5, patience = 1)\n  batch = 8; epochs = 6\n}\n'
    )
    train(Request(str(tmp_path / "one.spec"), out=tmp_path / "run"))
    rows = csv.DictReader((tmp_path / "run/metrics.csv").open())
    assert [float(row["lr"]) for row in rows if row["lr"]] == [1.0, 1.0, 1.0, 0.5, 0.5, 0.25]


def test_one_cycle_without_momentum(folder: Path) -> None:
    section = opened(folder, "mean(a)", "sched = one_cycle(max_lr = 0.1)")
    _, made = chosen(folder, "adafactor(lr = 0.01)")
    assert schedule(section, made, 10) is not None
