"""`@loss` makes a `Loss` of the function below it, and keeps the loss in LOSSES under the function's name."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from mini_dpo.losses.facts import FACTS, Facts, Switch
from mini_dpo.losses.hyperparameters import hyperparameters_of
from mini_dpo.losses.inputs import PairLogps, Responses
from mini_dpo.losses.unpaired import UnpairedLogps


@dataclass(frozen=True)
class Loss:
    """A loss, and what `@loss` was told of it (see there). Call it like the function:
    `LOSSES["dpo"](logps, beta=0.1)` -> (B,).

    paired: the loss takes PairLogps or ContrastLogps, and not UnpairedLogps. choices: the words that each
    `Literal` hyperparameter may be.
    """

    name: str
    function: Callable[..., Tensor]
    paper: str
    paired: bool
    choices: dict[str, tuple[str, ...]]
    aliases: tuple[str, ...] = ()
    reward: Callable[..., Tensor] | None = None
    reference: bool = True
    mismatched: bool = False
    decomposes: Switch = True
    facts: Facts = field(default_factory=Facts)

    def __call__(self, logps: PairLogps | UnpairedLogps, **hyperparameters: float | str) -> Tensor:
        """Raises ValueError for a hyperparameter out of its range, or for values of another shape or type."""
        for name, known in hyperparameters_of(self.function).items():
            known.check(name, hyperparameters.get(name, known.default))
        values = self.function(logps, **hyperparameters)
        if not isinstance(values, Tensor) or values.shape != (len(logps),):
            found = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(
                f"{self.name} must return one value an example, a tensor of shape "
                f"({len(logps)},), not {found}"
            )
        given = (logps.chosen if isinstance(logps, PairLogps) else logps.responses).policy
        if (values.dtype, values.device) != (given.dtype, given.device):
            raise ValueError(
                f"{self.name} must return values in the type of the log-probs, {given.dtype}, "
                f"and on their device, {given.device}, not {values.dtype} on {values.device}"
            )
        return values

    def declared(self, fact: str) -> Switch:
        """What was declared of a fact: `decomposes`, or one of `facts`."""
        return getattr(self if fact == "decomposes" else self.facts, fact)

    def fact(self, name: str, **hyperparameters: float | str) -> bool:
        """A declared fact, at these hyperparameters if it depends on them."""
        declared = self.declared(name)
        return declared(**hyperparameters) if callable(declared) else declared

    def rewards(self, responses: Responses, **hyperparameters: float | str) -> Tensor:
        """The reward that the policy implies for each response: (B,). It may lack a number that all responses
        to one prompt share.
        """
        if self.reward:
            return self.reward(responses, **hyperparameters)
        beta = float(hyperparameters.get("beta", 1.0))
        return beta * (responses.logratio if self.reference else responses.policy)

    @property
    def hyperparameters(self) -> dict[str, float | str]:
        """The function's keyword arguments, with their defaults."""
        return {name: known.default for name, known in hyperparameters_of(self.function).items()}

    def describe(self, hyperparameter: str) -> str:
        """A hyperparameter in words: those of the docstring's line `name: ...`, or else those of its type,
        and its range. Empty if there are none.
        """
        match = re.search(rf"^{hyperparameter}: (.+)$", self.docstring, re.MULTILINE)
        known = hyperparameters_of(self.function).get(hyperparameter)
        line = match[1] if match else ""
        return known.described(line) if known else line

    @property
    def docstring(self) -> str:
        """The function's docstring without its indentation."""
        doc = self.function.__doc__ or ""
        closing = doc.rpartition("\n")[2]
        if closing.strip():
            return inspect.getdoc(self.function) or ""
        # the closing quotes are indented as the text is
        return "\n".join(line.removeprefix(closing) for line in doc.splitlines()).strip()

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
    reference: bool = True,
    mismatched: bool = False,
    decomposes: Switch = True,
    facts: Facts | None = None,
) -> Callable[[Callable[..., Tensor]], Loss]:
    """Register the function below as a loss under its own name.

    The function takes `logps: PairLogps` (or `UnpairedLogps`) and returns one value an example. Its
    hyperparameters are keyword arguments with a default each: a number, or one of the words of a `Literal`.

    paper: where the formula is from. aliases: other names of the loss.
    reward(responses, **hyperparameters): the reward that the loss implies for each response, (B,). beta r(y)
        if not given. The margin m is the chosen response's reward minus the rejected one's.
    reference: the loss reads the reference. mismatched: the loss reads `UnpairedLogps.mismatched`, or takes
        `ContrastLogps`: responses to another prompt than theirs.
    decomposes: the value of an example does not depend on the others in its batch. Then accumulated batches
        are exact. A function of the hyperparameters, if it depends on them.
    facts: what `python -m mini_dpo.check` holds the loss to, see `Facts`.
    """

    def register(function: Callable[..., Tensor]) -> Loss:
        if not inspect.isfunction(function) or inspect.iscoroutinefunction(function):
            raise ValueError(
                "@loss stands above a plain function, `def "
                f"{getattr(function, '__name__', 'my_loss')}(logps: PairLogps, ...)`, not "
                "above a class or an async function"
            )
        name = function.__name__
        paired, choices = read_signature(function)
        for word in (name, *aliases):
            known = LOSSES.get(word) or next((v for v in LOSSES.values() if word in v.aliases), None)
            if known:
                raise ValueError(
                    f"{word!r} is the name of a loss already, in "
                    f"{known.function.__code__.co_filename}; choose another"
                )
        new = Loss(
            name=name,
            function=function,
            paper=paper,
            paired=paired,
            choices=choices,
            aliases=aliases,
            reward=reward,
            reference=reference,
            mismatched=mismatched,
            decomposes=decomposes,
            facts=facts or FACTS.get(name, Facts()),
        )
        check_declarations(new)
        LOSSES[name] = new
        return new

    return register


def read_signature(function: Callable[..., Tensor]) -> tuple[bool, dict[str, tuple[str, ...]]]:
    """Whether the loss compares pairs, and the words that each `Literal` hyperparameter may be. Raises
    ValueError for a function that cannot be a loss.
    """
    name, parameters = function.__name__, list(inspect.signature(function).parameters.values())
    hints = typing.get_type_hints(function)
    kind = hints.get(parameters[0].name) if parameters else None
    paired = isinstance(kind, type) and issubclass(kind, PairLogps)  # ContrastLogps are pairs too
    if not paired and kind is not UnpairedLogps:
        raise ValueError(f"the first argument of {name} must be `logps: PairLogps` or `logps: UnpairedLogps`")
    choices = {}
    for parameter in parameters[1:]:
        if parameter.kind is not parameter.KEYWORD_ONLY or parameter.default is parameter.empty:
            raise ValueError(
                f"{name}'s {parameter.name} must be a keyword argument with a default: `def "
                f"{name}(logps: PairLogps, *, {parameter.name}: float = ...)`"
            )
        if typing.get_origin(hints.get(parameter.name)) is typing.Literal:
            choices[parameter.name] = typing.get_args(hints[parameter.name])
        elif isinstance(parameter.default, bool) or not isinstance(parameter.default, (int, float)):
            raise ValueError(
                f"{name}'s {parameter.name} must be a number, or one of the words of a "
                f"`Literal`, not {parameter.default!r}"
            )
    return paired, choices


def check_declarations(variant: Loss) -> None:
    """Raise ValueError for a declaration of the wrong kind, such as a function that takes other arguments."""
    hyperparameters = list(variant.hyperparameters)
    if not isinstance(variant.facts, Facts):
        raise ValueError(f"facts must be Facts(...), not {variant.facts!r}")
    declared = {**vars(variant.facts), "reward": variant.reward, "decomposes": variant.decomposes}
    texts = (variant.paper, declared.pop("reversed_where"), *variant.aliases)
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("paper, reversed_where and aliases are texts")
    for name, function in declared.items():
        if function is None or isinstance(function, bool):
            continue
        first = {"reward": ["responses"], "best_margin": ["p"]}.get(name, [])
        wanted = f"{name} must be a function of ({', '.join(first + hyperparameters)})"
        if not callable(function):
            raise ValueError(f"{wanted}, not {function!r}")
        found = list(inspect.signature(function).parameters.values())
        given = [p.name for p in found[len(first) :]]
        if sorted(given) != sorted(hyperparameters) and not any(p.kind is p.VAR_KEYWORD for p in found):
            raise ValueError(f"{wanted}, not of ({', '.join(p.name for p in found)})")


def shown(value: float | str) -> str:
    """A hyperparameter's value as people write it."""
    return value if isinstance(value, str) else f"{value:g}"
