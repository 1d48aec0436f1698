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
    reward_model,
    rewards,
    run_of,
    setup_of,
    trained,
)
from mini_dpo.evaluation.measuring import answer_length, answer_prompts
from mini_dpo.rlhf.__main__ import Setup
from mini_dpo.rlhf.reward import ScalarModel, score_all

RLOO = "RLOO, beta 0.5"  # the opponent with its defaults
FAR = "RLOO, beta 0.25"
RIVALS: dict[str, dict[str, dict[str, Any]]] = {  # in each world: the settings besides the defaults
    "shop": {
        RLOO: {},
        FAR: {"beta": 0.25},
        "RLOO on the true reward": {"reward": "true", "beta": 1.0},
        "PPO on the true reward": {"algorithm": "ppo", "reward": "true", "beta": 0.6, "steps": 40},
    },
    "code": {
        RLOO: {},
        FAR: {"beta": 0.25},
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
    The score is what the reward model thinks of the same answers.
    """
    setup = setup_of(seed, world)
    judge, _ = reward_model(setup)
    ours = {"SFT": setup.sft} | {f"DPO, beta {beta}": trained(dpo_at(seed, beta, world)[0]) for beta in BETAS}
    theirs = {"online DPO": trained(run_of(seed, "dpo", world=world, stage="online")[0])}
    for name, settings in RIVALS[world].items():
        theirs[name], _ = opponent(setup, judge, **settings)
    points, scores = {}, {}
    for name, policy in (ours | theirs).items():
        points[name], answers = measure(setup, policy)
        scores[name] = float(score_all(judge, answers).mean())
    points |= best_of_n(setup, judge)
    line = [points[name] for name in ours]
    return {
        **{
            f"DPO - {name}, at its KL": dpo_near(points[name].kl, line) - points[name].reward
            for name in points
            if name not in ours
        },
        f"reward, {FAR} - {RLOO}": points[FAR].reward - points[RLOO].reward,
        **{f"kl, {name}": point.kl for name, point in points.items()},
        **{f"reward, {name}": point.reward for name, point in points.items()},
        **{f"score, {name}": score for name, score in scores.items()},
    }


def dpo_near(far: float, line: list[Point]) -> float:
    """The most true reward that DPO has at this KL divergence or less. Between two betas it is on the
    straight line between them.
    """
    return max([line_at(far, line), *(point.reward for point in line if point.kl <= far)])


def best_of_n(setup: Setup, judge: ScalarModel) -> dict[str, Point]:
    """The best of 4 and of 16 answers of the SFT model, chosen by the reward model and by the judge. The KL
    divergence is not measured: it is log n - (n - 1) / n, which it cannot exceed.
    """
    _, begun, _, tokenizer, sft, corpus = setup
    asked = [prompt for prompt in dict.fromkeys(corpus.held_out.prompts) for _ in range(DRAWN)]
    ids = answer_prompts(
        sft, tokenizer, asked, answer_length(corpus.held_out, sft.config.context), begun.seed
    )
    said = [Encoded(tokenizer.encode_prompt(p), response) for p, response in zip(asked, ids, strict=True)]
    true = torch.tensor(rewards(setup, said)).view(-1, DRAWN)  # (prompts, DRAWN)
    found = {}
    for by, scores in (("reward model", score_all(judge, said).view_as(true)), ("judge", true)):
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
        "shop_rlhf_no_over_optimisation",
        "the farther RLHF goes, the better its answers are",
        shop_frontier,
        f"reward, {FAR} - {RLOO}",
        above(0),
        "the toy shop, a reward model and RLOO",
        chapter=20,
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
