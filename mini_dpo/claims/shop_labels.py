"""Claims about wrong labels on the toy shop."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch

from mini_dpo.batches import EncodedPair
from mini_dpo.claims.claim import Claim, above
from mini_dpo.claims.shop_runs import dpo_at, fit_dpo, fitted, measure, pairs_of, setup_of, trained
from mini_dpo.corpus.worlds import world_corpus
from mini_dpo.reference import precompute_reference
from mini_dpo.train.stages import scoring

FLIPPED = 0.3  # of the labels
BETAS = [0.1, 0.3]


def noise(seed: int) -> dict[str, float]:
    """A share of the labels turned round: DPO and rDPO on them, each at the better of two betas, chosen on
    validation prompts.
    """
    setup = setup_of(seed)
    pairs = pairs_of(setup)
    known = precompute_reference(setup.sft, pairs, *scoring(setup.begun))
    turned = torch.rand(len(known), generator=torch.Generator().manual_seed(seed)) < FLIPPED
    noisy = [flipped(pair) if flip else pair for pair, flip in zip(known, turned.tolist(), strict=True)]
    valid = world_corpus("shop", setup.tokenizer, setup.sft.config.context, "valid").held_out
    choosing = setup._replace(corpus=replace(setup.corpus, held_out=valid))
    found, best = {}, {}
    told: dict[str, dict[str, Any]] = {"dpo": {}, "rdpo": {"label_smoothing": FLIPPED}}
    for loss, more in told.items():
        worth = {}
        for beta in BETAS:
            name = f"{loss}, beta {beta}"
            fit = partial(fit_dpo, pairs=noisy, passes=1, loss=loss, beta=beta, **more)
            policy, _ = fitted(setup, f"flipped-{loss}-beta-{beta}", fit)
            found[name] = measure(setup, policy)[0]
            worth[name] = measure(choosing, policy)[0].worth
        best[loss] = found[max(worth, key=lambda name: worth[name])].worth
    clean = measure(setup, trained(dpo_at(seed, "0.3")[0]))[0]
    return {
        "worth that rDPO gains on DPO": best["rdpo"] - best["dpo"],
        "worth lost to the flips by DPO": clean.worth - best["dpo"],
        **{f"worth, {name}": point.worth for name, point in found.items()},
        **{f"kl, {name}": point.kl for name, point in found.items()},
        **{f"reward, {name}": point.reward for name, point in found.items()},
        "worth, DPO on clean labels": clean.worth,
    }


def flipped(pair: EncodedPair) -> EncodedPair:
    """The pair with the other response chosen."""
    assert pair.ref_logps
    return EncodedPair(pair.rejected, pair.chosen, pair.ref_logps[::-1])


ON_FLIPS = "the toy shop, 30 % of the labels flipped, the better of two betas"
CLAIMS = [
    Claim(
        "shop_noise",
        "robust DPO helps against wrong labels",
        noise,
        "worth that rDPO gains on DPO",
        above(0),
        ON_FLIPS,
        chapter=9,
        seeds=5,
    ),
    Claim(
        "shop_noise_hurts",
        "wrong labels make DPO worse",
        noise,
        "worth lost to the flips by DPO",
        above(0),
        ON_FLIPS,
        chapter=9,
        seeds=5,
    ),
]
