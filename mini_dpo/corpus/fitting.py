"""Which examples fit the context, and which context fits the examples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mini_dpo.batches import AnyExample, E, Encoded, EncodedPair, encode
from mini_dpo.data import Demonstration, Example, Feedback, Preference, Prompt, Turn, turns
from mini_dpo.errors import UserError
from mini_dpo.feedback import EncodedFeedback
from mini_dpo.formats.conversations import texts_of
from mini_dpo.formats.loading import Say
from mini_dpo.tokenizer import Tokenizer


@dataclass(frozen=True)
class OwnFile:
    """The examples of a file and their tokens. The first `n_train` are trained on, the others are held out.
    source: the path, for messages.
    """

    source: str
    examples: list
    encoded: list
    n_train: int


LONGEST_CONTEXT = 2048  # tokens: what a context is fitted to at most


def fitted_context(own: Sequence[OwnFile], shortest: int) -> int:
    """A context for these files: the 99th percentile of the lengths (of the file where it is larger), at
    least `shortest` and at most LONGEST_CONTEXT tokens.
    """
    lengths = [sorted(map(longest_text, file.encoded)) for file in own if file.encoded]
    percentile = max(of_file[math.ceil(0.99 * len(of_file)) - 1] for of_file in lengths)
    return max(shortest, min(percentile, LONGEST_CONTEXT))


def describe_choice(own: Sequence[OwnFile], tokenizer: Tokenizer, context: int, chosen: Sequence[str]) -> str:
    """One line about the vocabulary and the context. chosen: the flags that were not given."""
    texts = [text for file in own for e in file.examples[:500] for text in texts_of(e)]
    rate = sum(len(text.encode()) for text in texts) / max(
        1, sum(len(tokenizer.encode(text)) for text in texts)
    )
    name = "GPT-2's vocabulary" if tokenizer.name == "gpt2" else "the toy shop's vocabulary"
    foreign = (
        ", made for other texts: GPT-2's is not in tiktoken's cache, and --tokenizer gpt2 fetches it once"
        if tokenizer.name == "toy" and "tokenizer" in chosen
        else ""
    )
    fits = sum(longest_text(e) <= context for file in own for e in file.encoded) / sum(
        len(file.encoded) for file in own
    )
    return (
        f"{own[0].source}: {name} ({rate:.1f} bytes a token{foreign}) and a context of "
        f"{context:,} tokens ({fits:.1%} of the examples fit); --{' and --'.join(chosen)} "
        f"{'changes' if len(chosen) == 1 else 'change'} that"
    )


def encode_example(
    tokenizer: Tokenizer, example: Preference | Feedback | Demonstration, sft_on: str = "all"
) -> EncodedPair | EncodedFeedback | Encoded:
    """The tokens of an example of any kind.
    sft_on: of a conversation to imitate, train on "all" turns of the assistant or on the "last".
    """
    if isinstance(example, Preference):
        chosen = encode(tokenizer, example.prompt, example.chosen)
        rejected = Encoded(chosen.prompt, tokenizer.encode_response(example.rejected))
        other = None if example.other is None else tokenizer.encode_prompt(example.other)
        return EncodedPair(chosen, rejected, other=other)
    if isinstance(example, Feedback):
        return EncodedFeedback(encode(tokenizer, example.prompt, example.completion), example.label)
    how = encode_conversation if sft_on == "all" else encode
    return how(tokenizer, example.prompt, example.response)


def encode_conversation(tokenizer: Tokenizer, prompt: Prompt, response: str) -> Encoded:
    """The same tokens, with every turn of the assistant trained on and not only the last."""
    said = turns(prompt)
    first = next((i for i, turn in enumerate(said) if turn.role == "assistant"), len(said))
    rest = [(t, tokenizer.encode_turn(t)) for t in (*said[first:], Turn("assistant", response))]
    ids = [token for _, tokens in rest for token in tokens]
    trained = [i > 0 and turn.role == "assistant" for turn, tokens in rest for i in range(len(tokens))]
    # the first marker is the prompt's
    return Encoded(tokenizer.encode_prompt(said[:first]), ids[1:], None if len(rest) == 1 else trained[1:])


def encode_fitting(
    examples: Sequence[Example], tokenizer: Tokenizer, context: int, source: str, say: Say = print
) -> tuple[list[Example], list[Any]]:
    """Those examples, all of one kind, that fit the context, and their tokens."""
    encoded = [encode_example(tokenizer, example) for example in examples]
    kept = fitting(encoded, examples, context, source, say)
    return [examples[i] for i in kept], [encoded[i] for i in kept]


def longest_text(example: AnyExample) -> int:
    """The number of tokens of the longest text of an example: of a pair, the prompt and the longer
    response.
    """
    if isinstance(example, EncodedPair):
        return max(example.chosen.n_tokens, example.rejected.n_tokens)
    return example.n_tokens


def fitting(
    encoded: Sequence[E],
    examples: Sequence[Example],
    context: int,
    source: str,
    say: Say = print,
    n_train: int | None = None,
    longest: int = 0,
) -> list[int]:
    """The numbers of the examples of at most `context` tokens. A longer example is left out, never cut; a
    pair is as long as its longer half.
    say: is called with a line that says how many are left out, and which --context keeps all.
    longest: tokens of the longest example elsewhere, for that line.
    Raises UserError if none of the first `n_train` examples, which are to be trained on, fits.
    """
    kept = [i for i, e in enumerate(encoded) if longest_text(e) <= context]
    if len(kept) < len(encoded):
        too_long = sorted(
            example.line for e, example in zip(encoded, examples, strict=True) if longest_text(e) > context
        )
        longest = max(longest, *map(longest_text, encoded))
        shorter = ", and --truncate oldest-turns would shorten conversations"
        report = (
            f"longer than the context of {context} tokens (first: line {too_long[0]}); "
            f"--context {longest} would keep all"
            f"{shorter if any(not isinstance(e.prompt, str) for e in examples) else ''}"
        )
        if not any(i < (n_train or len(encoded)) for i in kept):
            raise UserError(f"{source}: every example to train on is {report}")
        say(f"{source}: left out {len(too_long)} of {len(encoded)} examples: {report}")
    return kept
