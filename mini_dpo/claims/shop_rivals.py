"""Claims about DPO and its opponent on the toy shop, and about wrong labels there: each trains for minutes a
seed.
"""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from mini_dpo.batches import Batches, Encoded, EncodedPair, collate_pairs
from mini_dpo.claims.claim import Claim, above
from mini_dpo.claims.shop import net, run_of
from mini_dpo.evaluation.measuring import evaluate
from mini_dpo.losses import find_loss
from mini_dpo.objectives import preference_objective
from mini_dpo.optimizers import LoopConfig
from mini_dpo.reference import freeze, precompute_reference, reference_logps
from mini_dpo.rlhf.__main__ import RlhfSettings, Setup, fit_policy, fit_reward
from mini_dpo.rlhf.reward import ScalarModel
from mini_dpo.saving.checkpoint import load_frozen
from mini_dpo.theory.bradley_terry import wins
from mini_dpo.tokenizer import Tokenizer
from mini_dpo.train.parsing import TOY_DEFAULTS, default_lr, read_config
from mini_dpo.train.preparing import prepare
from mini_dpo.train.stages import scoring
from mini_dpo.training import train

RL: dict[str, Any] = {"steps": 200, "responses": 128}
FLIPPED = 0.3  # of the labels


def setup_of(seed: int, out: Path, **settings: Any) -> Setup:
    """A run's SFT model, data and settings, as RLHF takes them. out: the folder of what it makes."""
    folder, _ = run_of(seed, "dpo")
    begun, tokenizer, _, corpus = prepare(read_config(folder)[0])
    sft = load_frozen(folder / "sft.pt", begun.device)
    (out / "reward").mkdir()
    return Setup(RlhfSettings(seed=seed, **settings), begun, out, tokenizer, sft, corpus)


def opponent(seed: int) -> dict[str, float]:
    """DPO against a reward model and RLOO at the same price of a nat, and the seconds of each without
    measuring. And both as judges: of held-out pairs, and of the answers that the SFT model and RLOO wrote.
    """
    folder, summary = run_of(seed, "dpo")
    with TemporaryDirectory() as out:  # so that all seconds are those of one go
        setup = setup_of(seed, Path(out), beta=float(TOY_DEFAULTS["dpo"]["beta"]), **RL)
        _, begun, _, tokenizer, sft, corpus = setup
        started = time.perf_counter()
        judge = fit_reward(setup)
        policy = fit_policy(setup, judge)
        seconds = time.perf_counter() - started
    assert judge
    variant, how = find_loss("dpo"), scoring(begun)
    hyper = {**variant.hyperparameters, **TOY_DEFAULTS["dpo"]}
    theirs, samples = evaluate(sft, policy, variant, hyper, tokenizer, corpus.held_out, seed, how)
    dpo, right = load_frozen(folder / "dpo.pt", begun.device), {}
    own = judged_pairs(tokenizer, samples, sft.config.context)
    for where, pairs in (("held-out pairs", corpus.held_out.pairs), ("answers of the policies", own)):
        if pairs:
            ratio = reference_logps(dpo, pairs, *how) - reference_logps(sft, pairs, *how)  # (N, 2)
            right[f"implicit reward right, {where}"] = share_right(ratio)
            right[f"explicit reward right, {where}"] = share_right(scores_of(judge, pairs))
    ours, cost = summary["dpo"], summary["dpo"]["training_seconds"]
    return {
        "worth of DPO - of RLOO": net(summary) - net(theirs),
        "implicit - explicit reward, held-out pairs": right["implicit reward right, held-out pairs"]
        - right["explicit reward right, held-out pairs"],
        "seconds of RLHF / of DPO": seconds / cost,
        "seconds, RLHF": seconds,
        "seconds, DPO": cost,
        **{f"{name}, DPO": ours[name] for name in ("reward", "kl")},
        **{f"{name}, RLOO": theirs["dpo"][name] for name in ("reward", "kl")},
        **right,
    }


def share_right(given: Tensor) -> float:
    """How often the chosen response has the larger number: (N, 2)."""
    return float(wins(given[:, 0], given[:, 1]).mean())


@torch.no_grad()
def scores_of(judge: ScalarModel, pairs: list[EncodedPair]) -> Tensor:
    """The reward model's scores of each pair: (N, 2)."""
    batches = Batches(pairs, collate_pairs, 32, seed=0).once()
    return torch.cat([judge.scores(batch.sequences).view(-1, 2) for batch in batches])


def judged_pairs(tokenizer: Tokenizer, samples: list[dict[str, Any]], context: int) -> list[EncodedPair]:
    """The SFT model's and RLHF's answer to each prompt, the one that the judge prefers as the chosen one. An
    answer that does not fit, because its text is other tokens than were written, is left out.
    """
    pairs = []
    for sample in samples:
        worse, better = sorted(("sft", "dpo"), key=lambda side: sample["marks"][side]["reward"])
        if sample["marks"][worse]["reward"] < sample["marks"][better]["reward"]:
            prompt = tokenizer.encode_prompt(sample["prompt"])
            chosen, rejected = (
                Encoded(prompt, tokenizer.encode_response(sample[side])) for side in (better, worse)
            )
            if max(chosen.n_tokens, rejected.n_tokens) <= context:
                pairs.append(EncodedPair(chosen, rejected))
    return pairs


def noise(seed: int) -> dict[str, float]:
    """A share of the labels turned round: DPO, cDPO and rDPO on them, each at the better of two betas."""
    with TemporaryDirectory() as out:
        _, begun, _, tokenizer, sft, corpus = setup_of(seed, Path(out))
    known: list[Any] = precompute_reference(sft, corpus.preferences, *scoring(begun))
    turned = torch.rand(len(known), generator=torch.Generator().manual_seed(seed)) < FLIPPED
    noisy = [flipped(pair) if flip else pair for pair, flip in zip(known, turned.tolist(), strict=True)]

    def worth(pairs: list[EncodedPair], name: str, **hyper: Any) -> float:
        policy = freeze(sft).requires_grad_(True)
        batches = Batches(pairs, collate_pairs, begun.batch_size, seed)
        steps = begun.steps or batches.count(begun.epochs or 1)
        variant = find_loss(name)
        hyper = {**variant.hyperparameters, **hyper}
        objective = preference_objective(variant, hyper, None)
        lr = begun.lr or default_lr("dpo on the toy shop", sft.config.n_embd)
        train(policy, objective, batches, LoopConfig(steps, lr, steps // 10, seed=seed))
        summary, _ = evaluate(
            sft, policy.eval(), variant, hyper, tokenizer, corpus.held_out, seed, scoring(begun)
        )
        return net(summary)

    told: dict[str, dict[str, float]] = {
        "dpo": {},
        "cdpo": {"label_smoothing": FLIPPED},
        "rdpo": {"label_smoothing": FLIPPED},
    }
    best = {
        name: max(worth(noisy, name, beta=price, **more) for price in (0.1, 0.3))
        for name, more in told.items()
    }
    clean = worth(known, "dpo", beta=0.3)
    return {
        "worth lost to the flips by DPO": clean - best["dpo"],
        "worth that rDPO gains on DPO": best["rdpo"] - best["dpo"],
        "worth that cDPO gains on DPO": best["cdpo"] - best["dpo"],
        **{f"worth, {name}": value for name, value in best.items()},
        "worth, DPO on clean labels": clean,
    }


def flipped(pair: EncodedPair) -> EncodedPair:
    """The pair with the other response chosen."""
    assert pair.ref_logps
    return EncodedPair(pair.rejected, pair.chosen, pair.ref_logps[::-1])


SHOP = "the toy shop, RLOO of 200 steps, the same price of a nat"
CLAIMS = [
    Claim(
        "shop_as_good",
        "DPO is as good as RLHF or better",
        opponent,
        "worth of DPO - of RLOO",
        above(0),
        SHOP,
        chapter=20,
        seeds=5,
    ),
    Claim(
        "shop_judges",
        "DPO's implicit reward judges as well as a reward model",
        opponent,
        "implicit - explicit reward, held-out pairs",
        above(-0.02),
        "the toy shop, held-out pairs",
        chapter=20,
        seeds=5,
    ),
    Claim(
        "shop_cheaper",
        "DPO is cheaper than RLHF",
        opponent,
        "seconds of RLHF / of DPO",
        above(1),
        SHOP,
        chapter=20,
        seeds=5,
    ),
    Claim(
        "shop_noise",
        "robust DPO helps against wrong labels",
        noise,
        "worth that rDPO gains on DPO",
        above(0),
        "the toy shop, 30 % of the labels flipped, the better of two betas",
        chapter=9,
        seeds=5,
    ),
]
