"""The preference losses: one pure function each, from the log-probabilities of a pair to a number per pair.

Symbols, here and everywhere else in the project:

    s(y)    log pi(y | x), summed over the tokens of the response y
    h       [s(y_w) - s_ref(y_w)] - [s(y_l) - s_ref(y_l)], the difference of log-ratios, chosen minus rejected
    m       beta * h, the margin: how much more reward the policy implies for the chosen response
    p       P(y_w preferred to y_l), the share of people who would choose as the label says

To add a loss is to write one function here, under `@loss(...)`. The trainer, the command line and the property tests find
it in `LOSSES`. Its hyperparameters are keyword arguments with a default each, which become flags; `beta`, if it has one,
also scales the rewards that are logged. It returns one value a pair, and the facts it declares are tested.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, fields

from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class PairLogps:
    """What a loss may know of a batch of B pairs. Each field is a (B,) tensor.

    policy_chosen, policy_rejected, ref_chosen, ref_rejected: log-probabilities in nats, sums over response tokens.
    chosen_lengths, rejected_lengths: how many tokens were summed. Raises ValueError where shapes differ.
    """

    policy_chosen: Tensor
    policy_rejected: Tensor
    ref_chosen: Tensor
    ref_rejected: Tensor
    chosen_lengths: Tensor
    rejected_lengths: Tensor

    def __post_init__(self) -> None:
        shapes = {field.name: tuple(getattr(self, field.name).shape) for field in fields(self)}
        if len(set(shapes.values())) > 1 or self.policy_chosen.dim() != 1:
            raise ValueError(f"PairLogps takes six tensors of one shape (B,), not {shapes}")

    @property
    def chosen_logratio(self) -> Tensor:
        """log(policy / reference) of the chosen response: (B,)."""
        return self.policy_chosen - self.ref_chosen

    @property
    def rejected_logratio(self) -> Tensor:
        """log(policy / reference) of the rejected response: (B,)."""
        return self.policy_rejected - self.ref_rejected

    @property
    def h(self) -> Tensor:
        """The difference of the two log-ratios: (B,)."""
        return self.chosen_logratio - self.rejected_logratio


@dataclass(frozen=True)
class Loss:
    """A loss and the facts that it declares. Call it like the function: `LOSSES["dpo"](logps, beta=0.1)` -> (B,)."""

    name: str
    function: Callable[..., Tensor]
    paper: str
    at_reference: Callable[..., float]
    best_margin: Callable[..., float]
    monotone: bool
    convex: bool
    shift_invariant: bool

    def __call__(self, logps: PairLogps, **hyperparameters: float) -> Tensor:
        return self.function(logps, **hyperparameters)

    @property
    def hyperparameters(self) -> dict[str, float]:
        """The function's keyword arguments, with their defaults."""
        parameters = inspect.signature(self.function).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}

    def describe(self, hyperparameter: str) -> str:
        """What the docstring says of a hyperparameter, in a line that begins with its name and a colon."""
        match = re.search(rf"^\s*{hyperparameter}: (.+)$", self.function.__doc__ or "", re.MULTILINE)
        return match[1] if match else ""


LOSSES: dict[str, Loss] = {}


def loss(
    *,
    paper: str,
    at_reference: Callable[..., float],
    best_margin: Callable[..., float],
    monotone: bool = True,
    convex: bool = True,
    shift_invariant: bool = True,
) -> Callable[[Callable[..., Tensor]], Loss]:
    """Register the function below as a loss under its own name, with facts that the tests hold it to.

    paper: where the formula is from.
    at_reference(**hyperparameters): its value where the policy is the reference.
    best_margin(p, **hyperparameters): the margin m that minimises p * loss(m) + (1 - p) * loss(-m), its population
        minimiser where people prefer y_w with probability p.
    monotone: it never rises with m. convex: in m. shift_invariant: adding one number to both log-ratios changes
        nothing, so the partition function cancels.
    """

    def register(function: Callable[..., Tensor]) -> Loss:
        facts = dict(monotone=monotone, convex=convex, shift_invariant=shift_invariant)
        LOSSES[function.__name__] = Loss(function.__name__, function, paper, at_reference, best_margin, **facts)
        return LOSSES[function.__name__]

    return register


def require(condition: bool, message: str) -> None:
    """Raise ValueError(message) unless the condition holds: a hyperparameter outside the range its paper allows."""
    if not condition:
        raise ValueError(message)


def logit(p: float) -> float:
    """log(p / (1 - p)): the margin at which the Bradley-Terry probability is p."""
    return math.log(p) - math.log1p(-p)


@loss(
    paper="Rafailov et al. 2023, arXiv:2305.18290, eq. 7",
    at_reference=lambda beta: math.log(2),
    best_margin=lambda p, beta: logit(p),
)
def dpo(logps: PairLogps, *, beta: float = 0.1) -> Tensor:
    """Direct Preference Optimization: the cross-entropy of a Bradley-Terry model whose reward is beta log(pi/ref).

        L = -log sigmoid(beta h)

    beta: price of a nat of KL divergence from the reference, in units of reward; must be positive
    Returns (B,), in nats. As in the paper; log sigmoid is computed in its stable form, finite at any margin.
    """
    require(beta > 0, f"beta must be positive, not {beta}")
    return -F.logsigmoid(beta * logps.h)


@loss(
    paper="Mitchell 2023, 'A note on DPO with noisy preferences & relationship to IPO', ericmitchell.ai/cdpo.pdf",
    at_reference=lambda beta, label_smoothing: math.log(2),
    best_margin=lambda p, beta, label_smoothing: logit((1 - label_smoothing) * p + label_smoothing * (1 - p)),
    monotone=False,
)
def cdpo(logps: PairLogps, *, beta: float = 0.1, label_smoothing: float = 0.1) -> Tensor:
    """Conservative DPO: the expected DPO loss when each label may be flipped with probability epsilon.

        L = -(1 - epsilon) log sigmoid(beta h) - epsilon log sigmoid(-beta h)

    beta: price of a nat of KL divergence from the reference, in units of reward; must be positive
    label_smoothing: epsilon, the share of labels believed to be flipped, in [0, 0.5)
    Returns (B,), in nats. Least at the finite margin log((1 - epsilon) / epsilon); DPO's own for epsilon = 0.
    TRL 1.16 takes `label_smoothing` with its sigmoid loss and ignores it.
    """
    require(beta > 0, f"beta must be positive, not {beta}")
    require(0 <= label_smoothing < 0.5, f"label_smoothing must be in [0, 0.5), not {label_smoothing}")
    m = beta * logps.h  # (B,)
    return -(1 - label_smoothing) * F.logsigmoid(m) - label_smoothing * F.logsigmoid(-m)
