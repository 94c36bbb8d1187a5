"""Several processes of one run: Lightning's strategies over gloo or nccl, and how the other processes come to the run.

Lightning would start the program again with the arguments of this one. A run is started from wherever `train` is
called, so the others are told the run itself: `python -m specc_runtime.training.worker` with what was asked for.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from specc.diagnostics import Rejected
from specc_runtime.training.failures import ended
from specc_runtime.training.request import Request
from specc_runtime.training.section import Section, failed, unsupported
from specc_runtime.training.watching import ARRIVAL, Watch, arrived, meet

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
VARIABLES = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What Lightning leaves in the environment."""


class Launcher(_SubprocessScriptLauncher):
    """Starts the other processes; `job` tells them what to do."""

    job = ""

    def launch(self, function: Callable[..., Any], *args: Any, trainer: Any = None, **kwargs: Any) -> Any:
        if not self.cluster_environment.creates_processes_externally:
            self._call_children_scripts()
        arrived()
        return function(*args, **kwargs)

    def _call_children_scripts(self) -> None:
        environment = self.cluster_environment
        os.environ |= {
            "MASTER_ADDR": environment.main_address,
            "MASTER_PORT": str(environment.main_port),
            "NODE_RANK": "0",
            "LOCAL_RANK": "0",
            "WORLD_SIZE": str(self.num_processes),
        }
        command = [sys.executable, "-m", "specc_runtime.training.worker", self.job, str(os.getpid())]
        with contextlib.ExitStack() as pipes:
            ends = {}
            for rank in range(1, self.num_processes):
                read, write = os.pipe()
                pipes.callback(os.close, read)
                own = {**os.environ, "LOCAL_RANK": str(rank), ARRIVAL: str(write)}
                how: Any = {"stdout": subprocess.DEVNULL, "start_new_session": True, "pass_fds": (write,)}
                try:
                    ends[read] = subprocess.Popen(command, env=own, **how)
                finally:
                    os.close(write)
                self.procs.append(ends[read])
            meet(ends)


class Replicated(DDPStrategy):
    """Each process has the whole model and a part of every step's rows."""

    def _configure_launcher(self) -> None:
        assert self.cluster_environment is not None
        self._launcher = Launcher(self.cluster_environment, self.num_processes, self.num_nodes)


class Sharded(ModelParallelStrategy):
    """Each process has a part of every weight; checkpoints are those of one process."""

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def _configure_launcher(self) -> None:
        assert self.cluster_environment is not None
        self._launcher = Launcher(self.cluster_environment, self.num_processes, self.num_nodes)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None) -> None:
        Strategy.save_checkpoint(self, checkpoint, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        return Strategy.load_checkpoint(self, checkpoint_path, weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        assert self.model is not None
        set_model_state_dict(self.model, dict(checkpoint["state_dict"]), options=WHOLE)

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        assert self.model is not None
        return dict(get_optimizer_state_dict(self.model, getattr(optimizer, "_optimizer", optimizer), options=WHOLE))

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        assert self.model is not None
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            set_optimizer_state_dict(self.model, optimizer, optim_state_dict=state, options=WHOLE)


def strategy_of(section: Section, count: int, unused: bool) -> Any:
    """Lightning's strategy for a section in `count` processes; raises `Rejected` (E125, B650).

    `unused` is whether some parameters may have no part in the loss of a batch.
    """
    asked = section.value("strategy", "auto")
    if torch.cuda.is_available() and count > torch.cuda.device_count():
        there = torch.cuda.device_count()
        raise failed("E125", f"`devices = {count}`: there are {there}", section.span("devices"), f"devices = {there}")
    if count == 1:
        return "auto"
    backend = None if torch.cuda.is_available() else "gloo"
    if asked != "fsdp":
        return Replicated(process_group_backend=backend, find_unused_parameters=unused)
    for name, whole in (("ema", "ema" not in section.settings), ("entry", section.entry == "forward")):
        if not whole:
            raise unsupported(f'`{name}` with `strategy = "fsdp"`', section.span(name), 'strategy = "ddp"')
    return Sharded(count, 1, save_distributed_checkpoint=False, process_group_backend=backend)


def shard(model: torch.nn.Module, mesh: Any) -> None:
    """Divide the weights of each block of a list, and what is left, among the processes."""
    from torch.distributed.fsdp import fully_shard

    for part in model.modules():
        if isinstance(part, torch.nn.ModuleList):
            for block in part:
                fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def job(request: Request, folder: Path, state: str | None) -> str:
    """What another process needs to take part in a run."""
    return json.dumps(
        {
            "target": str(Path(request.target).absolute()) if Path(request.target).exists() else request.target,
            "name": request.name,
            "sets": dict(request.sets),
            "weights": request.weights,
            "max_steps": request.max_steps,
            "trust": list(request.trust),
            "resume": str(folder),
            "state": state,
        }
    )


def rank() -> int:
    """Of this process."""
    return int(os.environ.get("LOCAL_RANK", "0"))


@contextlib.contextmanager
def together(strategy: Any, told: str, again: str) -> Iterator[None]:
    """The other processes take part in what this one does; none is left when it fails.

    Raises `Rejected` (T534) where this one failed because another one was gone; `again` is how to go on.
    """
    launcher = getattr(strategy, "launcher", None)
    if not isinstance(launcher, Launcher) or rank():
        yield
        return
    before = {name: os.environ.get(name) for name in VARIABLES}
    launcher.job = told
    watch = Watch(launcher.procs, again)
    watch.start()
    try:
        yield
        for process in launcher.procs:
            process.wait()
    except RuntimeError as error:  # of the connection, if there is an end of which it tells
        raise ended(launcher.procs, again) or error from None
    except Rejected as error:  # of a step in which weights were to come from there
        raise ended(launcher.procs, again, killed=True) or error from None
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        launcher.kill(signal.SIGKILL)
        for process in launcher.procs:
            process.wait()
        watch.over.set()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
