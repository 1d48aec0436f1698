"""From a model to the log-probability of a response: the only place that shifts, masks and gathers.

A token is predicted at the token before it. `index_responses` knows that and no other function does: it turns a mask
over tokens into three index tensors over the R response tokens of a batch. Everything after it speaks of those R tokens
only, and the output matrix (for GPT-2 a third of all weights) never sees a prompt.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mini_dpo.model import GPT
from mini_dpo.packing import Layout, send
from mini_dpo.parallel import sum_over_processes

TILE = 2**26  # logits that are kept for the gradient at a time: 256 MiB in float32


class ResponseIndex(NamedTuple):
    """Where the R response tokens of a batch are. Three (R,) tensors of whole numbers.

    rows: the place in the row of tokens that predicts the token. targets: which token it is.
    owners: the number of the response in the batch that it belongs to.
    """

    rows: Tensor
    targets: Tensor
    owners: Tensor


class Batch(NamedTuple):
    """S responses to their prompts, as one row of T tokens. ids: (T,). layout: who stands where. index: where the R
    response tokens are. lengths: (S,), tokens of each response. n_tokens, n_targets: T and R as plain numbers.

    Where processes share a batch, ids, layout and index are of this one's share, the others of the whole batch.
    """

    ids: Tensor
    layout: Layout
    index: ResponseIndex
    lengths: Tensor
    n_tokens: int
    n_targets: int

    def to(self, device: str | torch.device) -> Batch:
        index = ResponseIndex(*(send(tensor, device) for tensor in self.index))
        return self._replace(ids=send(self.ids, device), layout=self.layout.to(device), index=index, lengths=send(self.lengths, device))


def index_responses(ids: Tensor, response_mask: Tensor, layout: Layout) -> ResponseIndex:
    """Index the tokens under the mask: ids (T,), response_mask (T,) of bool -> three (R,) tensors. Responses are
    counted in the order of the row.

    Raises ValueError where a text begins with a response token: nothing stands before it to predict it.
    """
    places = response_mask.nonzero().flatten()  # (R,)
    rows = layout.parents[places]  # (R,), the shift: a token is predicted at the token before it in its own text
    if (rows < 0).any():
        raise ValueError("a response token at position 0 has no position before it that could predict it")
    before = torch.tensor([0] + [len(responses) for _, *responses in layout.sizes]).cumsum(0)  # in the trees before each
    owners = before[layout.trees[places]] + layout.branches[places] - 1  # (R,)
    return ResponseIndex(rows, ids[places], owners)


def token_logps(model: GPT, batch: Batch) -> Tensor:
    """log pi(token | everything before it) for each response token: (R,), in nats, in float32 or better.

    With a large vocabulary the logits are made a tile at a time, and again for the gradient, so that no more than TILE
    of them exist at once.
    """
    hidden = model.hidden_at(batch.ids, batch.layout, batch.index.rows)  # (R, C)
    tile = max(1, TILE // model.config.vocab_size)
    if len(hidden) <= tile:
        return chosen_logps(model, hidden, batch.index.targets)
    tiles = zip(hidden.split(tile), batch.index.targets.split(tile))
    return torch.cat([checkpoint(chosen_logps, model, *part, use_reentrant=False, preserve_rng_state=False) for part in tiles])


def chosen_logps(model: GPT, hidden: Tensor, targets: Tensor) -> Tensor:
    """(R, C), (R,) -> the log-prob of each target: (R,)."""
    logits = model.logits(hidden)  # (R, V)
    return ChosenLogps.apply(logits.to(torch.promote_types(logits.dtype, torch.float32)), targets)


class ChosenLogps(torch.autograd.Function):
    """log softmax(z) at the target y: z_y - log sum_v exp(z_v), whose gradient to z_v is [v = y] - softmax(z)_v.

    Everything happens in the memory of the logits, the largest tensor of a step, which torch's own cross entropy
    would hold four times over. So they are used up, and so is what is kept for the gradient.
    """

    @staticmethod
    def forward(ctx, logits: Tensor, targets: Tensor) -> Tensor:
        """logits: (R, V), targets: (R,) -> (R,)."""
        chosen = logits.gather(1, targets[:, None])  # (R, 1)
        largest = logits.amax(1, keepdim=True)  # (R, 1), so that no exponent is above 0
        logits.sub_(largest).exp_()
        total = logits.sum(1, keepdim=True)  # (R, 1)
        ctx.save_for_backward(logits.div_(total), targets)
        return (chosen - largest - total.log()).squeeze(1)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        softmax, targets = ctx.saved_tensors
        softmax.mul_(-gradient[:, None])  # a second backward pass would find it changed, and torch says so
        return softmax.scatter_add_(1, targets[:, None], gradient[:, None]), None


def response_logps(model: GPT, batch: Batch) -> Tensor:
    """log pi(response | prompt) of each response, the sum over its tokens: (S,), in nats."""
    logps = token_logps(model, batch)  # (R,)
    sums = logps.new_zeros(len(batch.lengths)).index_add(0, batch.index.owners, logps)  # (S,), of this process's share
    return sum_over_processes(sums)
