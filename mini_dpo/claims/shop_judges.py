"""Claims about DPO and the reward model as judges of answers."""

from __future__ import annotations

from torch import Tensor

from mini_dpo.batches import Encoded, EncodedPair
from mini_dpo.claims.claim import Claim, above
from mini_dpo.claims.shop_runs import measure, opponent, reward_model, rewards, run_of, setup_of, trained
from mini_dpo.reference import reference_logps
from mini_dpo.rlhf.__main__ import Setup
from mini_dpo.rlhf.reward import score_pairs
from mini_dpo.theory.bradley_terry import wins
from mini_dpo.train.stages import scoring


def judges(seed: int) -> dict[str, float]:
    """How often DPO's implicit reward and the reward model are right: about held-out pairs, which are like
    those they were fitted to, and about two answers of RLOO's policy to a prompt, which are not. (An answer
    of the SFT model against one of RLOO's is easy: RLOO's is nearly always better.)
    """
    setup = setup_of(seed)
    sft, corpus, how = setup.sft, setup.corpus, scoring(setup.begun)
    judge, _ = reward_model(setup)
    dpo = trained(run_of(seed, "dpo")[0])
    theirs = opponent(setup, judge)[0]
    one, other = (measure(setup, theirs, draw)[1] for draw in (0, 1))
    right = {}
    for where, pairs in {
        "held-out pairs": corpus.held_out.pairs,
        "answers of RLOO": judged_pairs(setup, one, other),
        "SFT against RLOO": judged_pairs(setup, measure(setup, sft)[1], one),
    }.items():
        ratio = reference_logps(dpo, pairs, *how) - reference_logps(sft, pairs, *how)  # (N, 2)
        right[f"implicit reward right, {where}"] = share_right(ratio)
        right[f"explicit reward right, {where}"] = share_right(score_pairs(judge, pairs))
        right[f"implicit - explicit reward, {where}"] = (
            right[f"implicit reward right, {where}"] - right[f"explicit reward right, {where}"]
        )
        right[f"pairs, {where}"] = len(pairs)
    return right


def share_right(given: Tensor) -> float:
    """How often the chosen response has the larger number: (N, 2)."""
    return float(wins(given[:, 0], given[:, 1]).mean())


def judged_pairs(setup: Setup, ours: list[Encoded], theirs: list[Encoded]) -> list[EncodedPair]:
    """Two answers to each held-out prompt, the one that the judge prefers as the chosen one. Where it likes
    both as much there is no pair.
    """
    marks = rewards(setup, ours), rewards(setup, theirs)
    return [
        EncodedPair(a, b) if of_a > of_b else EncodedPair(b, a)
        for a, b, of_a, of_b in zip(ours, theirs, *marks, strict=True)
        if of_a != of_b
    ]


CLAIMS = [
    Claim(
        "shop_judges",
        "DPO's implicit reward judges as well as a reward model: pairs like those of training",
        judges,
        "implicit - explicit reward, held-out pairs",
        above(-0.02),
        "the toy shop, held-out pairs",
        chapter=20,
        seeds=5,
    ),
    Claim(
        "shop_judges_answers",
        "DPO's implicit reward judges as well as a reward model: answers of another policy",
        judges,
        "implicit - explicit reward, answers of RLOO",
        above(-0.02),
        "the toy shop, two answers of RLOO to each held-out prompt",
        chapter=20,
        seeds=5,
    ),
]
