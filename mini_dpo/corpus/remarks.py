"""What a user should know about a file before training on it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from typing import Any

from mini_dpo.data import Feedback, Preference
from mini_dpo.formats.conversations import texts_of

# What other chat templates write between the turns; ChatML's, Llama's, Gemma's, Zephyr's, Anthropic's,
# Alpaca's, Vicuna's.
MARKS = re.compile(
    r"<\|(?:im_start|im_end|start_header_id|end_header_id|eot_id|begin_of_text|endoftext"
    r"|user|assistant|system|end)\|>|\[/?INST\]|<</?SYS>>"
    r"|<(?:start|end)_of_turn>|\n\n(?:Human|Assistant):|### "
    r"(?:Instruction|Response|Human|Assistant):|(?:USER|ASSISTANT):"
)

TURN = re.compile(r"^[^\w\n]{0,9}(?:human|user|assistant)[^\w\n]{0,9}:", re.IGNORECASE | re.MULTILINE)

LONG_BEGINNING = 100  # characters


def remarks(examples: Sequence) -> list[str]:
    """One line for each remark about a file's examples (all of one kind): how many lines, and the first of
    them.
    """
    found = []

    def remark(holds: Callable, text: str) -> None:
        lines = [e.line for e in examples if holds(e)]
        if lines:
            found.append(f"{len(lines)} of {len(examples)} lines (first: line {lines[0]}) {text}")

    remark(
        lambda e: any(map(MARKS.search, texts_of(e))),
        "hold marks of another chat template, which are learned letter by letter; take them "
        "out: the prompt and the response get marks of their own",
    )
    remark(
        is_transcript,
        "have an empty prompt and a transcript as a response, so that what the human says is "
        "imitated too; put all but the last answer into the prompt",
    )
    remark(
        lambda e: not is_transcript(e) and begins_alike(e),
        f"have a chosen and a rejected response with the same {LONG_BEGINNING} characters or "
        "more before they part; if that is a conversation, put it into the prompt",
    )
    seen: set = set()

    def seen_before(example: object) -> bool:
        before = key_of(example) in seen
        seen.add(key_of(example))
        return before

    remark(seen_before, "repeat another line to the letter, and count as often as they stand there")
    remark(
        lambda e: opposite_of(e) in seen,
        "contradict another line: the same responses to the same prompt, preferred the other way round",
    )
    return found


def is_transcript(example: Any) -> bool:
    """Whether the prompt is empty and the response is a conversation."""
    prompt, *responses = texts_of(example)
    return not prompt.strip() and any(TURN.search(response) for response in responses)


def begins_alike(example: object) -> bool:
    """Whether the two responses of a pair begin with the same text: LONG_BEGINNING characters or more, and
    half of the shorter one.
    """
    if not isinstance(example, Preference):
        return False
    both = [example.chosen, example.rejected]
    common = len(os.path.commonprefix(both))  # noqa: RUF071 (characters are meant)
    return common >= max(LONG_BEGINNING, min(len(example.chosen), len(example.rejected)) / 2)


def key_of(example: object) -> tuple:
    """All fields of an example but its line."""
    return tuple(value for name, value in vars(example).items() if name != "line")


def opposite_of(example: object) -> tuple | None:
    """The `key_of` of an example that would contradict this one; None for responses to imitate."""
    if isinstance(example, Preference):
        return example.prompt, example.rejected, example.chosen, example.other
    return (example.prompt, example.completion, not example.label) if isinstance(example, Feedback) else None


def proposed_weights(
    examples: Sequence[Any], desirable_weight: float, undesirable_weight: float
) -> str | None:
    """A line that proposes weights for liked and disliked responses if their numbers are far from equal, else
    None. The rule is the KTO paper's (arXiv:2402.01306, section 4.2): the ratio of the weighted numbers is
    between 1:1 and 4:3.
    """
    least, most = 0.9, 1.1 * 4 / 3  # the rule, and a tenth of leeway
    liked = sum(e.desirable for e in examples)
    disliked = len(examples) - liked
    if (
        not liked
        or not disliked
        or least <= desirable_weight * liked / max(undesirable_weight * disliked, 1e-9) <= most
    ):
        return None
    if liked > disliked:
        low, high, flag = 3 / 4 * liked / disliked, liked / disliked, "--undesirable-weight"
    else:
        low, high, flag = disliked / liked, 4 / 3 * disliked / liked, "--desirable-weight"
    return (
        f"{liked} liked and {disliked} disliked responses: {flag} between {low:.2g} and "
        f"{high:.2g}, with the other weight at 1, would balance them"
    )
