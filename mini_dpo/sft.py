"""Supervised fine-tuning: make the demonstrated responses likely. The objective, and nothing but."""

from __future__ import annotations

from mini_dpo.logprobs import Batch, response_logps
from mini_dpo.model import GPT
from mini_dpo.training import Outcome


def sft_objective(policy: GPT, batch: Batch) -> Outcome:
    """-log pi(response | prompt), summed over the batch; its mean is per response token, in nats."""
    logps = response_logps(policy, batch)  # (B,)
    return Outcome(-logps.sum(), batch.n_targets, {})
