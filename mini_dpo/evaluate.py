"""Before and after, on prompts that neither stage saw: how much better, and at what price."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

import torch
from torch import Tensor

from mini_dpo.corpus import HeldOut
from mini_dpo.data import Batches, Encoded, EncodedPair, collate, collate_pairs, join
from mini_dpo.dpo import pair_logps
from mini_dpo.generate import generate
from mini_dpo.logprobs import response_logps
from mini_dpo.model import GPT
from mini_dpo.sft import sft_objective
from mini_dpo.shop import Judge, win_rate
from mini_dpo.tokenizer import Tokenizer
from mini_dpo.training import autocast, score

BATCH = 128  # sequences scored at a time
PROMPTS = 256  # at most so many held-out prompts are answered


def evaluate(sft: GPT, policy: GPT | None, tokenizer: Tokenizer, held_out: HeldOut, seed: int, dtype: str, reference: GPT | None = None) -> tuple[dict, list[dict]]:  # fmt: skip
    """The closing table as numbers, and the answers behind it: (summary, one sample a prompt).

    sft: the model before preference training, which is also the reference if no other is given. policy: the one after,
    None without that stage. The two draw their answers with different random numbers.
    """
    reference = reference or sft
    prompts = list(dict.fromkeys(held_out.prompts))[:PROMPTS]
    models = {"sft": sft} if policy is None else {"sft": sft, "dpo": policy}
    sequences = held_out.responses or [pair.chosen for pair in held_out.pairs]
    longest = max((sum(sequence.response_mask) for sequence in sequences), default=sft.config.context)
    ids, texts, columns = {}, {}, {}
    for i, (name, model) in enumerate(models.items()):
        ids[name] = answer(model, tokenizer, prompts, max_new_tokens=2 * longest, seed=2 * seed + i)
        texts[name] = [tokenizer.decode_response(response) for response in ids[name]]
        columns[name] = {
            "response_tokens": fmean(len(response) for response in ids[name]),
            "unfinished": sum(response[-1] != tokenizer.end_of_text for response in ids[name]),
        }
        if held_out.responses:
            columns[name]["perplexity"] = perplexity(model, held_out.responses, dtype)
        if held_out.judge:
            columns[name] |= judge_all(held_out.judge, prompts, texts[name])
    summary = {"prompts": len(prompts), "pairs": len(held_out.pairs), **columns}
    if policy is not None:
        dpo = summary["dpo"]
        dpo["kl"], dpo["kl_error"] = estimate_kl(policy, reference, tokenizer, prompts, ids["dpo"], dtype)
        if held_out.judge:
            dpo["win_rate"] = win_rate(held_out.judge, prompts, texts["dpo"], texts["sft"])
    if policy is not None and held_out.pairs:
        dpo["reward_accuracy"], logps = compare_pairs(policy, reference, held_out.pairs, dtype)
        if reference is not sft:
            logps["sft"] = compare_pairs(policy, sft, held_out.pairs, dtype)[1]["sft"]
        for name in models:
            summary[name] |= logps[name]
        if held_out.judge:
            fields = ([getattr(p, field) for p in held_out.preferences] for field in ("prompt", "chosen", "rejected"))
            summary["label_accuracy"] = win_rate(held_out.judge, *fields)
    return summary, [{"prompt": prompt, **{name: texts[name][i] for name in models}} for i, prompt in enumerate(prompts)]


def perplexity(model: GPT, responses: Sequence[Encoded], dtype: str) -> float:
    """exp of the mean negative log-prob per response token: how many tokens the model hesitates between."""
    return math.exp(score(model, sft_objective, Batches(responses, collate, BATCH, seed=0), dtype)["loss"])


def answer(model: GPT, tokenizer: Tokenizer, prompts: Sequence[str], max_new_tokens: int, seed: int) -> list[list[int]]:
    """One response to each prompt, drawn from the model itself (temperature 1), as token ids."""
    encoded = [tokenizer.encode_prompt(prompt) for prompt in prompts]
    return generate(model, encoded, end_of_text=tokenizer.end_of_text, max_new_tokens=max_new_tokens, seed=seed)


@torch.no_grad()
def estimate_kl(policy: GPT, reference: GPT, tokenizer: Tokenizer, prompts: Sequence[str], responses: Sequence[list[int]], dtype: str) -> tuple[float, float | None]:  # fmt: skip
    """KL(policy || reference) per response in nats, and its standard error (None for a single one): the mean of
    log(policy / reference) over responses that the policy wrote."""
    sequences = [join(tokenizer.encode_prompt(prompt), response) for prompt, response in zip(prompts, responses)]
    ratios = []
    for batch in Batches(sequences, collate, BATCH, seed=0).once():
        batch = batch.to(policy.wte.weight.device)
        with autocast(batch.ids.device, dtype):
            ratios.append(response_logps(policy, batch) - response_logps(reference, batch))
    ratios = torch.cat(ratios)  # (N,)
    error = float(ratios.std()) / math.sqrt(len(ratios)) if len(ratios) > 1 else None
    return float(ratios.mean()), error


@torch.no_grad()
def compare_pairs(policy: GPT, reference: GPT, pairs: Sequence[EncodedPair], dtype: str) -> tuple[float, dict[str, dict[str, float]]]:
    """On held-out pairs: how often the implicit reward agrees with the label (ties count half), and for each model the
    mean log-prob of the chosen and of the rejected responses."""
    rows = []
    for batch in Batches(pairs, collate_pairs, BATCH, seed=0).once():
        batch = batch.to(policy.wte.weight.device)
        with autocast(batch.sequences.ids.device, dtype):
            rows.append(pair_logps(policy, reference, batch))
    h = torch.cat([logps.h for logps in rows])  # (N,)
    agrees = (h > 0).float() + 0.5 * (h == 0).float()
    means = {
        name: {f"logps/{side}": mean([getattr(getattr(row, side), model) for row in rows]) for side in ("chosen", "rejected")}
        for name, model in (("sft", "ref"), ("dpo", "policy"))
    }
    return float(agrees.mean()), means


def mean(batches: Sequence[Tensor]) -> float:
    """The mean over several batches."""
    return float(torch.cat(list(batches)).mean())


def judge_all(judge: Judge, prompts: Sequence[str], responses: Sequence[str]) -> dict[str, float]:
    """The judge's mean marks."""
    verdicts = [judge(prompt, response) for prompt, response in zip(prompts, responses)]
    return {name: fmean(getattr(verdict, name) for verdict in verdicts) for name in ("reward", "facts", "tone", "length")}


def heading(loss: str) -> str:
    """What stands above the answers and numbers of a preference-trained model: its loss, as it is given to --loss."""
    return loss.rsplit(":", 1)[-1].upper().replace("_", "-")[:11]


def table(summary: dict) -> str:
    """The summary as people read it."""
    sft, dpo, start = summary["sft"], summary.get("dpo", {}), summary.get("start", "SFT")
    rows = [
        ("true reward", "reward", "{:.2f}"),
        ("  facts, -8 to 8", "facts", "{:.2f}"),
        ("  tone, -4 to 4", "tone", "{:.2f}"),
        ("  length, -6 to 0", "length", "{:.2f}"),
        (f"win rate against {start}, ties count half", "win_rate", "{:.3f}"),
        ("KL(policy || reference), nats a response", "kl", "{:.2f}"),
        ("perplexity on held-out SFT responses", "perplexity", "{:.3f}"),
        ("reward accuracy on held-out pairs", "reward_accuracy", "{:.3f}"),
        ("log-prob of chosen responses", "logps/chosen", "{:.1f}"),
        ("log-prob of rejected responses", "logps/rejected", "{:.1f}"),
        ("tokens a response", "response_tokens", "{:.1f}"),
        ("responses cut before their end", "unfinished", "{}"),
    ]
    name = heading(summary.get("loss", "dpo"))
    lines = [f"{'on held-out prompts (%d)' % summary['prompts']:42}{start:>12}" + (f"{name:>12}" if dpo else "")]
    for label, key, form in rows:
        if key in sft or key in dpo:
            cells = [form.format(column[key]) if key in column else "" for column in ([sft, dpo] if dpo else [sft])]
            lines.append(f"{label:42}" + "".join(f"{cell:>12}" for cell in cells))
    return "\n".join(lines + [""] + remarks(summary))


def remarks(summary: dict) -> list[str]:
    """What a newcomer should know to read the table."""
    sft, dpo = summary["sft"], summary.get("dpo")
    if dpo is None:
        return []
    lines = ["Perplexity rises as far as the policy leaves its reference, whether or not any skill is lost."]
    if dpo["kl_error"] is not None:
        lines.insert(0, f"KL is estimated from the policy's own answers, with a standard error of {dpo['kl_error']:.2f}.")
    if "label_accuracy" in summary:
        lines.append(f"Labels are noisy: the true reward itself agrees with {summary['label_accuracy']:.3f} of them.")
    falls = [sft[name] - dpo[name] for name in ("logps/chosen", "logps/rejected") if name in dpo]
    if falls and min(falls) > 0:
        further = "the rejected one further" if falls[1] > falls[0] else "the chosen one further"
        lines.append(f"Both log-probs fell, {further}: probability went to other responses.")
    return lines
