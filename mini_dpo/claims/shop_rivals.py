"""Claims about DPO and its opponent on the toy shop and in the world of programs, at equal KL divergence."""

from __future__ import annotations

import math
from typing import Any

import torch

from mini_dpo.batches import Encoded
from mini_dpo.claims.claim import Claim, above
from mini_dpo.claims.rivals import line_at
from mini_dpo.claims.shop_runs import (
    AS_GOOD,
    BETAS,
    Point,
    dpo_at,
    measure,
    opponent,
    point_of,
    reward_model,
    run_of,
    setup_of,
)
from mini_dpo.evaluation.measuring import answer_length, answer_prompts, judge_all
from mini_dpo.rlhf.__main__ import Setup
from mini_dpo.rlhf.reward import ScalarModel, score_all

RLOO = "RLOO, beta 0.5"  # the opponent with its defaults
RIVALS: dict[str, dict[str, dict[str, Any]]] = {  # in each world: the settings besides the defaults
    "shop": {
        RLOO: {},
        "RLOO, beta 0.25": {"beta": 0.25},
        "RLOO on the true reward": {"reward": "true", "beta": 1.0},
        "PPO on the true reward": {"algorithm": "ppo", "reward": "true", "beta": 0.6, "steps": 40},
    },
    "code": {
        RLOO: {},
        "RLOO, beta 0.25": {"beta": 0.25},
        "RLOO on the true reward": {"reward": "true"},
        "PPO on the true reward": {"algorithm": "ppo", "reward": "true", "steps": 40},
    },
}
DRAWN = 16  # answers of the SFT model to a prompt, the most that best-of-n chooses from


# --- at equal KL divergence


def shop_frontier(seed: int) -> dict[str, float]:
    return frontier("shop", seed)


def code_frontier(seed: int) -> dict[str, float]:
    return frontier("code", seed)


def frontier(world: str, seed: int) -> dict[str, float]:
    """How far each policy is from the SFT model, and what its answers are worth: DPO at its betas, online
    DPO, RLHF, and the best of n answers. And what DPO has at the KL divergence of each of the others.
    """
    setup = setup_of(seed, world)
    judge, _ = reward_model(setup)
    summaries = {f"DPO, beta {beta}": dpo_at(seed, beta, world) for beta in BETAS}
    start = Point(0.0, next(iter(summaries.values()))["sft"]["reward"])
    line = {"SFT": start, **{name: point_of(summary) for name, summary in summaries.items()}}
    others = {"online DPO": point_of(run_of(seed, "dpo", world=world, stage="online")[1])}
    for name, settings in RIVALS[world].items():
        others[name], _ = measure(setup, opponent(setup, judge, **settings)[0])
    others |= best_of_n(setup, judge)
    return {
        **{f"DPO - {name}, at its KL": dpo_near(far, line) - had for name, (far, had) in others.items()},
        **{f"kl, {name}": point.kl for name, point in (line | others).items()},
        **{f"reward, {name}": point.reward for name, point in (line | others).items()},
    }


def dpo_near(far: float, line: dict[str, Point]) -> float:
    """The most true reward that DPO has at this KL divergence or less. Between two betas it is on the
    straight line between them.
    """
    near = [point.reward for point in line.values() if point.kl <= far]
    return max([line_at(far, list(line.values())), *near])


def best_of_n(setup: Setup, judge: ScalarModel) -> dict[str, Point]:
    """The best of 4 and of 16 answers of the SFT model, chosen by the reward model and by the judge. The KL
    divergence is not measured: it is log n - (n - 1) / n, which it cannot exceed.
    """
    _, begun, _, tokenizer, sft, corpus = setup
    prompts = list(map(str, dict.fromkeys(corpus.held_out.prompts)))
    asked = [prompt for prompt in prompts for _ in range(DRAWN)]
    ids = answer_prompts(
        sft, tokenizer, asked, answer_length(corpus.held_out, sft.config.context), begun.seed
    )
    written = [Encoded(tokenizer.encode_prompt(p), response) for p, response in zip(asked, ids, strict=True)]
    assert corpus.held_out.judge
    marks = judge_all(corpus.held_out.judge, asked, [tokenizer.decode_response(response) for response in ids])
    true = torch.tensor([mark["reward"] for mark in marks]).view(-1, DRAWN)  # (prompts, DRAWN)
    found = {}
    for by, scores in (("reward model", score_all(judge, written).view_as(true)), ("judge", true)):
        for n in (4, DRAWN):
            best = true.gather(1, scores[:, :n].argmax(1, keepdim=True)).mean()
            found[f"best of {n} by the {by}"] = Point(math.log(n) - (n - 1) / n, float(best))
    return found


SHOP = "the toy shop, 256 held-out prompts"
CLAIMS = [
    Claim(
        "shop_as_good",
        "DPO is as good as RLHF at equal KL: the toy shop",
        shop_frontier,
        f"DPO - {RLOO}, at its KL",
        above(AS_GOOD),
        f"{SHOP}, a reward model and RLOO",
        chapter=20,
        seeds=5,
    ),
    Claim(
        "code_as_good",
        "DPO is as good as RLHF at equal KL: programs",
        code_frontier,
        f"DPO - {RLOO}, at its KL",
        above(AS_GOOD),
        "the world of programs, a reward model and RLOO",
        chapter=20,
        seeds=5,
    ),
    Claim(
        "code_as_good_true",
        "DPO is as good as RL on a reward that can be computed",
        code_frontier,
        "DPO - RLOO on the true reward, at its KL",
        above(AS_GOOD),
        "the world of programs, RLOO on what they do when they run",
        chapter=20,
        seeds=5,
    ),
    Claim(
        "shop_online",
        "DPO is as good as online DPO at equal KL",
        shop_frontier,
        "DPO - online DPO, at its KL",
        above(AS_GOOD),
        f"{SHOP}, three rounds of the judge's labels",
        chapter=17,
        seeds=5,
    ),
    Claim(
        "shop_best_of_n",
        "DPO is better than the best of 16 answers by a reward model",
        shop_frontier,
        f"DPO - best of {DRAWN} by the reward model, at its KL",
        above(0),
        f"{SHOP}, KL of the best of n by the formula",
        chapter=18,
        seeds=5,
    ),
]
