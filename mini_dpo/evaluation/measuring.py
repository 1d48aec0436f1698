"""Both models on prompts that neither stage saw: reward, win rate, KL divergence, perplexity, accuracy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import NamedTuple

import torch
from torch import Tensor

from mini_dpo.batches import Batches, Encoded, EncodedPair, collate, collate_pairs
from mini_dpo.corpus.parts import HeldOut
from mini_dpo.data import Prompt, as_text
from mini_dpo.devices import autocast
from mini_dpo.formats.conversations import as_json
from mini_dpo.generate import generate
from mini_dpo.losses import Loss
from mini_dpo.model import GPT
from mini_dpo.objectives import pair_logps, preference_metrics
from mini_dpo.progress import look, watched
from mini_dpo.reference import know_reference, reference_logps, score_batches
from mini_dpo.theory.bradley_terry import wins
from mini_dpo.tokenizer import Tokenizer
from mini_dpo.worlds.world import Judge, reward, win_rate

LONGEST_ANSWER = 512  # tokens, where --max-new-tokens is not given


class How(NamedTuple):
    """How examples are scored: the type, and batches of `batch_size` examples or of `tokens` tokens. What
    fits into memory in training also fits here, where there is no gradient.
    """

    dtype: str = "float32"
    batch_size: int | None = 32
    tokens: int | None = None

    def rows(self, length: int) -> int:
        """How many answers of up to `length` tokens (with the prompt) are written at a time: two for each
        example of a batch, or as many as fit into `tokens`.
        """
        return max(1, self.tokens // length) if self.tokens else 2 * (self.batch_size or 1)


AS_THEY_ARE = How()


def evaluate(
    sft: GPT,
    policy: GPT | None,
    variant: Loss,
    hyperparameters: dict,
    tokenizer: Tokenizer,
    held_out: HeldOut,
    seed: int,
    how: How,
    reference: GPT | None = None,
    max_new_tokens: int | None = None,
    keep: Callable[[dict, list[dict]], None] = lambda summary, samples: None,
) -> tuple[dict, list[dict]]:
    """The closing table as numbers, and the answers behind it: (summary, one sample a prompt).

    sft: the model before preference training; also the reference, if no other is given.
    policy: the model after preference training, None without that stage.
    variant, hyperparameters: the loss that the policy was trained with.
    max_new_tokens: the longest answer; `answer_length` by default.
    keep: is called with the numbers and samples so far after each part; a later failure then loses nothing.

    The two models draw their answers with different random numbers. In the summary, `NAME_error` is the
    standard error of `NAME`, None where only one example was measured.
    """
    reference = reference or sft
    prompts = list(dict.fromkeys(held_out.prompts))
    models = {"sft": sft} if policy is None else {"sft": sft, "dpo": policy}
    max_new_tokens = max_new_tokens or answer_length(held_out, sft.config.context)
    samples: list[dict] = [{"prompt": as_json(prompt)} for prompt in prompts]
    summary: dict = {"prompts": len(prompts), "pairs": len(held_out.pairs)}
    ids, marks = {}, {}
    for i, (name, model) in enumerate(models.items()):
        ids[name] = answer_prompts(model, tokenizer, prompts, max_new_tokens, 2 * seed + i, how)
        for sample, response in zip(samples, ids[name], strict=True):
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
            texts = list(map(as_text, prompts)), [sample[name] for sample in samples]
            marks[name] = judge_all(held_out.judge, *texts)
            counts = count_all(held_out.count, *texts)
            for sample, verdict, counted in zip(samples, marks[name], counts, strict=True):
                sample.setdefault("marks", {})[name] = verdict | counted
            summary[name] |= means_of(marks[name]) | means_of(counts)
            own = [mark for mark in marks[name][0] if mark != "reward"]  # a single one is the reward again
            summary["labels"] = held_out.labels or ({mark: mark for mark in own} if len(own) > 1 else {})
        keep(summary, samples)
    if policy is None:
        return summary, samples
    dpo = summary["dpo"]
    dpo |= named("kl", *estimate_kl(policy, reference, tokenizer, prompts, ids["dpo"], how))
    keep(summary, samples)
    if held_out.judge:
        # (N,) each
        ours, theirs = (
            torch.tensor([verdict["reward"] for verdict in marks[name]]) for name in ("dpo", "sft")
        )
        dpo |= named("reward_gain", *mean_and_error(ours - theirs)) | named(
            "win_rate", *mean_and_error(wins(ours, theirs))
        )
    if held_out.pairs:
        before, after = compare_pairs(policy, sft, reference, variant, hyperparameters, held_out.pairs, how)
        summary["sft"] |= before
        dpo |= after
        if held_out.blank:
            pairs = [blanked(pair, held_out.blank) for pair in held_out.pairs]
            _, unseen = compare_pairs(policy, sft, reference, variant, hyperparameters, pairs, how)
            dpo |= named("blanked_accuracy", unseen["reward_accuracy"], unseen["reward_accuracy_error"])
        if held_out.judge:
            fields = (
                [as_text(getattr(p, field)) for p in held_out.preferences]
                for field in ("prompt", "chosen", "rejected")
            )
            summary["label_accuracy"] = win_rate(held_out.judge, *fields)
    return summary, samples


def blanked(pair: EncodedPair, blank: list[int]) -> EncodedPair:
    """The same two responses to a prompt in which nothing can be seen."""
    chosen, rejected = (sequence._replace(prompt=blank) for sequence in (pair.chosen, pair.rejected))
    return EncodedPair(chosen, rejected)


def answer_length(held_out: HeldOut, context: int) -> int:
    """The default for the longest answer, in tokens: twice the longest held-out response (twice the context
    if there is none), at most LONGEST_ANSWER.
    """
    sequences = held_out.responses or [pair.chosen for pair in held_out.pairs]
    return min(2 * max((len(sequence.response) for sequence in sequences), default=context), LONGEST_ANSWER)


def mean_and_error(values: Tensor | Sequence[float]) -> tuple[float, float | None]:
    """The mean of one value an example, (N,), and its standard error, std / sqrt(N); None for a single
    example.

    To compare two models on the same prompts, give the differences prompt by prompt: then the difficulty of a
    prompt is not part of the error.
    """
    values = torch.as_tensor(values, dtype=torch.float64)
    return float(values.mean()), float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else None


def named(name: str, value: float | None, error: float | None) -> dict[str, float | None]:
    """A number and its standard error as entries of the summary."""
    return {name: value, f"{name}_error": error}


def judge_all(judge: Judge, prompts: Sequence[str], responses: Sequence[str]) -> list[dict[str, float]]:
    """The true reward of each response, and the judge's marks, whose sum it is."""
    marks = [judge(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]
    return [{"reward": float(reward(of_one)), **of_one} for of_one in marks]


def count_all(
    count: Judge | None, prompts: Sequence[str], responses: Sequence[str]
) -> list[dict[str, float]]:
    """What else is counted of each response."""
    return [count(p, r) if count else {} for p, r in zip(prompts, responses, strict=True)]


def means_of(rows: Sequence[dict[str, float]]) -> dict[str, float | None]:
    """The mean of each name over the rows that have it, and its standard error."""
    found: dict[str, float | None] = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        found |= named(name, *mean_and_error([row[name] for row in rows if name in row]))
    return found


def answer_prompts(
    model: GPT,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    max_new_tokens: int,
    seed: int,
    how: How = AS_THEY_ARE,
) -> list[list[int]]:
    """One response to each prompt, drawn from the model itself (temperature 1), as token ids."""
    encoded = [tokenizer.encode_prompt(prompt) for prompt in prompts]
    rows = how.rows(min(max(map(len, encoded)) + max_new_tokens, model.config.context))
    return generate(
        model,
        encoded,
        end_of_text=tokenizer.end_of_text,
        max_new_tokens=max_new_tokens,
        seed=seed,
        batch_size=rows,
        watch=lambda starts: watched(starts, len(starts), "answering held-out prompts"),
    )


def score_sequences(model: GPT, sequences: Sequence[Encoded], how: How) -> Tensor:
    """log pi(response | prompt) of each sequence, in nats: (N,), on the CPU."""
    return score_batches(
        model,
        Batches(sequences, collate, how.batch_size, seed=0, tokens=how.tokens),
        how.dtype,
        "scoring responses",
    )


def perplexity(model: GPT, responses: Sequence[Encoded], how: How) -> tuple[float, float | None]:
    """exp of the mean negative log-prob per response token, and its standard error over responses. inf if a
    float cannot hold it.

    The mean is a ratio: all nats divided by all tokens. Its error comes from how much the nats of a
    response differ from the mean's for as many tokens. The error of exp(mean) is exp(mean) times the
    error of the mean. Both steps are the delta method.
    """
    nats = -score_sequences(model, responses, how).double()  # (N,)
    tokens = torch.tensor([response.n_targets for response in responses])  # (N,)
    mean = nats.sum() / tokens.sum()
    _, error = mean_and_error((nats - mean * tokens) * len(tokens) / tokens.sum())
    value = float(mean.exp())
    return value, None if error is None else value * error


def estimate_kl(
    policy: GPT,
    reference: GPT,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    responses: Sequence[list[int]],
    how: How,
) -> tuple[float, float | None]:
    """KL(policy || reference) per response in nats, and its standard error: the mean of log(policy /
    reference) over responses of the policy.
    """
    sequences = [
        Encoded(tokenizer.encode_prompt(prompt), response)
        for prompt, response in zip(prompts, responses, strict=True)
    ]
    return mean_and_error(
        score_sequences(policy, sequences, how) - score_sequences(reference, sequences, how)
    )


@torch.no_grad()
def compare_pairs(
    policy: GPT,
    sft: GPT,
    reference: GPT,
    variant: Loss,
    hyperparameters: dict,
    pairs: Sequence[EncodedPair],
    how: How,
) -> tuple[dict, dict]:
    """(SFT model, policy): the mean log-prob of the chosen and of the rejected responses of held-out pairs,
    and for the policy how often its reward agrees with the label.

    The reward is the one of the loss; the reference is scored only if the loss has one. A loss of single
    responses has two accuracies: which response of a pair has the larger reward, and the sign of each reward,
    as in its log. A pair is one example for the standard error, because its two responses are not
    independent.
    """
    before = reference_logps(sft, pairs, *how)  # (N, 2)
    # (N, 2)
    ref_logps = (
        before if reference is sft or not variant.reference else reference_logps(reference, pairs, *how)
    )
    known = know_reference(pairs, ref_logps) if variant.reference else pairs
    device, logged = policy.wte.weight.device, []
    for batch in look(
        Batches(known, collate_pairs, how.batch_size, seed=0, tokens=how.tokens), "scoring pairs"
    ):
        with autocast(device, how.dtype):
            logged.append(
                preference_metrics(variant, pair_logps(policy, None, batch.to(device)), hyperparameters)
            )
    after = {name: torch.cat([metrics[name] for metrics in logged]).cpu() for name in logged[0]}  # (N,) each
    agreement = named("reward_accuracy", *mean_and_error(after["rewards/accuracies"]))
    if not variant.paired:
        right = (wins(after["rewards/chosen"], 0) + wins(0, after["rewards/rejected"])) / 2  # (N,)
        agreement |= named("reward_sign_accuracy", *mean_and_error(right))
    sides = ("logps/chosen", "logps/rejected")
    return dict(zip(sides, before.mean(0).tolist(), strict=True)), {
        side: float(after[side].mean()) for side in sides
    } | agreement
