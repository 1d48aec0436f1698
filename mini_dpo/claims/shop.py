"""Claims that take training on the toy shop: an hour for all seeds, and hours for that on all losses."""

from __future__ import annotations

import itertools
from pathlib import Path
from statistics import fmean, median
from typing import Any

from mini_dpo.batches import Encoded
from mini_dpo.claims.claim import Claim, above
from mini_dpo.claims.likelihood import quarters
from mini_dpo.claims.shop_runs import BETAS, Point, dpo_at, run_of, worth_of
from mini_dpo.corpus.worlds import world_corpus
from mini_dpo.evaluation.measuring import AS_THEY_ARE, score_sequences
from mini_dpo.files import read_json
from mini_dpo.losses import LOSSES
from mini_dpo.reference import reference_logps
from mini_dpo.report.reading import kept_rows
from mini_dpo.saving.checkpoint import load_model


def samples_of(folder: Path) -> list[dict[str, Any]]:
    """The held-out prompts of a run, and what its models answered."""
    return kept_rows(folder / "samples.jsonl", read_json(folder / "summary.json"))


def quadrants(seed: int) -> dict[str, float]:
    """Held-out pairs after DPO: whose log-probs rise, whose fall."""
    folder, _ = run_of(seed, "dpo")
    (before, tokenizer), (after, _) = (load_model(folder / name) for name in ("sft.pt", "dpo.pt"))
    pairs = world_corpus("shop", tokenizer, before.config.context).held_out.pairs
    was, now = (reference_logps(model, pairs, *AS_THEY_ARE) for model in (before, after))  # (N, 2)
    return quarters(*(now - was).T)


def beta(seed: int) -> dict[str, float]:
    """DPO at each of BETAS."""
    found: dict[str, float] = {}
    kls = []
    for price in BETAS:
        summary = dpo_at(seed, price)[1]
        kls.append(summary["dpo"]["kl"])
        found |= {f"{name}, beta {price}": summary["dpo"][name] for name in ("reward", "kl", "perplexity")}
    return {
        "least fall of the KL divergence": min(a - b for a, b in itertools.pairwise(kls)),
        "reward, beta 0.1 - beta 0.3": found["reward, beta 0.1"] - found["reward, beta 0.3"],
        **found,
    }


def entropy(seed: int) -> dict[str, float]:
    """The mean surprise of each model at its own held-out answers: an estimate of its entropy, in nats."""
    folder, _ = run_of(seed, "dpo")
    samples = samples_of(folder)
    nats, different = {}, {}
    for name in ("sft", "dpo"):
        model, tokenizer = load_model(folder / f"{name}.pt")
        said = [
            Encoded(tokenizer.encode_prompt(s["prompt"]), tokenizer.encode_response(s[name])) for s in samples
        ]
        said = [answer for answer in said if answer.n_tokens <= model.config.context]
        nats[name] = -float(score_sequences(model, said, AS_THEY_ARE).mean())
        different[name] = len({s[name] for s in samples}) / len(samples)
    return {
        "entropy after DPO / before": nats["dpo"] / nats["sft"],
        **{f"nats per answer, {name}": value for name, value in nats.items()},
        **{f"share of different answers, {name}": value for name, value in different.items()},
    }


def all_losses(seed: int) -> dict[str, float]:
    """Every loss at its tuned setting: the one that is best on every other held-out prompt, and what it is
    worth on the others, against DPO there. Worth is the true reward less PRICE for each nat.
    """
    worth: dict[str, list[float]] = {}
    for name in LOSSES:
        folder, summary = run_of(seed, name)
        rewards = [sample["marks"]["dpo"]["reward"] for sample in samples_of(folder)]
        worth[name] = [Point(summary["dpo"]["kl"], fmean(rewards[i::2])).worth for i in (0, 1)]
    best = max(worth, key=lambda name: worth[name][0])
    return {
        "worth of the best loss - of DPO": worth[best][1] - worth["dpo"][1],
        **{f"{name} - dpo": fmean(values) - fmean(worth["dpo"]) for name, values in worth.items()},
    }


def fresh_pairs(seed: int) -> dict[str, float]:
    """What online DPO gains on DPO, and how much another loss differs from DPO, at its tuned setting: the
    median over losses, because a single one that goes astray would decide a mean.
    """
    dpo = worth_of(seed, "dpo")
    gain = worth_of(seed, "dpo", stage="online") - dpo
    differ = median(abs(worth_of(seed, name) - dpo) for name in LOSSES if name != "dpo")
    return {
        "gain of online DPO / difference of another loss": gain / differ,
        "worth of online DPO - of DPO": gain,
        "worth of another loss, difference from DPO": differ,
    }


CLAIMS = [
    Claim(
        "shop_chosen_rejected",
        "of most pairs the chosen becomes likelier and the rejected less likely",
        quadrants,
        "chosen up, rejected down",
        above(0.5),
        "the toy shop, held-out pairs",
        chapter=9,
        seeds=5,
    ),
    Claim(
        "shop_beta",
        "the larger beta is, the less the policy moves",
        beta,
        "least fall of the KL divergence",
        above(0),
        "the toy shop, beta 0.1 to 3",
        chapter=7,
        seeds=5,
    ),
    Claim(
        "shop_no_over_optimisation",
        "the farther DPO goes, the better its answers are",
        beta,
        "reward, beta 0.1 - beta 0.3",
        above(0),
        "the toy shop",
        chapter=9,
        seeds=5,
    ),
    Claim(
        "shop_diversity",
        "diversity is kept",
        entropy,
        "entropy after DPO / before",
        above(0.95),
        "the toy shop, answers to held-out prompts",
        chapter=7,
        seeds=5,
    ),
    Claim(
        "shop_variants",
        "a better loss than DPO can be found among its relatives",
        all_losses,
        "worth of the best loss - of DPO",
        above(0),
        "the toy shop, all losses at their tuned settings",
        chapter=8,
        seeds=5,
    ),
    Claim(
        "shop_online_counts",
        "fresh pairs count nine times as much as the choice of a loss",
        fresh_pairs,
        "gain of online DPO / difference of another loss",
        above(9),
        "the toy shop, all losses at their tuned settings, online DPO with the judge's labels",
        chapter=17,
        seeds=5,
    ),
]
