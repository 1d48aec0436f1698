"""A stage of training on the disk: its log and its checkpoint, and how the stage is resumed from them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from mini_dpo.errors import UserError, expecting
from mini_dpo.model import GPT
from mini_dpo.optimizers import Muon
from mini_dpo.processes import rank
from mini_dpo.saving.board import open_board, write_board
from mini_dpo.saving.checkpoint import MetricsLog, load_own, load_weights, save_checkpoint


@dataclass(frozen=True)
class StageFiles:
    """Where a stage ("sft" or "dpo") is kept.
    tokenizer, run: the name of the tokenizer and the id of the run, for the checkpoint.
    started: when this process began with the stage. log_to: "tensorboard" for a second log there.
    """

    stage: str
    folder: Path
    tokenizer: str
    started: float = field(default_factory=time.perf_counter)
    run: str = ""
    log_to: str = "none"

    @property
    def checkpoint(self) -> Path:
        """The file of the checkpoint."""
        return self.folder / f"{self.stage}.pt"


class Stage:
    """A stage for the loop: where it begins, and what it keeps. Without `files` it begins at step 0 and keeps
    nothing.

    step: how many steps are done. finished: whether these are all.
    owed: the record of the last step if its look at the validation data was stopped, else None.
    """

    def __init__(
        self, files: StageFiles | None, name: str, policy: GPT, optimizer: torch.optim.Optimizer, steps: int
    ) -> None:
        """Load the checkpoint of the stage, if there is one, into `policy` and `optimizer`. Raises UserError
        if the checkpoint is not from this stage of this run.
        """
        self.files, self.name = files, files.stage if files else name
        self.started = files.started if files else time.perf_counter()
        self.step, self.finished, self.spent = 0, False, 0.0
        self.owed: dict[str, float] | None = None
        self.log: MetricsLog | None = None
        self.board: Any = None
        saved: dict[str, Any] = {}
        if files and files.checkpoint.exists():
            saved = load_own(files.checkpoint, files.run)
            load_weights(files.checkpoint, policy, saved["model"])
            self.step, self.finished = saved["step"], saved["finished"]
            self.spent, self.owed = saved.get("seconds", 0.0), saved.get("owed")
            if not self.finished:
                if not 0 < self.step <= steps:
                    raise UserError(
                        f"{files.checkpoint}: at step {self.step} of {steps}; it is not this run's"
                    )
                go_on(optimizer, files.checkpoint, saved.get("optimizer"))
        if files and not self.finished and rank() == 0:  # only the first process writes
            before = files.folder / "sft.pt"  # there only if a stage came before this one
            known = saved or (load_own(before, files.run) if before.exists() else {})
            self.log = MetricsLog(files.folder / "metrics.jsonl", known)
            if files.log_to == "tensorboard":  # the step that is owed a look is not in the log yet
                self.board = open_board(files.folder, self.name, self.step + 1 - bool(self.owed))

    def seconds(self) -> float:
        """The seconds of the stage so far, over all resumed parts."""
        return self.spent if self.finished else self.spent + time.perf_counter() - self.started

    def write(self, records: Sequence[dict[str, float]], first: int, rates: Sequence[float]) -> None:
        """Log the records of the steps `first`, `first` + 1, ..., each with its learning rate."""
        if self.log:
            for step, (record, rate) in enumerate(zip(records, rates, strict=True), first):
                record = {**record, "learning_rate": rate}
                self.log.write({"stage": self.name, "step": step, **record})
                if self.board:
                    write_board(self.board, step, record)

    def save(self, policy: GPT, optimizer: torch.optim.Optimizer, step: int, finished: bool) -> None:
        """Write the checkpoint after `step` steps. A finished stage keeps the weights only; an unfinished one
        also keeps the state of the optimizer.
        """
        if self.files and self.log:
            rest: dict[str, Any] = (
                {} if finished else {"optimizer": optimizer.state_dict(), "owed": self.owed}
            )
            if self.board:
                self.board.flush()
            rest |= {"step": step, "finished": finished, "run": self.files.run, "seconds": self.seconds()}
            save_checkpoint(self.files.checkpoint, policy, self.files.tokenizer, **self.log.state(), **rest)


def go_on(optimizer: torch.optim.Optimizer, checkpoint: Path, saved: Any) -> None:
    """Give an optimizer its moments back; its settings are those of the run. Raises UserError if the moments
    do not fit these parameters.
    """
    with expecting(checkpoint, "the state of an optimizer for this model"):
        optimizer.load_state_dict({**optimizer.state_dict(), "state": saved["state"]})
        for number, group in enumerate(optimizer.param_groups):
            names = (
                ["step", "exp_avg"]
                if number == 0 and isinstance(optimizer, Muon)
                else ["step", "exp_avg", "exp_avg_sq"]
            )
            for parameter in group["params"]:
                moments = [optimizer.state[parameter][name] for name in names]
                # a kernel takes their shape and layout on trust, and would read and write elsewhere in memory
                if [m.shape for m in moments] != [(), *[parameter.shape] * len(names[1:])] or not all(
                    m.dtype in (torch.float32, parameter.dtype) and m.is_contiguous() for m in moments
                ):
                    raise ValueError("other shapes or types")
