"""The reward model: the SFT model's trunk, and one number for a response, read at its last token.

It is trained on preferences so that sigmoid(score of chosen - score of rejected) is the probability of the
label (Bradley-Terry). Details of it are from "The N+ Implementation Details of RLHF with PPO"
(arXiv:2403.17031), called N+ below.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mini_dpo.batches import Batch, Batches, Encoded, EncodedPair, PairBatch, collate, collate_pairs
from mini_dpo.model import GPT
from mini_dpo.objectives import Outcome
from mini_dpo.theory.bradley_terry import preference_probability, wins


class ScalarModel(GPT):
    """A GPT that gives one number at a place of a text: a reward model, or a value network."""

    def __init__(self, trunk: GPT) -> None:
        """Begin with the weights of `trunk`."""
        super().__init__(trunk.config)
        self.load_state_dict(trunk.state_dict())
        C = trunk.config.n_embd
        self.head = nn.Parameter(torch.randn(C) / math.sqrt(C + 1))  # N+
        self.bias = nn.Parameter(torch.zeros(1))

    def at(self, batch: Batch, places: Tensor) -> Tensor:
        """The number at each of these places of a batch's row, (N,) -> (N,)."""
        return self.hidden_at(batch.ids, batch.layout, places) @ self.head + self.bias  # (N, C) -> (N,)


def last_places(batch: Batch) -> Tensor:
    """The place in the row of each response's last token, trained on or not: (S,). It is the end-of-text of a
    finished response.
    """
    sizes = [n for size in batch.layout.sizes for n in size]  # of each prompt and of its responses
    of_response = [i > 0 for size in batch.layout.sizes for i in range(len(size))]
    return (torch.tensor(sizes).cumsum(0) - 1)[torch.tensor(of_response)]


def scores_of(model: ScalarModel, batch: Batch) -> Tensor:
    """The score of each response of a batch: (S,)."""
    return model.at(batch, last_places(batch))


def reward_objective(model: GPT, batch: PairBatch) -> Outcome:
    """-log sigmoid(score of chosen - score of rejected), summed over the pairs. A pair shares its prompt."""
    assert isinstance(model, ScalarModel)
    model.eval()  # dropout off
    scores = scores_of(model, batch.sequences)  # (2B,)
    chosen, rejected = scores[0::2], scores[1::2]
    metrics = {"accuracy": wins(chosen.detach(), rejected.detach())}
    return Outcome(-F.logsigmoid(chosen - rejected).sum(), len(chosen), metrics)


@torch.no_grad()
def mean_score(model: ScalarModel, responses: Sequence[Encoded], rows: int = 64) -> float:
    """The mean score of demonstrated responses, which is subtracted from every score: then 0 is as good as
    the SFT data (N+).
    """
    model.eval()
    batches = Batches(responses, collate, rows, seed=0).once()
    return float(torch.cat([scores_of(model, batch) for batch in batches]).mean())


@torch.no_grad()
def calibration(
    model: ScalarModel, pairs: Sequence[EncodedPair], bins: int = 5, rows: int = 64
) -> tuple[float, list[str]]:
    """(The share of held-out pairs whose chosen response has the larger score, a line a bin: what the model
    says of its answer, and how often it is right.)
    """
    model.eval()
    batches = Batches(pairs, collate_pairs, rows, seed=0).once()
    scores = torch.cat([scores_of(model, batch.sequences) for batch in batches])  # (2N,)
    chosen, rejected = scores[0::2], scores[1::2]
    sure = preference_probability(torch.maximum(chosen, rejected), torch.minimum(chosen, rejected))  # (N,)
    right = wins(chosen, rejected)  # (N,)
    lines = []
    for part in sure.argsort().chunk(bins):
        lines.append(
            f"says {float(sure[part].mean()):.2f}, is right {float(right[part].mean()):.2f} of the time"
        )
    return float(right.mean()), lines
