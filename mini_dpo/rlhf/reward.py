"""The reward model: the SFT model's trunk, and a head that gives a response its score. It is trained so that
sigmoid(score of chosen - score of rejected) is the probability of the label (Bradley-Terry).

    tokens   the sum over the response's tokens of h . u[token], with h (C,) the state before the token and
             a row u[v] for each token v of the vocabulary: the reward of an action is summed over a segment
             (arXiv:1706.03741, section 2.2.3), and is a logit (arXiv:2505.23363)
    last     h . u, with h the state at the response's last token: the usual one. Its details are from "The
             N+ Implementation Details of RLHF with PPO" (arXiv:2403.17031), called N+ below

The state before a token is what the SFT model predicts the token from: the state knows which fact belongs
there. And each token has a gradient, as in DPO. On the toy shop `tokens` is right about as many held-out
pairs as DPO's implicit reward. `last` is right about a tenth fewer: it hardly notices a wrong fact.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mini_dpo.batches import Batch, Batches, Encoded, EncodedPair, PairBatch, collate
from mini_dpo.model import GPT
from mini_dpo.objectives import Outcome
from mini_dpo.theory.bradley_terry import wins


class ScalarModel(GPT):
    """A GPT that gives numbers in place of log-probs: a reward model, or a value network."""

    def __init__(self, trunk: GPT, rows: int) -> None:
        """Begin with the weights of `trunk`. rows: of the head: 1 for `last` and for a value network, the
        size of the vocabulary for `tokens`, which begins with 0 for every response.
        """
        super().__init__(trunk.config)
        self.wte = copy.deepcopy(trunk.wte)  # which may see pictures
        self.load_state_dict(trunk.state_dict(), strict=False)  # a trunk's own head is left behind
        C = trunk.config.n_embd
        self.head = nn.Parameter(torch.randn(1, C) / math.sqrt(C + 1) if rows == 1 else torch.zeros(rows, C))
        self.bias = nn.Parameter(torch.zeros(1))

    def values(self, batch: Batch, places: Tensor) -> Tensor:
        """What a text is worth up to each of these places of the row: (N,) -> (N,)."""
        return self.hidden_at(batch.ids, batch.layout, places) @ self.head[0] + self.bias  # (N, C) -> (N,)

    def scores(self, batch: Batch) -> Tensor:
        """The score of each response: (S,)."""
        if len(self.head) == 1:
            return self.values(batch, last_places(batch))
        hidden = self.hidden_at(batch.ids, batch.layout, batch.index.rows)  # (R, C)
        return per_response(batch, (hidden * self.head[batch.index.targets]).sum(1)) + self.bias


def per_response(batch: Batch, values: Tensor) -> Tensor:
    """The sum over each response's tokens: (R,) -> (S,)."""
    return values.new_zeros(len(batch.lengths)).index_add(0, batch.index.owners, values)


def last_places(batch: Batch) -> Tensor:
    """The place in the row of each response's last token, trained on or not: (S,). It is the end-of-text of a
    finished response.
    """
    ends = accumulate(n for size in batch.layout.sizes for n in size)  # of each prompt and of its responses
    of_response = (i > 0 for size in batch.layout.sizes for i in range(len(size)))
    places = [end - 1 for end, yes in zip(ends, of_response, strict=True) if yes]
    return torch.tensor(places, device=batch.ids.device)


@torch.no_grad()
def score_all(model: ScalarModel, sequences: Sequence[Encoded], batch_size: int = 64) -> Tensor:
    """The score of each response, however many there are: (S,), on the CPU."""
    batches = Batches(sequences, collate, batch_size, seed=0).once()
    return torch.cat([model.scores(batch.to(model.bias.device)) for batch in batches]).cpu()


def score_pairs(model: ScalarModel, pairs: Sequence[EncodedPair]) -> Tensor:
    """The scores of the chosen and of the rejected response of each pair: (N, 2)."""
    return score_all(model, [side for pair in pairs for side in (pair.chosen, pair.rejected)]).view(-1, 2)


def calibration(model: ScalarModel, pairs: Sequence[EncodedPair], bins: int = 5) -> list[tuple[float, float]]:
    """How sure the model is of the better response, and how often it is right, in bins from the least sure
    pairs to the surest. Of a calibrated model the two are equal.
    """
    scores = score_pairs(model, pairs)
    sure = torch.sigmoid((scores[:, 0] - scores[:, 1]).abs())  # (N,), P(the larger score is the better one)
    right = wins(scores[:, 0], scores[:, 1])  # (N,)
    return [(float(sure[part].mean()), float(right[part].mean())) for part in sure.argsort().chunk(bins)]


def reward_objective(model: GPT, batch: PairBatch) -> Outcome:
    """-log sigmoid(score of chosen - score of rejected), summed over the pairs. A pair shares its prompt."""
    assert isinstance(model, ScalarModel)
    model.eval()  # dropout off
    chosen, rejected = model.scores(batch.sequences).view(-1, 2).T  # (B,) each
    metrics = {"rewards/accuracies": wins(chosen.detach(), rejected.detach())}
    return Outcome(-F.logsigmoid(chosen - rejected).sum(), len(chosen), metrics)
