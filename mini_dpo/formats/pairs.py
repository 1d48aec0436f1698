"""The forms in which people keep preferences: a short function for each, from a row to its pairs.

A function raises UserError with what is wrong with a row. A file has the first of these forms that one of its
rows fits.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

from mini_dpo.data import Preference, Prompt
from mini_dpo.errors import UserError
from mini_dpo.formats.conversations import (
    as_prompt,
    common_beginning,
    is_transcript,
    read_prompt,
    read_response,
    read_transcript,
    read_turns,
)
from mini_dpo.formats.files import Row, json_kind
from mini_dpo.formats.forms import Fields, alpaca_prompt, form, has_messages, system_of


def pair(prompt: Prompt, chosen: str, rejected: str) -> Fields:
    """The fields of a preference."""
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


@form(Preference, "sharegpt", "ShareGPT's form", "conversations chosen rejected")
def sharegpt_pair(row: Row) -> Iterator[Fields]:
    """A conversation so far, and two messages that could come next."""
    prompt = read_prompt("'conversations'", row["conversations"], system_of(row))
    yield pair(prompt, *(read_response(f"{name!r}", row[name]) for name in ("chosen", "rejected")))


@form(
    Preference,
    "messages",
    "TRL's conversational form",
    "chosen rejected",
    "prompt messages",
    has_messages("prompt", "chosen", "rejected"),
)
def messages_pair(row: Row) -> Iterator[Fields]:
    """Messages: a prompt and one more on each side, or two whole conversations that begin alike."""
    sides = [read_turns(f"{name!r}", row[name], "assistant") for name in ("chosen", "rejected")]
    before = read_turns("'prompt'", row["prompt"], "user") if row.get("prompt") else []
    if all(said[0].role == "assistant" for said in sides):
        sides = [before + said for said in sides]
    elif before and any(said[: len(before)] != before for said in sides) and before[0] not in sides[0]:
        raise UserError("'prompt' is not what 'chosen' and 'rejected' begin with")
    yield pair(*common_beginning(sides[0], sides[1], system_of(row)))


@form(
    Preference,
    "transcripts",
    "Anthropic HH's transcripts",
    "chosen rejected",
    "prompt",
    lambda row: is_transcript(row.get("prompt") or row["chosen"]),
)
def transcript_pair(row: Row) -> Iterator[Fields]:
    """Two whole transcripts that begin alike, or a transcript and what the assistant says next."""
    if row.get("prompt"):
        prompt = as_prompt("'prompt'", read_transcript("'prompt'", row["prompt"]), system_of(row))
        yield pair(
            prompt, *(read_response(f"{name!r}", row[name]).strip() for name in ("chosen", "rejected"))
        )
    else:
        sides = [read_transcript(f"{name!r}", row[name]) for name in ("chosen", "rejected")]
        yield pair(*common_beginning(sides[0], sides[1], system_of(row)))


@form(Preference, "alpaca", "Alpaca's form", "instruction chosen rejected", "input history")
def alpaca_pair(row: Row) -> Iterator[Fields]:
    """An instruction, perhaps with an input, and two responses."""
    yield pair(
        alpaca_prompt(row), *(read_response(f"{name!r}", row[name]) for name in ("chosen", "rejected"))
    )


@form(Preference, "orca", "Orca's form", "question chosen rejected")
def question_pair(row: Row) -> Iterator[Fields]:
    """A question and two responses."""
    prompt = read_prompt("'question'", row["question"], system_of(row))
    yield pair(prompt, *(read_response(f"{name!r}", row[name]) for name in ("chosen", "rejected")))


@form(
    Preference,
    "stackexchange",
    "StackExchange's form: response_j is the better one",
    "question response_j response_k",
)
def stackexchange_pair(row: Row) -> Iterator[Fields]:
    """A question, the answer with more votes, and one with fewer."""
    prompt = read_prompt("'question'", row["question"], system_of(row))
    yield pair(prompt, *(read_response(f"{name!r}", row[name]) for name in ("response_j", "response_k")))


def numbered_pair(row: Row, which: str) -> Iterator[Fields]:
    """response_0 and response_1, of which the column `which` names the chosen one."""
    if row[which] not in (0, 1) or isinstance(row[which], (bool, float)):
        raise UserError(f"{which!r} must be 0 or 1, not {str(row[which])[:40]}")
    names = [f"response_{i}" for i in (row[which], 1 - row[which])]
    yield pair(
        read_prompt("'prompt'", row["prompt"], system_of(row)),
        *(read_response(f"{name!r}", row[name]) for name in names),
    )


@form(
    Preference,
    "saferlhf",
    "SafeRLHF's form, by better_response_id (--format saferlhf-safer takes the safer response)",
    "prompt response_0 response_1 better_response_id",
)
def better_pair(row: Row) -> Iterator[Fields]:
    """The better of two responses, helpful above all."""
    return numbered_pair(row, "better_response_id")


@form(
    Preference,
    "saferlhf-safer",
    "SafeRLHF's form, by safer_response_id",
    "prompt response_0 response_1 safer_response_id",
)
def safer_pair(row: Row) -> Iterator[Fields]:
    """The safer of two responses."""
    return numbered_pair(row, "safer_response_id")


def ranked_responses(row: Row) -> tuple[Prompt, list[tuple[float, str]]]:
    """The prompt, and each response with its score, the best first: from `responses` and `scores`, or from
    the objects of `completions`.
    """
    prompt = read_prompt("the prompt", row.get("prompt") or row.get("instruction"), system_of(row))
    responses: list[Any]
    scores: list[Any]
    if "completions" in row:
        found = [one if isinstance(one, dict) else {} for one in as_list(row, "completions")]
        responses = [one.get("response") for one in found]
        scores = [
            next((one[k] for k in ("overall_score", "score", "rating") if k in one), None) for one in found
        ]
    else:
        responses, scores = as_list(row, "responses"), as_list(row, "scores")
    if len(responses) != len(scores):
        raise UserError(f"{len(responses)} responses and {len(scores)} scores")
    for i, score in enumerate(scores, 1):
        if isinstance(score, bool) or not isinstance(score, (int, float)) or score != score:
            raise UserError(f"the score of response {i} must be a number, not {json_kind(score)}")
    ranked = zip(
        scores, (read_response(f"response {i}", one) for i, one in enumerate(responses, 1)), strict=True
    )
    return prompt, sorted(ranked, key=lambda both: -both[0])


def as_list(row: Row, name: str) -> list:
    """A column that must be a list."""
    if not isinstance(row[name], list):
        raise UserError(f"{name!r} must be a list, not {json_kind(row[name])}")
    return row[name]


def is_ranked(row: Row) -> bool:
    """Whether a row has several responses with scores."""
    return isinstance(row.get("completions"), list) or {"responses", "scores"} <= row.keys()


RANKED = "prompt instruction responses scores completions"


@form(
    Preference,
    "ranked",
    "ranked responses, the best against each that scores lower (--format ranked-all: every two)",
    "",
    RANKED,
    is_ranked,
)
def best_against_each(row: Row) -> Iterator[Fields]:
    """The response with the highest score against each one with a lower score."""
    prompt, ranked = ranked_responses(row)
    for score, response in ranked[1:]:
        if score < ranked[0][0]:
            yield pair(prompt, ranked[0][1], response)


@form(Preference, "ranked-all", "ranked responses, every two that differ in score", "", RANKED, is_ranked)
def every_two(row: Row) -> Iterator[Fields]:
    """Every two responses with different scores."""
    prompt, ranked = ranked_responses(row)
    for (score, response), (lower, other) in combinations(ranked, 2):
        if lower < score:
            yield pair(prompt, response, other)


@form(Preference, "texts", "texts", "prompt chosen rejected")
def text_pair(row: Row) -> Iterator[Fields]:
    """A prompt and two responses."""
    prompt = read_prompt("'prompt'", row["prompt"], system_of(row))
    yield pair(prompt, *(read_response(f"{name!r}", row[name]) for name in ("chosen", "rejected")))
