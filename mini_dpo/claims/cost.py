"""What DPO costs, counted: multiplications of a step, and numbers in memory."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mini_dpo.batches import Encoded, EncodedPair, collate_pairs
from mini_dpo.claims.claim import Claim, above
from mini_dpo.losses import LOSSES
from mini_dpo.model import GPT, GPTConfig
from mini_dpo.objectives import pair_logps
from mini_dpo.reference import freeze
from mini_dpo.rlhf.loop import Learner
from mini_dpo.rlhf.reward import ScalarModel

SHAPE = GPTConfig(vocab_size=64, context=48, n_layer=2, n_head=2, n_embd=64)
TRAINED = 4  # numbers for each weight that learns: itself, its gradient, and AdamW's two means


def passes(seed: int) -> dict[str, float]:
    """Operations of one DPO step, with a live reference and with its log-probs known. The forward pass with
    them known is SFT's on the same responses.
    """
    torch.manual_seed(seed)
    policy = GPT(SHAPE)
    reference = freeze(policy)
    tokens = torch.randint(64, (8, 3, 12)).tolist()
    pairs = [EncodedPair(Encoded(prompt, w), Encoded(prompt, l)) for prompt, w, l in tokens]
    batch, known = (
        collate_pairs(pairs),
        collate_pairs([pair._replace(ref_logps=(0.0, 0.0)) for pair in pairs]),
    )

    def operations(which: str, backward: bool) -> int:
        with FlopCounterMode(display=False) as counter:
            logps = pair_logps(
                policy, reference if which == "live" else None, batch if which == "live" else known
            )
            loss = LOSSES["dpo"](logps, beta=0.1).mean()
            if backward:
                loss.backward()
        return counter.get_total_flops()

    forward, step = (
        operations("live", backward) / operations("known", backward) for backward in (False, True)
    )
    return {
        "operations of a step, live / known reference": step,
        "operations of a forward pass, live / known reference": forward,
    }


def memory(seed: int) -> dict[str, float]:
    """The numbers that each side holds while it trains, in multiples of the policy's weights. Activations are
    not counted.
    """
    policy = GPT(SHAPE)
    judge = ScalarModel(policy, 1)
    one = size(policy)
    held = {
        "DPO, reference known": TRAINED * one,
        "DPO, live reference": TRAINED * one + one,
        "a reward model": TRAINED * size(judge),
        "RLOO": TRAINED * size(Learner(policy)) + one + size(judge),
        "PPO": TRAINED * (one + size(ScalarModel(policy, 1))) + one + size(judge),
    }
    return {
        "numbers held by RLOO / by DPO": held["RLOO"] / held["DPO, live reference"],
        **{f"weights' worth, {name}": numbers / one for name, numbers in held.items()},
    }


def size(model: nn.Module) -> int:
    """How many weights a model has."""
    return sum(p.numel() for p in model.parameters())


CLAIMS = [
    Claim(
        "twice_forward",
        "a DPO step costs twice an SFT step on the same responses",
        passes,
        "operations of a step, live / known reference",
        above(1.9),
        "a GPT of two blocks, operations counted",
        chapter=11,
        exact=True,
        seeds=1,
    ),
    Claim(
        "less_memory",
        "DPO holds less in memory than RLHF",
        memory,
        "numbers held by RLOO / by DPO",
        above(1.1),
        "a GPT of two blocks, numbers counted",
        chapter=20,
        exact=True,
        seeds=1,
    ),
]
