"""What a loss is given: how likely the policy and the reference find the responses of a batch.

Symbols, here and everywhere else in the project:

    s(y)    log pi(y | x), summed over the |y| tokens of the response y
    r(y)    s(y) - s_ref(y), its log-ratio; r_w and r_l are those of the chosen and of the rejected response
    h       r_w - r_l, the difference of log-ratios
    m       the margin: how much more reward the policy implies for the chosen response; for DPO beta h
    p       P(y_w preferred to y_l), the share of people who would choose as the label says
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Responses:
    """B responses as the two models score them, each tensor (B,).

    policy: s(y), in nats. lengths: |y|, in the type of policy. ref: s_ref(y), without gradient; None where no
    reference is asked. Raises ValueError where shapes differ.
    """

    policy: Tensor
    lengths: Tensor
    ref: Tensor | None = None

    def __post_init__(self) -> None:
        # a tensor of integers times 0.05 would be float32, whatever the type of policy
        object.__setattr__(self, "lengths", self.lengths.to(self.policy.dtype))
        if self.ref is not None:
            object.__setattr__(self, "ref", self.ref.detach())
        shapes = {name: tuple(x.shape) for name, x in vars(self).items() if x is not None}
        if len(set(shapes.values())) > 1 or self.policy.dim() != 1:
            raise ValueError(f"Responses takes tensors of one shape (B,), not {shapes}")

    def __len__(self) -> int:
        return len(self.policy)

    def __getitem__(self, which: slice | Tensor) -> Responses:
        ref = None if self.ref is None else self.ref[which]
        return Responses(self.policy[which], self.lengths[which], ref)

    @property
    def s_ref(self) -> Tensor:
        """s_ref(y): (B,), as `ref`, but never None. Raises ValueError where there is no reference."""
        if self.ref is None:
            raise ValueError(
                "the log-ratio was asked for where there is no reference (a loss that needs none says "
                "reference=False)"
            )
        return self.ref

    @property
    def logratio(self) -> Tensor:
        """r(y) = s(y) - s_ref(y): (B,)."""
        return self.policy - self.s_ref

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
        w, l = len(self.chosen), len(self.rejected)
        if w != l:
            raise ValueError(f"each chosen response needs its rejected one, not {w} and {l} of them")

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
