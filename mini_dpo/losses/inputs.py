"""What a loss is given: how likely the policy and the reference find the responses of a batch.

Symbols, here and everywhere else in the project:

    s(y)    log pi(y | x), summed over the |y| tokens of the response y
    r(y)    s(y) - s_ref(y), its log-ratio; r_w and r_l are those of the chosen and of the rejected response
    h       r_w - r_l, the difference of log-ratios
    m       the margin: how much more reward the policy implies for the chosen response; for DPO beta h
    p       P(y_w preferred to y_l), the share of people who would choose as the label says
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from torch import Tensor


@dataclass(frozen=True)
class Responses:
    """B responses as the two models score them.

    policy: (B,), s(y) in nats. lengths: (B,), how many tokens were summed, kept in policy's type. ref: (B,), s_ref(y),
    a constant that no gradient reaches; None where no reference is asked. Raises ValueError where shapes differ.
    """

    policy: Tensor
    lengths: Tensor
    ref: Tensor | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "lengths", self.lengths.to(self.policy.dtype))  # whole numbers times 0.05 would be float32
        if self.ref is not None:
            object.__setattr__(self, "ref", self.ref.detach())
        shapes = {f.name: tuple(getattr(self, f.name).shape) for f in fields(self) if getattr(self, f.name) is not None}
        if len(set(shapes.values())) > 1 or self.policy.dim() != 1:
            raise ValueError(f"Responses takes tensors of one shape (B,), not {shapes}")

    def __len__(self) -> int:
        return len(self.policy)

    def __getitem__(self, which: slice | Tensor) -> Responses:
        return Responses(self.policy[which], self.lengths[which], None if self.ref is None else self.ref[which])

    @property
    def logratio(self) -> Tensor:
        """r(y) = s(y) - s_ref(y): (B,)."""
        if self.ref is None:
            raise ValueError("the log-ratio was asked for where there is no reference (a loss that needs none says reference=False)")
        return self.policy - self.ref

    @property
    def average(self) -> Tensor:
        """s(y) / |y|, the log-prob of the average token: (B,)."""
        return self.policy / self.lengths


@dataclass(frozen=True)
class PairLogps:
    """B preference pairs: the chosen responses and, in the same order, the rejected ones."""

    chosen: Responses
    rejected: Responses

    def __post_init__(self) -> None:
        if len(self.chosen) != len(self.rejected):
            raise ValueError(f"each chosen response needs its rejected one, not {len(self.chosen)} and {len(self.rejected)} of them")

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def swapped(self) -> PairLogps:
        """The same pairs with the other response chosen."""
        return PairLogps(self.rejected, self.chosen)

    @property
    def r_w(self) -> Tensor:
        """The chosen responses' log-ratios: (B,)."""
        return self.chosen.logratio

    @property
    def r_l(self) -> Tensor:
        """The rejected responses' log-ratios: (B,)."""
        return self.rejected.logratio

    @property
    def h(self) -> Tensor:
        """The difference of the two log-ratios: (B,)."""
        return self.r_w - self.r_l


@dataclass(frozen=True)
class UnpairedLogps:
    """B single responses, each liked or not.

    desirable: (B,) of bool. mismatched: (M,), log-ratios of other responses to the same prompts, from which KTO
    estimates how far the policy has moved; None where the loss does not ask for them.
    """

    responses: Responses
    desirable: Tensor
    mismatched: Tensor | None = None

    def __post_init__(self) -> None:
        if self.desirable.shape != self.responses.policy.shape:
            raise ValueError(f"{len(self.responses)} responses need as many labels, not {tuple(self.desirable.shape)}")

    def __len__(self) -> int:
        return len(self.responses)

    @property
    def r(self) -> Tensor:
        """The log-ratios: (B,)."""
        return self.responses.logratio
