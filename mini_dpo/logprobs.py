"""From a model to the log-probability of a response.

A token is predicted at the token before it: `index_responses` of batches.py knows that, and everything here
speaks of the R response tokens of a batch only, so that the output matrix (for GPT-2 a third of all weights)
never sees a prompt.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mini_dpo.batches import Batch
from mini_dpo.losses import Responses
from mini_dpo.model import GPT
from mini_dpo.processes import sum_over_processes

TILE = 2**26  # logits that are kept for the gradient at a time: 256 MiB in float32


def token_logps(model: GPT, batch: Batch) -> Tensor:
    """log pi(token | everything before it) for each response token: (R,), in nats, in float32 or better.

    With a large vocabulary the logits are made a tile at a time, and again for the gradient, so that no more
    than TILE of them exist at once.
    """
    hidden = model.hidden_at(batch.ids, batch.layout, batch.index.rows)  # (R, C)
    tile = max(1, TILE // model.config.vocab_size)
    if len(hidden) <= tile:
        return chosen_logps(model, hidden, batch.index.targets)
    tiles = zip(hidden.split(tile), batch.index.targets.split(tile), strict=True)
    again = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
    return torch.cat([again(chosen_logps, model, *part) for part in tiles])


def chosen_logps(model: GPT, hidden: Tensor, targets: Tensor) -> Tensor:
    """(R, C), (R,) -> the log-prob of each target: (R,)."""
    logits = model.logits(hidden)  # (R, V)
    return ChosenLogps.apply(logits.to(torch.promote_types(logits.dtype, torch.float32)), targets)


class ChosenLogps(torch.autograd.Function):
    """log softmax(z) at the target y: z_y - log sum_v exp(z_v), whose gradient to z_v is [v = y] -
    softmax(z)_v.

    Everything happens in the memory of the logits, the largest tensor of a step, which torch's own cross
    entropy would hold four times over. So they are used up, and so is what is kept for the gradient.
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
    # (S,), of this process's share
    sums = logps.new_zeros(len(batch.lengths)).index_add(0, batch.index.owners, logps)
    return sum_over_processes(sums)


def score_responses(
    policy: GPT, reference: GPT | None, sequences: Batch, ref_logps: Tensor | None
) -> Responses:
    """The log-probs of a batch's responses under the policy, and under the reference if there is one."""
    policy_logps = response_logps(policy, sequences)  # (B,)
    if ref_logps is None and reference is not None:
        ref_logps = score_reference(reference, sequences)
    return Responses(policy_logps, sequences.lengths, ref_logps)


@torch.no_grad()
def score_reference(reference: GPT, sequences: Batch) -> Tensor:
    """The reference's log-probs of a batch's responses: (B,)."""
    return response_logps(reference, sequences)
