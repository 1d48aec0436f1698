"""Which training pairs moved the model on an answer: those that helped it most, those that harmed it most.

python -m mini_dpo.trace runs/1 "Ada here. On Friday you sold me a kettle, and now it bites."
python -m mini_dpo.trace runs/1 "Ada here. ..." --answer "Dear Ada! ..." --suspects 10
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mini_dpo.batches import Batches, Encoded, collate, collate_pairs
from mini_dpo.cli import option, parser_for, run_command
from mini_dpo.corpus.parts import Corpus, HeldOut
from mini_dpo.data import as_text
from mini_dpo.errors import UserError
from mini_dpo.evaluation.measuring import answer_length
from mini_dpo.evaluation.words import token_scale, words
from mini_dpo.formats.conversations import check_text
from mini_dpo.generate import check_room, generate
from mini_dpo.logprobs import token_logps
from mini_dpo.losses import find_loss
from mini_dpo.reference import precompute_reference
from mini_dpo.saving.checkpoint import find_model, load_frozen, load_own
from mini_dpo.saving.metrics import read_metrics
from mini_dpo.tokenizer import Tokenizer
from mini_dpo.trace.influence import correlation
from mini_dpo.trace.path import Way, retrained, trace
from mini_dpo.train.parsing import read_config, refuse_code
from mini_dpo.train.preparing import prepare
from mini_dpo.train.running import unchanged_settings
from mini_dpo.train.settings import Settings
from mini_dpo.train.stages import loop_config
from mini_dpo.worlds.world import Judge, prefers


@dataclass(frozen=True)
class TraceSettings:
    """Which answer, and what to print of it."""

    answer: str | None = option(
        str, "trace this answer (default: the trained model's likeliest, token by token)"
    )
    top: int = option(int, "pairs to print of each kind", 3)
    suspects: int = option(int, "also print the pairs whose labels the trained model doubts most", 0)
    layers: str = option(str, "gradients of all weights, or of the last block's", "all", ("all", "last"))
    points: int = option(int, "models to look at, evenly on the line from sft.pt to dpo.pt, both included", 3)
    retrain: int = option(
        int,
        "hold it to the truth: train so many times again, without a random half of the pairs each, and print "
        "the correlation between what was predicted of the answer and what happened",
        0,
    )
    run_code: bool = option(
        bool,
        "run the file of the world, the judge or the loss that RUN was made with; only if you know it",
        False,
    )


def main() -> None:
    parser = parser_for(
        TraceSettings,
        "trace",
        "Print which training pairs moved the model on an answer.",
        arguments="RUN PROMPT ",
    )
    parser.add_argument("run", metavar="RUN", help="the folder of a finished run")
    parser.add_argument("prompt", metavar="PROMPT", help="the prompt that is answered")
    given = vars(parser.parse_args())
    run, prompt = Path(given.pop("run")), check_text("the prompt", given.pop("prompt"))
    settings = TraceSettings(**given)
    check(settings)
    begun, tokenizer, way, corpus = way_of(run, settings)
    answer = answer_to(prompt, settings, tokenizer, way, corpus.held_out)
    print(described(way, tokenizer, prompt, answer))
    traced = trace(way, answer, settings.points, settings.layers)
    total = float(traced.parts.sum())
    print(
        f"log-prob of this answer: {traced.change:+.2f} nats since the start; all {len(way.pairs)} pairs "
        f"together, to first order and as far as AdamW is a sum over pairs, {total:+.2f}"
    )
    texts = texts_of(tokenizer, way, corpus)
    for heading, order in (("helped", -traced.parts), ("harmed", traced.parts)):
        print(f"\nthe pairs that {heading} this answer most")
        for i in order.argsort()[: settings.top].tolist():
            print(f"{float(traced.parts[i]):+.4f} nats, {shown(texts[i], traced.doubt[i])}")
    if settings.suspects:
        suspects(texts, traced.doubt, corpus.held_out.judge, settings.suspects)
    if settings.retrain:
        hold_to_retraining(way, begun, answer, traced.parts, settings.retrain)


def check(settings: TraceSettings) -> None:
    """Raise UserError for a setting out of range."""
    for name, least in (("top", 0), ("suspects", 0), ("points", 2), ("retrain", 0)):
        if getattr(settings, name) < least:
            raise UserError(f"--{name} must be at least {least}, not {getattr(settings, name)}")


def way_of(run: Path, settings: TraceSettings) -> tuple[Settings, Tokenizer, Way, Corpus]:
    """What a run has trained on, and how. Raises UserError for a run that cannot be traced."""
    begun, _ = read_config(run)
    refuse_code(run, begun, settings.run_code)
    begun, variant = unchanged_settings(run, begun), find_loss(begun.loss)
    if begun.stage == "online":
        raise UserError(f"{run}: its pairs were written as it trained, and are not in a file")
    if not (run / "dpo.pt").exists() or not load_own(run / "dpo.pt", begun.id)["finished"]:
        raise UserError(f"{run}: preference training is not finished; go on with it: --resume {run}")
    if begun.optimizer == "muon":
        raise UserError(f"{run}: trained with Muon, whose step is no sum over the pairs; AdamW's nearly is")
    summed = variant.paired and not variant.mismatched and variant.fact("decomposes", **begun.loss_options)
    if not summed:
        raise UserError(f"{run}: {begun.loss} is no sum over pairs, so that no pair has a part of its own")
    begun, tokenizer, _, corpus = prepare(begun)
    start, end = (load_frozen(run / name, "cpu") for name in ("sft.pt", "dpo.pt"))
    pairs: list = corpus.preferences
    if variant.reference:
        reference = load_frozen(find_model(Path(begun.reference)), "cpu") if begun.reference else start
        pairs = precompute_reference(reference, pairs, "float32", begun.batch_size, begun.tokens_per_batch)
    batches = Batches(pairs, collate_pairs, begun.batch_size, begun.seed, begun.tokens_per_batch)
    rates = [row["learning_rate"] for row in read_metrics(run) if row["stage"] == "dpo"]
    how = begun.loss_options, batches, rates, begun.accumulate, begun.sft_weight or 0.0
    return begun, tokenizer, Way(start, end, variant, *how), corpus


def answer_to(
    prompt: str, settings: TraceSettings, tokenizer: Tokenizer, way: Way, held_out: HeldOut
) -> Encoded:
    """The answer to trace, as tokens."""
    asked = tokenizer.encode_prompt(prompt)
    check_room(way.end, asked)
    if settings.answer is not None:
        said = tokenizer.encode_response(check_text("--answer", settings.answer))
        if len(asked) + len(said) > way.end.config.context:
            raise UserError(f"prompt and --answer do not fit the model's context of {way.end.config.context}")
        return Encoded(asked, said)
    length = answer_length(held_out, way.end.config.context)
    (said,) = generate(
        way.end, [asked], end_of_text=tokenizer.end_of_text, max_new_tokens=length, temperature=0.0
    )
    return Encoded(asked, said)


@torch.no_grad()
def described(way: Way, tokenizer: Tokenizer, prompt: str, answer: Encoded) -> str:
    """The answer, each of its words with its part of the implicit reward."""
    batch, scale = collate([answer]), token_scale(way.variant, way.options)
    values = (token_logps(way.end, batch) - token_logps(way.start, batch)) * (1 if scale is None else scale)
    found = words(tokenizer, answer.response, values.tolist())
    unit = "nats of log(policy / start)" if scale is None else "units of reward"
    said = " ".join(f"{word.text.strip() or repr(word.text)}({word.value:+.2f})" for word in found)
    return f"> {prompt}\n{said}\neach word: {unit}, {float(values.sum()):+.2f} in all\n"


def texts_of(tokenizer: Tokenizer, way: Way, corpus: Corpus) -> list[tuple[str, str, str]]:
    """(prompt, chosen, rejected) of each pair."""
    sides = zip(*((pair.chosen.response, pair.rejected.response) for pair in way.pairs), strict=True)
    chosen, rejected = ([tokenizer.decode_response(response) for response in side] for side in sides)
    return list(zip(map(as_text, corpus.prompts), chosen, rejected, strict=True))


def shown(texts: tuple[str, str, str], doubt: Tensor) -> str:
    """A pair, and how much the trained model doubts its label."""
    prompt, chosen, rejected = texts
    return f"sigmoid(-m) {doubt:.3f}\n  > {prompt}\n  chosen    {chosen}\n  rejected  {rejected}"


def suspects(texts: list[tuple[str, str, str]], doubt: Tensor, judge: Judge | None, n: int) -> None:
    """Print the pairs with the largest sigmoid(-m), and how many of their labels the judge calls wrong."""
    print("\nthe pairs whose labels the model doubts most")
    order = doubt.argsort(descending=True)[:n].tolist()
    for i in order:
        print(f"pair {i + 1}, {shown(texts[i], doubt[i])}")
    if judge:
        prompts, chosen, rejected = zip(*texts, strict=True)
        wrong = prefers(judge, prompts, rejected, chosen) == 1
        print(
            f"the judge calls {int(wrong[order].sum())} of these {len(order)} labels wrong, and "
            f"{int(wrong.sum())} of all {len(wrong)}"
        )


def hold_to_retraining(way: Way, begun: Settings, answer: Encoded, parts: Tensor, times: int) -> None:
    """Print what was predicted and what happened without some of the pairs, and the correlation."""
    config = loop_config(begun, way.batches, max(way.rates), len(way.rates), None, "adamw", weight_decay=0.0)
    predicted, happened = [], []
    for kept, moved in retrained(way, config, answer, times):
        predicted.append(float(parts[kept].sum()))
        happened.append(moved)
        print(f"  {len(kept)} pairs: predicted {predicted[-1]:+.3f}, happened {moved:+.3f}", flush=True)
    found = float(correlation(torch.tensor(predicted), torch.tensor(happened)))
    print(f"correlation over {times} random halves: {found:.2f}")


if __name__ == "__main__":
    run_command(main)
