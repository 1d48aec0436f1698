"""Claims about what DPO and RLHF cost on the toy shop, and what each has at equal cost."""

from __future__ import annotations

import json
from dataclasses import replace
from statistics import fmean
from typing import Any

from mini_dpo.batches import EncodedPair
from mini_dpo.claims.claim import Claim, above
from mini_dpo.claims.shop_runs import (
    AS_GOOD,
    BETA,
    RL,
    fit_dpo,
    fitted,
    measure,
    name_of,
    opponent,
    pairs_of,
    reward_model,
    setup_of,
)
from mini_dpo.files import read_bytes
from mini_dpo.model import GPT
from mini_dpo.rlhf.__main__ import Setup, fit_policy
from mini_dpo.rlhf.algorithms import ALGORITHMS

MORE = "DPO with the seconds of RLHF"
# RLHF for the seconds of DPO: the best of five settings on validation prompts, with another seed
SMALL: dict[str, Any] = {"steps": 16, "responses": 64, "lr": 1e-3}


def budget(seed: int) -> dict[str, float]:
    """What both sides cost: CPU seconds (the reward model and the sampling included), and tokens through a
    model: 1 for each token that is read or written without a gradient, 3 with one. And what each side has
    when it may use as much as the other: DPO passes several times over its pairs, also with twice its beta,
    because more passes go farther. Measuring is not counted.
    """
    setup = setup_of(seed)
    pairs = pairs_of(setup)

    def dpo(passes: int, beta: float) -> tuple[GPT, float]:
        name = f"dpo-{passes}-passes-beta-{beta:g}"
        return fitted(setup, name, lambda where: fit_dpo(where, pairs, passes, beta=beta))

    ours, dpo_seconds = dpo(1, BETA)
    judge, judge_seconds = reward_model(setup)
    theirs, policy_seconds = opponent(setup, judge)
    total = judge_seconds + policy_seconds
    passes = max(1, round(total / dpo_seconds))
    again, nearer = dpo(passes, BETA)[0], dpo(passes, 2 * BETA)[0]

    dpo_tokens, judge_tokens = tokens_of_pass(pairs)
    steps = setup.settings.steps
    policy_tokens = steps * tokens_of_step(setup, name_of(setup))
    short = {
        "seconds": int((dpo_seconds - judge_seconds) / (policy_seconds / steps)),
        "tokens": int((dpo_tokens - judge_tokens) / (policy_tokens / steps)),
    }
    worth = {"DPO": ours, "RLOO": theirs, MORE: again, f"{MORE}, twice beta": nearer}
    for what, n in short.items():
        worth[f"RLOO with the {what} of DPO"] = opponent(setup, judge, steps=max(1, n))[0]
    points = {name: measure(setup, policy)[0] for name, policy in worth.items()}
    return {
        **{
            f"worth of {one} - of {other}": points[one].worth - points[other].worth
            for one, other in (
                ("DPO", "RLOO with the seconds of DPO"),
                ("DPO", "RLOO with the tokens of DPO"),
                (MORE, "RLOO"),
                (f"{MORE}, twice beta", "RLOO"),
            )
        },
        "seconds of RLHF / of DPO": total / dpo_seconds,
        "tokens of RLHF / of DPO": (judge_tokens + policy_tokens) / dpo_tokens,
        "seconds, DPO": dpo_seconds,
        "seconds, reward model": judge_seconds,
        "seconds, RLOO": policy_seconds,
        "tokens, DPO": dpo_tokens,
        "tokens, reward model": judge_tokens,
        "tokens, RLOO": policy_tokens,
        f"passes of {MORE}": passes,
        **{f"steps of RLOO with the {what} of DPO": max(1, n) for what, n in short.items()},
        **{f"kl, {name}": point.kl for name, point in points.items()},
        **{f"reward, {name}": point.reward for name, point in points.items()},
    }


def small_budget(seed: int) -> dict[str, float]:
    """DPO, and RLHF with settings for DPO's seconds: fewer and larger steps, of half as many responses. Both
    are timed one after the other.
    """
    setup = setup_of(seed)
    small = setup._replace(settings=replace(setup.settings, **{**SMALL, **RL}))
    pairs = pairs_of(setup)
    ours, dpo_seconds = fitted(setup, "small-dpo", lambda where: fit_dpo(where, pairs, 1, beta=BETA))
    judge, judge_seconds = reward_model(setup, "small-reward")
    theirs, policy_seconds = fitted(small, "small-rloo", lambda where: fit_policy(where, judge))
    dpo, rloo = (measure(setup, policy)[0] for policy in (ours, theirs))
    dpo_tokens, judge_tokens = tokens_of_pass(pairs)
    policy_tokens = small.settings.steps * tokens_of_step(small, "small-rloo")
    return {
        "worth of DPO - of RLOO tuned for it": dpo.worth - rloo.worth,
        "seconds of RLHF / of DPO": (judge_seconds + policy_seconds) / dpo_seconds,
        "tokens of RLHF / of DPO": (judge_tokens + policy_tokens) / dpo_tokens,
        "kl, DPO": dpo.kl,
        "kl, RLOO": rloo.kl,
        "reward, DPO": dpo.reward,
        "reward, RLOO": rloo.reward,
    }


def tokens_of_pass(pairs: list[EncodedPair]) -> tuple[int, int]:
    """The tokens that a pass over the pairs sends through a model: (DPO's, whose reference reads them once
    more, the reward model's). A prompt is read once for both responses.
    """
    read = sum(pair.n_tokens for pair in pairs)
    return (1 + 3) * read, 3 * read


def tokens_of_step(setup: Setup, name: str) -> float:
    """The tokens that a step of RLOO sends through a model. name: its folder. Each response is written after
    its own prompt. Then the policy, the reference and the reward model read all of them, and the policy
    learns from them; a prompt is read once for its k responses.
    """
    log = read_bytes(setup.folder / name / "metrics.jsonl").splitlines()
    response = fmean(json.loads(row)["response_tokens"] for row in log)
    prompt = fmean(len(setup.tokenizer.encode_prompt(prompt)) for prompt in setup.corpus.prompts)
    S, k = setup.settings.responses, ALGORITHMS["rloo"].k
    return S * (prompt + response) + (3 + 3) * (S / k * prompt + S * response)


EQUAL = "the toy shop, reward model and sampling included"
CLAIMS = [
    Claim(
        "shop_cheaper",
        "DPO is cheaper than RLHF",
        budget,
        "seconds of RLHF / of DPO",
        above(1),
        f"{EQUAL}, CPU seconds",
        chapter=20,
        seeds=5,
    ),
    Claim(
        "shop_equal_seconds",
        "DPO is as good as RLHF in as much time: DPO's, the defaults of both",
        budget,
        "worth of DPO - of RLOO with the seconds of DPO",
        above(AS_GOOD),
        EQUAL,
        chapter=20,
        seeds=5,
    ),
    Claim(
        "shop_equal_seconds_tuned",
        "DPO is as good as RLHF in as much time: DPO's, both tuned for it",
        small_budget,
        "worth of DPO - of RLOO tuned for it",
        above(AS_GOOD),
        EQUAL,
        chapter=20,
        seeds=5,
    ),
    Claim(
        "shop_equal_tokens",
        "DPO is as good as RLHF with as many tokens through a model: DPO's",
        budget,
        "worth of DPO - of RLOO with the tokens of DPO",
        above(AS_GOOD),
        EQUAL,
        chapter=20,
        seeds=5,
    ),
    Claim(
        "shop_more_seconds",
        "DPO is as good as RLHF in as much time: RLHF's, the defaults of both",
        budget,
        f"worth of {MORE} - of RLOO",
        above(AS_GOOD),
        f"{EQUAL}, DPO passes several times",
        chapter=20,
        seeds=5,
    ),
]
