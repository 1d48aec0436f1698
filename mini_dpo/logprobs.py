"""From a model to the log-probability of a response: the only place that shifts, masks and gathers.

The token at position t is predicted at position t - 1. `index_responses` knows that and no other function does: it
turns a mask over tokens into three index tensors over the R response tokens of a batch. Everything after it speaks of
those R rows only, and the output matrix (for GPT-2 a third of all weights) never sees a prompt or padding.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mini_dpo.model import GPT


class ResponseIndex(NamedTuple):
    """Where the R response tokens of a batch are. Three (R,) tensors of whole numbers.

    rows: which row of the hidden states, flattened to (B * T, C), predicts the token.
    targets: which token it is. owners: which sequence of the batch it belongs to.
    """

    rows: Tensor
    targets: Tensor
    owners: Tensor

    def to(self, device: str | torch.device) -> ResponseIndex:
        return ResponseIndex(*(tensor.to(device, non_blocking=True) for tensor in self))


def index_responses(ids: Tensor, response_mask: Tensor) -> ResponseIndex:
    """Index the tokens under the mask: ids (B, T), response_mask (B, T) of bool -> three (R,) tensors.

    Raises ValueError where a sequence begins with a response token: nothing stands before it to predict it.
    """
    if response_mask[:, 0].any():
        raise ValueError("a response token at position 0 has no position before it that could predict it")
    owners, positions = response_mask.nonzero(as_tuple=True)  # (R,), (R,)
    rows = owners * ids.shape[1] + positions - 1  # the shift: token t is predicted at position t - 1
    return ResponseIndex(rows, ids[owners, positions], owners)


def token_logps(model: GPT, ids: Tensor, index: ResponseIndex) -> Tensor:
    """log pi(token | everything before it) for each response token: (R,), in nats, in float32 or better."""
    hidden = model.hidden(ids).flatten(0, 1)  # (B * T, C)
    logits = model.logits(hidden.index_select(0, index.rows))  # (R, V)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return -F.cross_entropy(logits, index.targets, reduction="none")


def response_logps(model: GPT, ids: Tensor, index: ResponseIndex) -> Tensor:
    """log pi(response | prompt) of each sequence, the sum over its response tokens: (B,), in nats."""
    logps = token_logps(model, ids, index)  # (R,)
    return logps.new_zeros(len(ids)).index_add(0, index.owners, logps)
