"""Claims about DPO and the reward model as judges of answers."""

from __future__ import annotations

from torch import Tensor

from mini_dpo.batches import Encoded, EncodedPair
from mini_dpo.claims.claim import Claim, above
from mini_dpo.claims.shop_runs import measure, opponent, reward_model, run_of, setup_of
from mini_dpo.evaluation.measuring import judge_all
from mini_dpo.reference import reference_logps
from mini_dpo.rlhf.__main__ import Setup
from mini_dpo.rlhf.reward import score_pairs
from mini_dpo.saving.checkpoint import load_frozen
from mini_dpo.theory.bradley_terry import wins
from mini_dpo.train.stages import scoring


def judges(seed: int) -> dict[str, float]:
    """How often DPO's implicit reward and the reward model are right: about held-out pairs, which are like
    those they were fitted to, and about answers of the SFT model and of RLOO, which are not.
    """
    setup = setup_of(seed)
    _, begun, _, _, sft, corpus = setup
    how = scoring(begun)
    judge, _ = reward_model(setup)
    dpo = load_frozen(run_of(seed, "dpo")[0] / "dpo.pt", begun.device)
    answers = [measure(setup, policy)[1] for policy in (sft, opponent(setup, judge)[0])]
    right = {}
    for where, pairs in {
        "held-out pairs": corpus.held_out.pairs,
        "answers of the policies": judged_pairs(setup, *answers),
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


def judged_pairs(setup: Setup, ours: list[str], theirs: list[str]) -> list[EncodedPair]:
    """Two answers to each held-out prompt, the one that the judge prefers as the chosen one. An answer that
    does not fit, because its text is other tokens than were written, is left out.
    """
    held_out, encode = setup.corpus.held_out, setup.tokenizer
    prompts = list(map(str, dict.fromkeys(held_out.prompts)))
    assert held_out.judge
    marks = [judge_all(held_out.judge, prompts, answers) for answers in (ours, theirs)]
    pairs = []
    for prompt, a, b, of_a, of_b in zip(prompts, ours, theirs, *marks, strict=True):
        if of_a["reward"] != of_b["reward"]:
            chosen, rejected = (a, b) if of_a["reward"] > of_b["reward"] else (b, a)
            asked = encode.encode_prompt(prompt)
            pair = EncodedPair(
                Encoded(asked, encode.encode_response(chosen)),
                Encoded(asked, encode.encode_response(rejected)),
            )
            if max(side.n_tokens for side in (pair.chosen, pair.rejected)) <= setup.sft.config.context:
                pairs.append(pair)
    return pairs


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
        "DPO's implicit reward judges as well as a reward model: answers of other policies",
        judges,
        "implicit - explicit reward, answers of the policies",
        above(-0.02),
        "the toy shop, SFT's answer against RLOO's",
        chapter=20,
        seeds=5,
    ),
]
