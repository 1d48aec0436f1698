"""What a loss of single responses is given, such as KTO. The symbols are those of inputs.py; r' is the
log-ratio of a mismatched response.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mini_dpo.losses.inputs import Responses


@dataclass(frozen=True)
class UnpairedLogps:
    """B single responses, each liked or not.

    desirable: (B,) of bool. mismatched: (M,), the log-ratios of other responses to the same prompts; KTO
    estimates from them how far the policy has moved. None where the loss does not ask for them.
    """

    responses: Responses
    desirable: Tensor
    mismatched: Tensor | None = None

    def __post_init__(self) -> None:
        labels = tuple(self.desirable.shape)
        if labels != self.responses.policy.shape:
            raise ValueError(f"{len(self.responses)} responses need as many labels, not {labels}")

    def __len__(self) -> int:
        return len(self.responses)

    @property
    def r(self) -> Tensor:
        """The log-ratios: (B,)."""
        return self.responses.logratio

    @property
    def r_mismatched(self) -> Tensor:
        """r', the mismatched log-ratios: (M,), never None. Raises ValueError where there are none."""
        if self.mismatched is None:
            raise ValueError(
                "mismatched log-ratios were asked for; a loss that reads them says mismatched=True"
            )
        return self.mismatched
