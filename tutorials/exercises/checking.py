"""How an answer to an exercise is checked: one property after another, until one breaks.

A check is given the reader's function. It calls it and raises `Wrong` with the smallest case in which the
property does not hold. It never says what the right formula is, only what is wrong with the answer.
"""

from __future__ import annotations

import functools
import importlib
import math
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor


class Wrong(Exception):
    """A property does not hold; the text is the counterexample."""


@dataclass(frozen=True)
class Property:
    """says: what must hold. usually: the mistake that most often breaks it. check: raises `Wrong` if it is
    broken.
    """

    says: str
    usually: str
    check: Callable[[Callable], None]


Properties = dict[str, list[Property]]  # the exercises of a chapter by the name of their function


def registrar(properties: Properties) -> Callable:
    """The decorator `@prop(exercise, says=..., usually=...)` of one chapter's checks."""

    def prop(exercise: str, *, says: str, usually: str) -> Callable:
        def register(check: Callable[[Callable], None]) -> Callable:
            properties.setdefault(exercise, []).append(Property(says, usually, check))
            return check

        return register

    return prop


def load_checks(chapter: int) -> Properties:
    """The properties of a chapter's exercises, in the order of the exercises."""
    return importlib.import_module(f"tutorials.exercises.checks.chapter_{chapter:02}").PROPERTIES


@dataclass(frozen=True)
class Verdict:
    """state: "right", "wrong" or "empty" (nothing written yet). text: what is wrong, or where to write."""

    state: str
    text: str = ""


def judge(answer: Callable, properties: list[Property]) -> Verdict:
    """Hold an answer to its properties; the first that breaks is told."""
    for claim in properties:
        watched = Watched(answer)
        try:
            claim.check(watched.call)
        except Wrong as wrong:
            problem = str(wrong)
        except Exception as error:
            # torch raises NotImplementedError too, with a text: for a tensor of the wrong type
            if isinstance(error, NotImplementedError) and not error.args:
                return Verdict("empty", missing(error))
            problem = watched.problem(error)
        else:
            continue
        return Verdict("wrong", f"must hold: {claim.says}\nbut:       {problem}\nusually:   {claim.usually}")
    return Verdict("right", f"{len(properties)} properties hold")


def missing(error: NotImplementedError) -> str:
    """The function that is not written yet, which may be another one that the answer calls."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{frame.name} in tutorials/exercises/{Path(frame.filename).name}"


class Watched:
    """An answer that remembers its last call, so that one which stops can be told with its arguments."""

    def __init__(self, answer: Callable) -> None:
        self.last = ""

        @functools.wraps(answer)
        def call(*arguments: object) -> object:
            self.last, self.returned = called(answer, *arguments), None
            self.returned = answer(*arguments)
            if self.returned is None:
                raise Wrong(
                    f"{self.last}: nothing is returned; is there a way through the function without `return`?"
                )
            return self.returned

        self.call = call

    def problem(self, error: Exception) -> str:
        """What to say of an error: one in the answer itself, or one that its value has caused in the
        check.
        """
        if self.returned is not None:
            return (
                f"{self.last} is {shown(self.returned)}, which is not the kind of thing "
                f"that is asked for ({type(error).__name__}: {error})"
            )
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return (
            f"{self.last} stops with {type(error).__name__}: {error} (line {frame.lineno} "
            f"of {Path(frame.filename).name})"
        )


# --- for writing checks


def expect(condition: object, counterexample: str) -> None:
    """Raise Wrong(counterexample) unless the condition holds."""
    if not condition:
        raise Wrong(counterexample)


def called(answer: Callable, *arguments: object) -> str:
    """A call as the reader would type it: "perplexity([-1, -2], [1, 2])"."""
    return f"{answer.__name__}({', '.join(map(shown, arguments))})"


def shown(value: object) -> str:
    """A value in few digits."""
    if isinstance(value, Tensor):
        return shown(value.tolist())
    if isinstance(value, (list, tuple)):
        inside = ", ".join(map(shown, value))
        return f"[{inside}]" if isinstance(value, list) else f"({inside})"
    if not isinstance(value, float):
        return repr(value)
    text = f"{value:.6g}"
    return repr(value) if float(text) in (0.0, 1.0) and float(text) != value else text  # nearly 1 is not 1


def close(found: object, wanted: object, tolerance: float = 1e-6) -> bool:
    """Whether two numbers, or two tensors or lists of one shape, are equal to six digits. Nothing is close to
    nan.
    """
    try:
        a, b = (torch.as_tensor(x, dtype=torch.float64) for x in (found, wanted))
    except (TypeError, ValueError, RuntimeError):
        return False
    return a.shape == b.shape and bool(torch.isclose(a, b, rtol=tolerance, atol=tolerance).all())


def finite(value: object) -> bool:
    """Whether a number, or every number of a tensor, is finite."""
    return bool(torch.as_tensor(value, dtype=torch.float64).isfinite().all())


def tensor(*values: float) -> Tensor:
    """A tensor (N,) in float64."""
    return torch.tensor(values, dtype=torch.float64)


def log_tensor(*probabilities: float) -> Tensor:
    """Log-probs (K,) in float64 of probabilities that sum to one."""
    assert math.isclose(sum(probabilities), 1)
    return tensor(*probabilities).log()
