"""`--truncate oldest-turns`: conversations that are longer than the context lose their oldest turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mini_dpo.batches import Encoded
from mini_dpo.corpus.fitting import OwnFile, encode_example, longest_text
from mini_dpo.corpus.splits import same_prompt
from mini_dpo.data import Prompt, turns
from mini_dpo.tokenizer import Tokenizer


def without_oldest_turns(
    files: Sequence[OwnFile], tokenizer: Tokenizer, context: int, sft_on: str
) -> tuple[OwnFile, ...]:
    """The same files, with shorter prompts where an example is longer than the context and fits without the
    oldest rounds of its conversation. Prints how many there are.

    What is left must not begin as a prompt of the other side does, held out or trained on. Such an example
    stays as it is, and is left out as too long.
    """
    begun: tuple[set[str], set[str]] = (set(), set())  # how prompts begin: those held out, those trained on
    for file in files:
        for i, example in enumerate(file.examples):
            begun[i < file.n_train].add(same_prompt(example.prompt))
    sources = [file.source for file in files]
    return tuple(
        shortened(file, begun, tokenizer, context, sft_on, say=file.source not in sources[:i])
        for i, file in enumerate(files)
    )


def shortened(
    file: OwnFile,
    begun: tuple[set[str], set[str]],
    tokenizer: Tokenizer,
    context: int,
    sft_on: str,
    say: bool,
) -> OwnFile:
    """One of the files. begun: as above; what is shortened is added. say: whether to print how many."""
    examples, encoded, lost = list(file.examples), list(file.encoded), []
    for i, whole in enumerate(file.examples):
        excess = longest_text(encoded[i]) - context
        prompt = without_oldest_rounds(whole.prompt, excess, tokenizer) if excess > 0 else None
        if prompt is not None and same_prompt(prompt) not in begun[i >= file.n_train]:
            begun[i < file.n_train].add(same_prompt(prompt))
            examples[i] = replace(whole, prompt=prompt)
            encoded[i] = encode_example(tokenizer, examples[i], sft_on_of(encoded[i], sft_on))
            lost.append(len(turns(whole.prompt)) - len(turns(prompt)))
    if lost and say:
        print(
            f"{file.source}: {len(lost)} of {len(examples)} conversations lost their oldest turns, "
            f"{sum(lost)} in all, to fit the context of {context} tokens"
        )
    return replace(file, examples=examples, encoded=encoded)


def sft_on_of(encoded: Any, sft_on: str) -> str:
    """How a response to imitate was encoded: of a chosen one, the last turn alone is trained on."""
    return "last" if isinstance(encoded, Encoded) and encoded.trained is None else sft_on


def without_oldest_rounds(prompt: Prompt, excess: int, tokenizer: Tokenizer) -> Prompt | None:
    """A prompt without so many of its oldest rounds (a turn of the user and the answer to it) that it is at
    least `excess` tokens shorter. A system message stays. None where the user's last turn would have to go.
    """
    said = turns(prompt)
    system = said[: said[0].role == "system"]
    rest = said[len(system) :]
    while excess > 0 and len(rest) > 1:
        excess -= sum(len(tokenizer.encode_turn(turn)) for turn in rest[:2])
        rest = rest[2:]
    if excess > 0:
        return None
    return rest[0].text if not system and len(rest) == 1 else (*system, *rest)
