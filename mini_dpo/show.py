"""Look at one example as the trainer sees it: each token, and whether it is trained on.

python -m mini_dpo.show                                  the first pair of the toy shop
python -m mini_dpo.show --data mine.jsonl --line 7
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mini_dpo.batches import Encoded, collate
from mini_dpo.cli import option, parser_for, run_command
from mini_dpo.corpus.fitting import encode_example
from mini_dpo.corpus.worlds import TOY_PREFERENCES, words_of, world_examples
from mini_dpo.errors import UserError
from mini_dpo.formats.loading import (
    FORMATS,
    holds_pairs,
    load_demonstrations,
    load_feedback,
    load_preferences,
)
from mini_dpo.pictures import find_tokenizer, pixels_of
from mini_dpo.saving.checkpoint import find_model, load_checkpoint
from mini_dpo.tokenizer import Tokenizer
from mini_dpo.vocabularies import default_vocabulary


@dataclass(frozen=True)
class ShowSettings:
    """Which example to show."""

    data: str | None = option(
        str, "a file of pairs or of single responses (default: the toy shop's pairs)", metavar="PATH"
    )
    sft_data: str | None = option(str, "an SFT file instead", metavar="PATH")
    world: str | None = option(str, "the pairs of this world instead, a name or file.py:NAME", metavar="NAME")
    format: str | None = option(str, "the form of its rows, if not the one that is recognised", None, FORMATS)
    sft_on: str = option(
        str, "of a conversation to imitate, train on all answers or on the last", "all", ("all", "last")
    )
    line: int | None = option(int, "which line of the file (default: the first that can be used)")
    tokenizer: str | None = option(str, "toy or gpt2 (default: what train would take)", None, ("toy", "gpt2"))
    init_from: str | None = option(
        str,
        "a run's folder, a checkpoint or a folder from Hugging Face, whose tokenizer to take",
        metavar="PATH",
    )


def main() -> None:
    parser = parser_for(
        ShowSettings, "show", "Print one example token by token, and which tokens are trained on."
    )
    settings = ShowSettings(**vars(parser.parse_args()))
    if len([given for given in (settings.data, settings.sft_data, settings.world) if given]) > 1:
        raise UserError("give one of --data, --sft-data and --world")
    if settings.sft_on != "all" and not settings.sft_data:
        raise UserError("--sft-on is about the conversations of --sft-data; give that, or leave it out")
    own = settings.sft_data or settings.data
    if settings.tokenizer and settings.init_from:
        raise UserError("give --tokenizer or --init-from, not both")
    name = settings.tokenizer or (default_vocabulary() if own else words_of(settings.world or "shop"))
    if settings.init_from:
        name = load_checkpoint(find_model(Path(settings.init_from)))["tokenizer"]
    tokenizer = find_tokenizer(name)
    path = own or settings.world or str(TOY_PREFERENCES["train"])
    examples: list[Any]
    names: tuple[str, ...]
    if settings.world:
        examples, names = world_examples(settings.world)["train"][1], ("chosen", "rejected")
    elif settings.sft_data:
        examples, names = load_demonstrations(path, form=settings.format), ("response",)
    elif holds_pairs(path):
        examples, names = load_preferences(path, form=settings.format), ("chosen", "rejected")
    else:
        examples, names = load_feedback(path, form=settings.format), ("completion",)
    found = [e for e in examples if settings.line in (None, e.line)]
    if not found:
        raise UserError(
            f"{path}: no usable example on line {settings.line}; the last is on line {examples[-1].line}"
        )
    example: Any
    for example in [e for e in found if e.line == found[0].line]:  # of ranked responses, several
        encoded: Any = encode_example(tokenizer, example, settings.sft_on)
        sequences = [encoded] if settings.sft_data else encoded[: len(names)]
        for field, sequence in zip(names, sequences, strict=True):
            liked = f" ({'liked' if example.label else 'disliked'})" if field == "completion" else ""
            print(f"{path}, line {example.line}, {field}{liked}:")
            print(render(tokenizer, sequence), end="\n\n")


def render(tokenizer: Tokenizer, encoded: Encoded) -> str:
    """One line for each token. Which tokens are trained on is read from the batch that the trainer
    would get.
    """
    batch = collate([encoded])
    # with one sequence, rows are positions
    predicted_at = {row + 1: row for row in batch.index.rows.tolist()}
    lines = [f"{'position':>8}  {'id':>5}  {'token':24}  trained on?"]
    for position, token in enumerate(batch.ids.tolist()):
        trained = f"yes, predicted at position {predicted_at[position]}" if position in predicted_at else "no"
        number = token if token < tokenizer.vocab_size else "patch"
        lines.append(f"{position:8}  {number:>5}  {spelt(tokenizer, token):24}  {trained}")
    lines.append(f"{len(predicted_at)} of {batch.n_tokens} tokens are trained on")
    return "\n".join(lines)


def spelt(tokenizer: Tokenizer, token: int) -> str:
    """The text of a token as a Python literal; its bytes if they are not whole characters. The lines of
    pixels of a patch.
    """
    if token >= tokenizer.vocab_size:
        return " ".join(pixels_of(token - tokenizer.vocab_size))
    held = tokenizer.encoding.decode_single_token_bytes(token)
    try:
        return repr(held.decode())
    except UnicodeDecodeError:
        return repr(held)


if __name__ == "__main__":
    run_command(main)
