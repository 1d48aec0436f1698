"""Long work reports how far it is, and stops when it is asked to."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from mini_dpo.batches import B, Batches, E
from mini_dpo.processes import processes

SILENCE = 10  # seconds, after which work that goes on says how far it is
Item = TypeVar("Item")


def watched(items: Iterable[Item], n: int, what: str, kind: str = "batches") -> Iterator[Item]:
    """The `n` items. About every ten seconds a line says how many are done. what: begins the line. kind: what
    the items are.
    """
    said = time.perf_counter()
    for i, item in enumerate(items):
        if time.perf_counter() - said > SILENCE:
            print(f"{what}: {i:,} of {n:,} {kind}", flush=True)
            said = time.perf_counter()
        yield item


def look(batches: Batches[E, B], what: str) -> Iterator[B]:
    """Every batch once, in file order, `watched`."""
    return watched(batches.once(), len(batches.cut(range(len(batches.examples)))), what)


@contextmanager
def on_signals(handler: Callable) -> Iterator[None]:
    """Inside this context, Ctrl-C and SIGTERM call `handler`."""
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, was in before.items():
            signal.signal(number, was)


def interrupt(signum: int, frame: object) -> None:
    """A signal handler that raises KeyboardInterrupt."""
    raise KeyboardInterrupt


@contextmanager
def ask_before_stopping() -> Iterator[list[int]]:
    """Inside this context, Ctrl-C and SIGTERM are added to the list that is given. The loop looks at the list
    between two steps. A second signal stops at once.
    """
    asked: list[int] = []

    def ask(signum: int, frame: object) -> None:
        if asked and processes() == 1:  # torchrun passes on what the terminal has sent to all already
            raise KeyboardInterrupt
        if asked:
            return
        asked.append(signum)
        print("\nstopping after this step (again to stop at once)", flush=True)

    with on_signals(ask):
        yield asked


class Progress:
    """A line on the screen about ten times a stage: step, loss, metrics, speed, time left."""

    def __init__(self, stage: str, first: int, steps: int) -> None:
        self.stage, self.steps = stage, steps
        self.every = max(1, steps // 10)
        self.start, self.first = time.perf_counter(), first
        self.tokens = 0

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside this context, time does not count for the speed and the time left."""
        begun = time.perf_counter()
        yield
        self.start += time.perf_counter() - begun

    def due(self, step: int) -> bool:
        """Whether a line is printed after this step."""
        return step % self.every == 0 or step == self.steps

    def report(self, step: int, record: dict[str, float]) -> None:
        """Print the line of a step, from its record of metrics."""
        seconds = max(time.perf_counter() - self.start, 1e-9)  # a clock may stand still
        labels = [
            ("loss", "loss"),
            ("eval_loss", "held-out loss"),
            ("rewards/margins", "margin"),
            ("rewards/accuracies", "accuracy"),
            ("rewards/score", "score"),
            ("kl", "KL"),
        ]
        values = "  ".join(f"{label} {record[name]:.3f}" for name, label in labels if name in record)
        taken = step - self.first  # none where only a look was owed
        speed = (
            f"  {self.tokens / seconds:,.0f} tokens/s  {clock(seconds / taken * (self.steps - step))} left"
            if taken
            else ""
        )
        print(f"{self.stage}  step {step:>{len(str(self.steps))}}/{self.steps}  {values}{speed}", flush=True)


def clock(seconds: float) -> str:
    """A duration as people read it: 75 -> "1:15"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
