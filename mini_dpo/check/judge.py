"""A property, and the search for the smallest example that breaks it.

A property either must hold for all losses (required.py, numerics.py, usable.py), or is a fact that a loss
declares (declared.py): then it must hold where it is declared and be broken somewhere where it is denied, so
that a false statement fails either way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky

from mini_dpo.check.examples import hyperparameters, settings_shown
from mini_dpo.losses import Loss

EXAMPLES = 60  # that hypothesis draws of each property, unless told otherwise


class Broken(AssertionError):
    """A property does not hold; the message is a counterexample in words. excused: the loss says that it is
    so there.
    """

    def __init__(self, message: str, excused: bool = False) -> None:
        super().__init__(message)
        self.excused = excused


class Enough(Exception):
    """What a loss denies is seen broken: nothing more is to be found out."""


class NotAsked(Exception):
    """A property cannot be asked of this loss; the message says why."""


@dataclass(frozen=True)
class Property:
    """name: how it is called. says: the property in words. usually: what its failure usually means.
    check(loss, draw, hyperparameters): raises Broken, or returns what is worth telling where it holds. fact:
    the declared fact that it tests, None if it must always hold. asked(loss): why it does not apply, "" if it
    does. exception(loss): where the loss says that it does not hold. share: of the examples, where each takes
    long. wide: whether hyperparameters go far from their defaults.
    """

    name: str
    says: str
    usually: str
    check: Callable[[Loss, Callable, dict], str | None]
    fact: str | None
    asked: Callable[[Loss], str]
    exception: Callable[[Loss], str]
    share: float
    wide: bool


PROPERTIES: dict[str, Property] = {}


CHEAP = 0.3  # properties with a smaller share of the examples take long for each


def prop(
    name: str,
    *,
    says: str,
    usually: str,
    fact: str | None = None,
    asked=lambda loss: "",
    exception=lambda loss: "",
    share: float = 1.0,
    wide: bool = True,
):
    """Register the function below, check(loss, draw, hyperparameters), as a property."""

    def register(check: Callable[[Loss, Callable, dict], str | None]) -> Property:
        PROPERTIES[name] = Property(name, says, usually, check, fact, asked, exception, share, wide)
        return PROPERTIES[name]

    return register


@dataclass(frozen=True)
class Verdict:
    """held: True, False, or None if the property was not asked. text: the counterexample, why it was not
    asked, or what is worth telling.
    """

    held: bool | None
    text: str = ""


def examine(loss: Loss, claim: Property, examples: int = EXAMPLES, shrink: bool = True) -> Verdict:
    """Look for the smallest counterexample (the first one, without `shrink`). The same one every time: the
    draws are not random.
    """
    if reason := claim.asked(loss):
        return Verdict(None, reason)
    denied, broken_where_denied, told = [], [], ""
    exception = claim.exception(loss)
    if exception or (claim.fact and loss.declared(claim.fact) is not True):
        examples = max(examples, 4 * EXAMPLES)  # enough to find a place where what is denied is broken
    on_purpose = claim.fact is not None and loss.declared(claim.fact) is False
    # of the others each takes long
    phases = (
        [Phase.generate, Phase.shrink]
        if shrink and claim.share > CHEAP and not on_purpose
        else [Phase.generate]
    )

    @settings(
        max_examples=max(1, int(claim.share * examples)),
        phases=phases,
        derandomize=True,
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def search(data: st.DataObject) -> None:
        nonlocal told
        hyper = data.draw(hyperparameters(loss, claim.wide))
        declared = claim.fact is None or loss.fact(claim.fact, **hyper)
        try:
            told = claim.check(loss, data.draw, hyper) or told
        except Broken as broken:
            if declared and not broken.excused:
                raise
            broken_where_denied.append(hyper)
            if on_purpose:
                raise Enough from None
        if not declared:
            denied.append(hyper)

    try:
        search()
    except Broken as broken:
        return Verdict(False, str(broken))
    except Enough:
        return Verdict(True, "declared not to hold, and it does not")
    except NotAsked as reason:
        return Verdict(None, str(reason))
    except Flaky:
        return Verdict(False, "asked the same twice, the loss gives two different answers")
    except Exception as error:  # the loss itself failed on an example
        return Verdict(False, f"the loss raised {type(error).__name__}: {error}")
    if denied and not broken_where_denied:
        return Verdict(
            False,
            f"{claim.fact}=False is declared, and no example breaks it "
            f"({settings_shown(denied[0])}): declare it True",
        )
    if exception and not broken_where_denied:
        return Verdict(
            False, f"an exception is declared where {exception}, and no example there needs it: leave it out"
        )
    if exception:
        return Verdict(True, f"but where {exception}, as the loss declares")
    return Verdict(True, told)
