"""Before and after, on prompts that neither stage saw: how much better, and at what price."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

import torch
from torch import Tensor

from mini_dpo.corpus import HeldOut
from mini_dpo.data import Batches, Encoded, EncodedPair, collate, collate_pairs, join
from mini_dpo.dpo import know_reference, pair_logps, reference_logps
from mini_dpo.generate import generate
from mini_dpo.logprobs import response_logps
from mini_dpo.metrics import preference_metrics, wins
from mini_dpo.model import GPT
from mini_dpo.registry import Loss
from mini_dpo.shop import Judge, win_rate
from mini_dpo.tokenizer import Tokenizer
from mini_dpo.training import autocast

BATCH = 128  # sequences scored at a time
PROMPTS = 256  # at most so many held-out prompts are answered
MARKS = ("reward", "facts", "tone", "length")  # the judge's


def evaluate(sft: GPT, policy: GPT | None, loss: Loss, hyperparameters: dict, tokenizer: Tokenizer, held_out: HeldOut, seed: int, dtype: str, reference: GPT | None = None) -> tuple[dict, list[dict]]:  # fmt: skip
    """The closing table as numbers, and the answers behind it: (summary, one sample a prompt).

    sft: the model before preference training, which is also the reference if no other is given. policy: the one after,
    None without that stage; loss, hyperparameters: what it was trained with. The two models draw their answers with
    different random numbers. In the summary, `NAME_error` is the standard error of `NAME`, None where one example alone
    was measured.
    """
    reference = reference or sft
    prompts = list(dict.fromkeys(held_out.prompts))[:PROMPTS]
    models = {"sft": sft} if policy is None else {"sft": sft, "dpo": policy}
    sequences = held_out.responses or [pair.chosen for pair in held_out.pairs]
    longest = max((sum(sequence.response_mask) for sequence in sequences), default=sft.config.context)
    ids, texts, marks, columns = {}, {}, {}, {}
    for i, (name, model) in enumerate(models.items()):
        ids[name] = answer(model, tokenizer, prompts, max_new_tokens=2 * longest, seed=2 * seed + i)
        texts[name] = [tokenizer.decode_response(response) for response in ids[name]]
        columns[name] = {
            "response_tokens": fmean(len(response) for response in ids[name]),
            "unfinished": sum(response[-1] != tokenizer.end_of_text for response in ids[name]),
        }
        if held_out.responses:
            columns[name] |= named("perplexity", *perplexity(model, held_out.responses, dtype))
        if held_out.judge:
            marks[name] = judge_all(held_out.judge, prompts, texts[name])
            for mark in MARKS:
                columns[name] |= named(mark, *mean_and_error([verdict[mark] for verdict in marks[name]]))
    samples = [{"prompt": prompt, **{name: texts[name][i] for name in models}} for i, prompt in enumerate(prompts)]
    if held_out.judge:
        samples = [{**sample, "marks": {name: marks[name][i] for name in models}} for i, sample in enumerate(samples)]
    summary = {"prompts": len(prompts), "pairs": len(held_out.pairs), **columns}
    if policy is None:
        return summary, samples
    dpo = summary["dpo"]
    dpo |= named("kl", *estimate_kl(policy, reference, tokenizer, prompts, ids["dpo"], dtype))
    if held_out.judge:
        ours, theirs = (torch.tensor([verdict["reward"] for verdict in marks[name]]) for name in ("dpo", "sft"))  # (N,) each
        dpo |= named("reward_gain", *mean_and_error(ours - theirs)) | named("win_rate", *mean_and_error(wins(ours, theirs)))
    if held_out.pairs:
        before, after = compare_pairs(policy, sft, reference, loss, hyperparameters, held_out.pairs, dtype)
        summary["sft"] |= before
        dpo |= after
        if held_out.judge:
            fields = ([getattr(p, field) for p in held_out.preferences] for field in ("prompt", "chosen", "rejected"))
            summary["label_accuracy"] = win_rate(held_out.judge, *fields)
    return summary, samples


def mean_and_error(values: Tensor | Sequence[float]) -> tuple[float, float | None]:
    """The mean of one value an example, (N,), and its standard error, std / sqrt(N); None for a single example.

    Where two models answer the same prompts, the values are the differences, prompt by prompt (or who won): how hard a
    prompt is for both is then no part of the error.
    """
    values = torch.as_tensor(values, dtype=torch.float64)
    return float(values.mean()), float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else None


def named(name: str, value: float | None, error: float | None) -> dict[str, float | None]:
    """A number and its standard error as entries of the summary."""
    return {name: value, f"{name}_error": error}


def judge_all(judge: Judge, prompts: Sequence[str], responses: Sequence[str]) -> list[dict[str, float]]:
    """The judge's marks for each response."""
    verdicts = [judge(prompt, response) for prompt, response in zip(prompts, responses)]
    return [{mark: float(getattr(verdict, mark)) for mark in MARKS} for verdict in verdicts]


def answer(model: GPT, tokenizer: Tokenizer, prompts: Sequence[str], max_new_tokens: int, seed: int) -> list[list[int]]:
    """One response to each prompt, drawn from the model itself (temperature 1), as token ids."""
    encoded = [tokenizer.encode_prompt(prompt) for prompt in prompts]
    return generate(model, encoded, end_of_text=tokenizer.end_of_text, max_new_tokens=max_new_tokens, seed=seed)


@torch.no_grad()
def score_sequences(model: GPT, sequences: Sequence[Encoded], dtype: str) -> Tensor:
    """log pi(response | prompt) of each sequence, in nats: (N,), on the CPU."""
    device, scored = model.wte.weight.device, []
    for batch in Batches(sequences, collate, BATCH, seed=0).once():
        with autocast(device, dtype):
            scored.append(response_logps(model, batch.to(device)))
    return torch.cat(scored).cpu()


def perplexity(model: GPT, responses: Sequence[Encoded], dtype: str) -> tuple[float | None, float | None]:
    """exp of the mean negative log-prob per response token (how many tokens the model hesitates between), and its
    standard error over responses. None where a float cannot hold it.

    The mean is a ratio, all nats by all tokens. What a response adds to its error is by how much its own nats differ from
    the mean's for as many tokens; and the error of exp(mean) is the mean's, times exp(mean) (the delta method, twice).
    """
    nats = -score_sequences(model, responses, dtype).double()  # (N,)
    tokens = torch.tensor([sum(response.response_mask) for response in responses])  # (N,)
    mean = nats.sum() / tokens.sum()
    _, error = mean_and_error((nats - mean * tokens) * len(tokens) / tokens.sum())
    value = float(mean.exp())
    return (None, None) if math.isinf(value) else (value, None if error is None else value * error)


def estimate_kl(policy: GPT, reference: GPT, tokenizer: Tokenizer, prompts: Sequence[str], responses: Sequence[list[int]], dtype: str) -> tuple[float, float | None]:  # fmt: skip
    """KL(policy || reference) per response in nats, and its standard error: the mean of log(policy / reference) over
    responses that the policy wrote."""
    sequences = [join(tokenizer.encode_prompt(prompt), response) for prompt, response in zip(prompts, responses)]
    return mean_and_error(score_sequences(policy, sequences, dtype) - score_sequences(reference, sequences, dtype))


@torch.no_grad()
def compare_pairs(policy: GPT, sft: GPT, reference: GPT, loss: Loss, hyperparameters: dict, pairs: Sequence[EncodedPair], dtype: str) -> tuple[dict, dict]:  # fmt: skip
    """What the loop logs of pairs, on held-out ones, before and after preference training: each model's mean log-prob of
    the chosen and of the rejected responses; and how often the policy's reward agrees with the label.

    The reward is the loss's own, and the reference is asked about it only where the loss has one. Losses of
    single responses are asked twice: which of a pair has the larger reward, and, as in their logs, which sign each
    response's reward has. (A pair counts there as one example: its two responses are not independent.)
    """
    before = reference_logps(sft, pairs, dtype, BATCH)  # (N, 2)
    ref_logps = before if reference is sft else reference_logps(reference, pairs, dtype, BATCH)  # (N, 2)
    known = know_reference(pairs, ref_logps) if loss.reference else pairs
    device, logged = policy.wte.weight.device, []
    for batch in Batches(known, collate_pairs, BATCH, seed=0).once():
        with autocast(device, dtype):
            logged.append(preference_metrics(loss, pair_logps(policy, None, batch.to(device)), hyperparameters))
    after = {name: torch.cat([metrics[name] for metrics in logged]).cpu() for name in logged[0]}  # (N,) each
    agreement = named("reward_accuracy", *mean_and_error(after["rewards/accuracies"]))
    if not loss.paired:
        right = (wins(after["rewards/chosen"], 0) + wins(0, after["rewards/rejected"])) / 2  # (N,)
        agreement |= named("reward_sign_accuracy", *mean_and_error(right))
    sides = ("logps/chosen", "logps/rejected")
    return dict(zip(sides, before.mean(0).tolist())), {side: float(after[side].mean()) for side in sides} | agreement


def heading(loss: str) -> str:
    """What stands above the answers and numbers of a preference-trained model: its loss, as it is given to --loss."""
    return loss.rsplit(":", 1)[-1].upper().replace("_", "-")[:11]


def table(summary: dict) -> str:
    """The summary as people read it, standard errors in parentheses."""
    sft, dpo, start = summary["sft"], summary.get("dpo", {}), summary.get("start", "SFT")
    rows = [
        ("true reward", "reward", "{:.2f}"),
        ("  facts, -8 to 8", "facts", "{:.2f}"),
        ("  tone, -4 to 4", "tone", "{:.2f}"),
        ("  length, -6 to 0", "length", "{:.2f}"),
        (f"  gain over {start}, prompt by prompt", "reward_gain", "{:.2f}"),
        (f"win rate against {start}, ties count half", "win_rate", "{:.3f}"),
        ("KL(policy || reference), nats a response", "kl", "{:.2f}"),
        ("perplexity on held-out SFT responses", "perplexity", "{:.3f}"),
        ("reward accuracy on held-out pairs", "reward_accuracy", "{:.3f}"),
        ("  each response alone, by reward's sign", "reward_sign_accuracy", "{:.3f}"),
        ("log-prob of chosen responses", "logps/chosen", "{:.1f}"),
        ("log-prob of rejected responses", "logps/rejected", "{:.1f}"),
        ("tokens a response", "response_tokens", "{:.1f}"),
        ("responses cut before their end", "unfinished", "{}"),
    ]
    columns = {start: sft} | ({heading(summary.get("loss", "dpo")): dpo} if dpo else {})
    lines = [f"{'on held-out prompts (%d)' % summary['prompts']:42}" + "".join(f"{name:>12}{'':8}" for name in columns)]
    for label, key, form in rows:
        if key in sft or key in dpo:
            lines.append(f"{label:42}" + "".join(cell(column, key, form) for column in columns.values()))
    return "\n".join([line.rstrip() for line in lines] + [""] + remarks(summary))


def cell(column: dict, key: str, form: str) -> str:
    """A number of the table, 12 wide, and its standard error, if it has one, 8 wide."""
    if key not in column:
        return f"{'':20}"
    value, error = column[key], column.get(f"{key}_error")
    return f"{'over 1e308' if value is None else form.format(value):>12}{'' if error is None else f' ({form.format(error)})':8}"


def remarks(summary: dict) -> list[str]:
    """What a newcomer should know to read the table."""
    sft, dpo = summary["sft"], summary.get("dpo")
    lines = [
        "In parentheses: the standard error, from how much held-out examples differ (0 where all agree). What another",
        "--seed would change in the training is not in it.",
    ]
    if dpo is None:
        return lines
    lines.append("KL is estimated from the policy's own answers. Perplexity rises as far as the policy leaves its reference,")
    lines.append("whether or not any skill is lost.")
    if "label_accuracy" in summary:
        lines.append(f"Labels are noisy: the true reward itself agrees with {summary['label_accuracy']:.3f} of them.")
    falls = [sft[name] - dpo[name] for name in ("logps/chosen", "logps/rejected") if name in dpo]
    if falls and min(falls) > 0:
        further = "the rejected one further" if falls[1] > falls[0] else "the chosen one further"
        lines.append(f"Both log-probs fell, {further}: probability went to other responses.")
    return lines
