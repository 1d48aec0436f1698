"""Before and after, on prompts that neither stage saw: how much better, and at what price."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import NamedTuple

import torch
from torch import Tensor

from mini_dpo.batches import Batches, Encoded, EncodedPair, collate, collate_pairs, join, look, watched
from mini_dpo.corpus import HeldOut
from mini_dpo.devices import autocast
from mini_dpo.generate import generate
from mini_dpo.losses import Loss
from mini_dpo.model import GPT
from mini_dpo.objectives import pair_logps, preference_metrics, wins
from mini_dpo.reference import know_reference, reference_logps, score_batches
from mini_dpo.tokenizer import Tokenizer
from mini_dpo.worlds.shop import Judge, win_rate

LONGEST_ANSWER = 512  # tokens, where nobody says otherwise


class How(NamedTuple):
    """How examples are scored: in the training's type, and in its batches, of `batch_size` examples or of `tokens` tokens.
    What fits into memory in training does so here, where there is no gradient."""

    dtype: str = "float32"
    batch_size: int | None = 32
    tokens: int | None = None

    def rows(self, length: int) -> int:
        """How many answers, prompt included `length` tokens long at most, are written at a time: two an example, as a
        pair has two; or as many as the tokens of a batch."""
        return max(1, self.tokens // length) if self.tokens else 2 * self.batch_size


def evaluate(sft: GPT, policy: GPT | None, loss: Loss, hyperparameters: dict, tokenizer: Tokenizer, held_out: HeldOut, seed: int, how: How, reference: GPT | None = None, max_new_tokens: int | None = None, keep: Callable[[dict, list[dict]], None] = lambda summary, samples: None) -> tuple[dict, list[dict]]:  # fmt: skip
    """The closing table as numbers, and the answers behind it: (summary, one sample a prompt).

    sft: the model before preference training, which is also the reference if no other is given. policy: the one after,
    None without that stage; loss, hyperparameters: what it was trained with. The two models draw their answers with
    different random numbers. In the summary, `NAME_error` is the standard error of `NAME`, None where one example alone
    was measured. max_new_tokens: of an answer, `answer_length` by default. keep: is handed what there is after each part,
    so that a failure in a later one does not lose it.
    """
    reference = reference or sft
    prompts = list(dict.fromkeys(held_out.prompts))
    models = {"sft": sft} if policy is None else {"sft": sft, "dpo": policy}
    max_new_tokens = max_new_tokens or answer_length(held_out, sft.config.context)
    samples: list[dict] = [{"prompt": prompt} for prompt in prompts]
    summary: dict = {"prompts": len(prompts), "pairs": len(held_out.pairs)}
    ids, marks = {}, {}
    for i, (name, model) in enumerate(models.items()):
        ids[name] = answer(model, tokenizer, prompts, max_new_tokens, 2 * seed + i, how)
        for sample, response in zip(samples, ids[name]):
            sample[name] = tokenizer.decode_response(response)
        summary[name] = {
            "response_tokens": fmean(len(response) for response in ids[name]),
            "unfinished": sum(response[-1] != tokenizer.end_of_text for response in ids[name]),
        }
        keep(summary, samples)
    for name, model in models.items():
        if held_out.responses:
            summary[name] |= named("perplexity", *perplexity(model, held_out.responses, how))
        if held_out.judge:
            marks[name] = judge_all(held_out.judge, prompts, [sample[name] for sample in samples])
            for sample, verdict in zip(samples, marks[name]):
                sample.setdefault("marks", {})[name] = verdict
            for mark in marks[name][0]:
                summary[name] |= named(mark, *mean_and_error([verdict[mark] for verdict in marks[name]]))
        keep(summary, samples)
    if policy is None:
        return summary, samples
    dpo = summary["dpo"]
    dpo |= named("kl", *estimate_kl(policy, reference, tokenizer, prompts, ids["dpo"], how))
    keep(summary, samples)
    if held_out.judge:
        ours, theirs = (torch.tensor([verdict["reward"] for verdict in marks[name]]) for name in ("dpo", "sft"))  # (N,) each
        dpo |= named("reward_gain", *mean_and_error(ours - theirs)) | named("win_rate", *mean_and_error(wins(ours, theirs)))
    if held_out.pairs:
        before, after = compare_pairs(policy, sft, reference, loss, hyperparameters, held_out.pairs, how)
        summary["sft"] |= before
        dpo |= after
        if held_out.judge:
            fields = ([getattr(p, field) for p in held_out.preferences] for field in ("prompt", "chosen", "rejected"))
            summary["label_accuracy"] = win_rate(held_out.judge, *fields)
    return summary, samples


def answer_length(held_out: HeldOut, context: int) -> int:
    """How many tokens an answer gets by default: twice the longest held-out response's (twice the context where there is
    none), and LONGEST_ANSWER at most."""
    sequences = held_out.responses or [pair.chosen for pair in held_out.pairs]
    return min(2 * max((sum(sequence.response_mask) for sequence in sequences), default=context), LONGEST_ANSWER)


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
    return [{mark: float(x) for mark, x in judge(prompt, response).marks.items()} for prompt, response in zip(prompts, responses)]


def answer(model: GPT, tokenizer: Tokenizer, prompts: Sequence[str], max_new_tokens: int, seed: int, how: How = How()) -> list[list[int]]:
    """One response to each prompt, drawn from the model itself (temperature 1), as token ids."""
    encoded = [tokenizer.encode_prompt(prompt) for prompt in prompts]
    rows = how.rows(min(max(map(len, encoded)) + max_new_tokens, model.config.context))
    watch = lambda starts: watched(starts, len(starts), "answering held-out prompts")  # noqa: E731
    return generate(model, encoded, end_of_text=tokenizer.end_of_text, max_new_tokens=max_new_tokens, seed=seed, batch_size=rows, watch=watch)


def score_sequences(model: GPT, sequences: Sequence[Encoded], how: How) -> Tensor:
    """log pi(response | prompt) of each sequence, in nats: (N,), on the CPU."""
    return score_batches(model, Batches(sequences, collate, how.batch_size, seed=0, tokens=how.tokens), how.dtype, "scoring responses")


def perplexity(model: GPT, responses: Sequence[Encoded], how: How) -> tuple[float, float | None]:
    """exp of the mean negative log-prob per response token (how many tokens the model hesitates between), and its
    standard error over responses. inf where a float cannot hold it.

    The mean is a ratio, all nats by all tokens. What a response adds to its error is by how much its own nats differ from
    the mean's for as many tokens; and the error of exp(mean) is the mean's, times exp(mean) (the delta method, twice).
    """
    nats = -score_sequences(model, responses, how).double()  # (N,)
    tokens = torch.tensor([sum(response.response_mask) for response in responses])  # (N,)
    mean = nats.sum() / tokens.sum()
    _, error = mean_and_error((nats - mean * tokens) * len(tokens) / tokens.sum())
    value = float(mean.exp())
    return value, None if error is None else value * error


def estimate_kl(policy: GPT, reference: GPT, tokenizer: Tokenizer, prompts: Sequence[str], responses: Sequence[list[int]], how: How) -> tuple[float, float | None]:  # fmt: skip
    """KL(policy || reference) per response in nats, and its standard error: the mean of log(policy / reference) over
    responses that the policy wrote."""
    sequences = [join(tokenizer.encode_prompt(prompt), response) for prompt, response in zip(prompts, responses)]
    return mean_and_error(score_sequences(policy, sequences, how) - score_sequences(reference, sequences, how))


@torch.no_grad()
def compare_pairs(policy: GPT, sft: GPT, reference: GPT, loss: Loss, hyperparameters: dict, pairs: Sequence[EncodedPair], how: How) -> tuple[dict, dict]:  # fmt: skip
    """What the loop logs of pairs, on held-out ones, before and after preference training: each model's mean log-prob of
    the chosen and of the rejected responses; and how often the policy's reward agrees with the label.

    The reward is the loss's own, and the reference is asked about it only where the loss has one. Losses of
    single responses are asked twice: which of a pair has the larger reward, and, as in their logs, which sign each
    response's reward has. (A pair counts there as one example: its two responses are not independent.)
    """
    before = reference_logps(sft, pairs, *how)  # (N, 2)
    ref_logps = before if reference is sft or not loss.reference else reference_logps(reference, pairs, *how)  # (N, 2)
    known = know_reference(pairs, ref_logps) if loss.reference else pairs
    device, logged = policy.wte.weight.device, []
    for batch in look(Batches(known, collate_pairs, how.batch_size, seed=0, tokens=how.tokens), "scoring pairs"):
        with autocast(device, how.dtype):
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
    rows = [row for row in rows if row[1] in sft or row[1] in dpo]
    lines = [f"{label:42}" for label in (f"on held-out prompts ({summary['prompts']})", *(label for label, _, _ in rows))]
    for name, column in {start: sft, **({heading(summary.get("loss", "dpo")): dpo} if dpo else {})}.items():
        cells = [f"{name:>12}", *(cell(column, key, form) for _, key, form in rows)]
        width = max(20, *map(len, cells))
        lines = [line + f"{text:{width}}" for line, text in zip(lines, cells)]
    return "\n".join([line.rstrip() for line in lines] + [""] + remarks(summary))


def cell(column: dict, key: str, form: str) -> str:
    """A number of the table, 12 wide with a blank before it, and its standard error, if it has one."""
    if key not in column:
        return ""
    error = column.get(f"{key}_error")
    return f"{number(column[key], form, 11):>12}" + ("" if error is None else f" ({number(error, form, 11)})")


def number(value: float | None, form: str, width: int) -> str:
    """A number of a summary in at most `width` characters. None is what JSON has for infinity, and for no number."""
    if value is None or not math.isfinite(value):
        return "not finite"
    text = form.format(value)
    return text if len(text) <= width else f"{value:.{width - 7}g}"


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
    sides = [(sft[name], dpo[name]) for name in ("logps/chosen", "logps/rejected") if name in dpo]
    falls = [] if None in sum(sides, ()) else [before - after for before, after in sides]
    if falls and min(falls) > 0:
        further = "the rejected one further" if falls[1] > falls[0] else "the chosen one further"
        lines.append(f"Both log-probs fell, {further}: probability went to other responses.")
    return lines


def side_by_side(samples: list[dict], before_heading: str, after_heading: str, width: int = 52) -> str:
    """Prompts with their answers before and after, in two columns."""
    blocks = []
    for sample in samples:
        prompt = sample["prompt"] if len(sample["prompt"]) <= 4 * width else "\n  ".join(shortened(textwrap.wrap(sample["prompt"], 2 * width)))
        before, after = (shortened(textwrap.wrap(sample.get(name, ""), width)) or [""] for name in ("sft", "dpo"))
        height = max(len(before), len(after))
        columns = zip([before_heading, *before, *[""] * height], [after_heading if "dpo" in sample else "", *after, *[""] * height])
        lines = [f"  {left:{width}}   {right}".rstrip() for left, right in list(columns)[: height + 1]]
        blocks.append("\n".join([f"> {prompt}", *lines]))
    return "\n\n".join(blocks)


def shortened(lines: list[str], most: int = 12) -> list[str]:
    """The lines; of more than `most` the first ones, and how many are left."""
    return lines if len(lines) <= most else [*lines[: most - 1], f"... {len(lines) - most + 1} more lines in samples.jsonl"]
