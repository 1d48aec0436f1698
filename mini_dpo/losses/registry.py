"""What a loss declares, and where it is kept: `@loss` makes one of a function."""

from __future__ import annotations

import inspect
import math
import re
import typing
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from mini_dpo.losses.inputs import PairLogps, Responses, UnpairedLogps


@dataclass(frozen=True)
class Loss:
    """A loss and the facts that it declares; `loss` below says what they mean. Call it like the function:
    `LOSSES["dpo"](logps, beta=0.1)` -> (B,)."""

    name: str
    function: Callable[..., Tensor]
    paper: str
    aliases: tuple[str, ...]
    reward: Callable[..., Tensor] | None
    at_reference: Callable[..., float] | None
    best_margin: Callable[..., float | None] | None
    swap_slope: Callable[..., float] | None
    reversed_where: str
    facts: dict[str, bool | Callable[..., bool]]
    paired: bool
    choices: dict[str, tuple[str, ...]]

    def __call__(self, logps: PairLogps | UnpairedLogps, **hyperparameters: float | str) -> Tensor:
        for name, given in hyperparameters.items():
            require(isinstance(given, str) or math.isfinite(given), f"{name} must be a finite number, not {given}")
        values = self.function(logps, **hyperparameters)
        if not isinstance(values, Tensor) or values.shape != (len(logps),):
            found = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(f"{self.name} must return one value an example, a tensor of shape ({len(logps)},), not {found}")
        given = (logps.chosen if isinstance(logps, PairLogps) else logps.responses).policy
        if (values.dtype, values.device) != (given.dtype, given.device):
            raise ValueError(f"{self.name} must return values in the type of the log-probs, {given.dtype}, and on their device, {given.device}, not {values.dtype} on {values.device}")
        return values

    def fact(self, name: str, **hyperparameters: float | str) -> bool:
        """A declared fact, at these hyperparameters if it depends on them."""
        value = self.facts[name]
        return value(**hyperparameters) if callable(value) else value

    @property
    def reference(self) -> bool:
        """Whether it reads the reference's log-probs."""
        return self.facts["reference"]

    def rewards(self, responses: Responses, **hyperparameters: float | str) -> Tensor:
        """The reward that the policy implies for each response, up to what two responses to a prompt share: (B,)."""
        if self.reward:
            return self.reward(responses, **hyperparameters)
        return hyperparameters.get("beta", 1.0) * (responses.logratio if self.reference else responses.policy)

    @property
    def hyperparameters(self) -> dict[str, float | str]:
        """The function's keyword arguments, with their defaults."""
        parameters = inspect.signature(self.function).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}

    def describe(self, hyperparameter: str) -> str:
        """What the docstring says of a hyperparameter, in a line that begins with its name and a colon."""
        match = re.search(rf"^{hyperparameter}: (.+)$", self.docstring, re.MULTILINE)
        return match[1] if match else ""

    @property
    def docstring(self) -> str:
        doc = self.function.__doc__ or ""
        closing = doc.rpartition("\n")[2]
        if closing.strip():
            return inspect.getdoc(self.function) or ""
        return "\n".join(line.removeprefix(closing) for line in doc.splitlines()).strip()  # the quotes stand where the words begin

    @property
    def formula(self) -> str:
        """The docstring's first indented lines."""
        match = re.search(r"(^ {4}.*\n?)+", self.docstring, re.MULTILINE)
        return "\n".join(line.strip() for line in match[0].splitlines()) if match else ""


LOSSES: dict[str, Loss] = {}


def loss(
    *,
    paper: str,
    aliases: tuple[str, ...] = (),
    reward: Callable[..., Tensor] | None = None,
    at_reference: Callable[..., float] | None = None,
    best_margin: Callable[..., float | None] | None = None,
    swap_slope: Callable[..., float] | None = None,
    reversed_where: str = "",
    reference: bool = True,
    mismatched: bool = False,
    estimate: bool = False,
    shift_invariant: bool | Callable[..., bool] = True,
    monotone: bool | Callable[..., bool] = True,
    convex: bool | Callable[..., bool] = True,
    decomposes: bool | Callable[..., bool] = True,
    beta_scales: bool | Callable[..., bool] = True,
    keeps_learning: bool | Callable[..., bool] = True,
) -> Callable[[Callable[..., Tensor]], Loss]:
    """Register the function below as a loss under its own name, with facts that it is held to.

    The function takes `logps: PairLogps` (or `UnpairedLogps`) and hyperparameters as keyword arguments with a default
    each (a number, or one of a `Literal`'s words), and returns one value an example. The defaults of the facts are
    DPO's. A fact may be a function of the hyperparameters; each callable takes them by name.

    paper: where the formula is from. aliases: other names that people know it by.
    reward(responses, **hyperparameters): the reward that it implies for each response, (B,); beta r(y) if not given.
        The margin m is the chosen response's minus the rejected one's.
    at_reference(**hyperparameters): its value where the policy is the reference.
    best_margin(p, **hyperparameters): the margin of its population minimiser where people prefer y_w with
        probability p; infinite if it has no finite one, None if no closed form is known.
    swap_slope(**hyperparameters): loss(y_w, y_l) - loss(y_l, y_w) is this times m. Logistic losses have -1.
    reversed_where: where a step makes the chosen response fall against the rejected one, as a formula in the symbols of
        the docstring's, such as "h > 1 / (2 beta)"; nowhere if not given.
    reference: it reads the reference. mismatched: it wants `UnpairedLogps.mismatched`. estimate: it makes one number of
        the whole batch and detaches it, so that the number has no gradient. (Weights that are detached example by example
        cannot be declared: `check` will say that the gradient is not the derivative.)
    shift_invariant: one number added to both log-ratios of a pair changes nothing: the partition function cancels.
    monotone, convex: along the margin, y_w gaining as many nats as y_l loses, it never rises, never bends down.
    decomposes: an example's value does not depend on the others in its batch, so accumulated batches are exact.
    beta_scales: it depends on the log-probs times beta only. keeps_learning: its gradient does not vanish for pairs
        that are ranked very wrongly.
    """
    facts = dict(reference=reference, mismatched=mismatched, estimate=estimate, shift_invariant=shift_invariant, monotone=monotone, convex=convex, decomposes=decomposes, beta_scales=beta_scales, keeps_learning=keeps_learning)  # fmt: skip

    def register(function: Callable[..., Tensor]) -> Loss:
        if not inspect.isfunction(function) or inspect.iscoroutinefunction(function):
            raise ValueError(f"@loss stands above a plain function, `def {getattr(function, '__name__', 'my_loss')}(logps: PairLogps, ...)`, not above a class or an async function")
        paired, choices = read_signature(function)
        new = Loss(function.__name__, function, paper, aliases, reward, at_reference, best_margin, swap_slope, reversed_where, facts, paired, choices)
        for name in (new.name, *aliases):
            known = LOSSES.get(name) or next((other for other in LOSSES.values() if name in other.aliases), None)
            if known:
                raise ValueError(f"{name!r} is the name of a loss already, in {known.function.__code__.co_filename}; choose another")
        check_declarations(new)
        LOSSES[new.name] = new
        return new

    return register


def read_signature(function: Callable[..., Tensor]) -> tuple[bool, dict[str, tuple[str, ...]]]:
    """(whether the loss compares pairs, the words that each `Literal` hyperparameter may be). Raises ValueError for a
    function that cannot be a loss."""
    name, parameters = function.__name__, list(inspect.signature(function).parameters.values())
    hints = typing.get_type_hints(function)
    kind = hints.get(parameters[0].name) if parameters else None
    if kind not in (PairLogps, UnpairedLogps):
        raise ValueError(f"the first argument of {name} must be `logps: PairLogps` or `logps: UnpairedLogps`")
    choices = {}
    for parameter in parameters[1:]:
        if parameter.kind is not parameter.KEYWORD_ONLY or parameter.default is parameter.empty:
            raise ValueError(f"{name}'s {parameter.name} must be a keyword argument with a default: `def {name}(logps: PairLogps, *, {parameter.name}: float = ...)`")
        if typing.get_origin(hints.get(parameter.name)) is typing.Literal:
            choices[parameter.name] = typing.get_args(hints[parameter.name])
        elif isinstance(parameter.default, bool) or not isinstance(parameter.default, (int, float)):
            raise ValueError(f"{name}'s {parameter.name} must be a number, or one of the words of a `Literal`, not {parameter.default!r}")
    return kind is PairLogps, choices


def check_declarations(loss: Loss) -> None:
    """Raise ValueError for a declared function that does not take what it will be given."""
    hyperparameters = list(loss.hyperparameters)
    if not all(isinstance(text, str) for text in (loss.paper, loss.reversed_where, *loss.aliases)):
        raise ValueError("paper, reversed_where and aliases are texts")
    declared = {"reward": (loss.reward, ["responses"]), "best_margin": (loss.best_margin, ["p"])}
    declared |= {name: (getattr(loss, name), []) for name in ("at_reference", "swap_slope")}
    declared |= {name: (value, []) for name, value in loss.facts.items() if not isinstance(value, bool)}
    for name, (function, first) in declared.items():
        wanted = f"{name} must be a function of ({', '.join(first + hyperparameters)})"
        if function is not None and not callable(function):
            raise ValueError(f"{wanted}, not {function!r}")
        if function is not None:
            found = list(inspect.signature(function).parameters.values())
            given = [p.name for p in found[len(first) :]]
            if sorted(given) != sorted(hyperparameters) and not any(p.kind is p.VAR_KEYWORD for p in found):
                raise ValueError(f"{wanted}, not of ({', '.join(p.name for p in found)})")


def require(condition: bool, message: str) -> None:
    """Raise ValueError(message) unless the condition holds: a hyperparameter outside the range its paper allows."""
    if not condition:
        raise ValueError(message)


def shown(value: float | str) -> str:
    """A hyperparameter's value as people write it."""
    return value if isinstance(value, str) else f"{value:g}"
