"""The forms in which people keep preferences: a short function for each, from a row to its pairs.

A function raises UserError with what is wrong with a row. A file has the first of these forms that one of its
rows fits.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from mini_dpo.data import Preference, Prompt
from mini_dpo.errors import UserError
from mini_dpo.formats.conversations import (
    common_beginning,
    has_text,
    is_transcript,
    read_prompt,
    read_response,
    read_turns,
)
from mini_dpo.formats.files import Row
from mini_dpo.formats.forms import Fields, alpaca_prompt, form, has_messages, prompt_in, system_of


def pair(prompt: Prompt, chosen: str, rejected: str) -> Fields:
    """The fields of a preference."""
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def pair_in(row: Row, prompt: Prompt, chosen: str = "chosen", rejected: str = "rejected") -> Fields:
    """The same, the two responses being in these columns of a row."""
    return pair(prompt, *(read_response(repr(name), row[name]) for name in (chosen, rejected)))


@form(Preference, "sharegpt", "ShareGPT's form", "conversations chosen rejected")
def sharegpt_pair(row: Row) -> Iterator[Fields]:
    """A conversation so far, and two messages that could come next."""
    yield pair_in(row, prompt_in(row, "conversations"))


def two_sides(row: Row) -> Iterator[Fields]:
    """A prompt and one more turn on each side, or two whole conversations that begin alike.

    A prompt that stands apart is then what both begin with, or at least one of their common turns.
    """
    sides = [read_turns(repr(name), row[name], "assistant") for name in ("chosen", "rejected")]
    apart = next((name for name in ("prompt", "instruction") if has_text(row.get(name))), "prompt")
    before = read_turns(f"{apart!r}", row[apart], "user") if has_text(row.get(apart)) else []
    if all(said[0].role == "assistant" for said in sides):
        sides = [before + said for said in sides]
    prompt, chosen, rejected = common_beginning(sides[0], sides[1], system_of(row))
    known = sides[0][:-1]
    if before != known[: len(before)] and not (len(before) == 1 and before[0] in known):
        raise UserError(f"{apart!r} is not what 'chosen' and 'rejected' begin with")
    if has_text(row.get("messages")) and read_turns("'messages'", row["messages"], "user") != sides[0]:
        raise UserError("'messages' is not the conversation of 'chosen'")
    yield pair(prompt, chosen, rejected)


@form(
    Preference,
    "messages",
    "TRL's conversational form",
    "chosen rejected",
    "prompt instruction messages",
    has_messages("prompt", "chosen", "rejected"),
)
def messages_pair(row: Row) -> Iterator[Fields]:
    """Lists of messages."""
    return two_sides(row)


@form(
    Preference,
    "transcripts",
    "Anthropic HH's transcripts",
    "chosen rejected",
    "prompt",
    lambda row: is_transcript(row.get("prompt") or row["chosen"]),
)
def transcript_pair(row: Row) -> Iterator[Fields]:
    """Two whole transcripts, or a transcript and what the assistant says next, after a blank."""
    for fields in two_sides(row):
        yield {
            **fields,
            "chosen": fields["chosen"].removeprefix(" "),
            "rejected": fields["rejected"].removeprefix(" "),
        }


@form(Preference, "alpaca", "Alpaca's form", "instruction chosen rejected", "input history")
def alpaca_pair(row: Row) -> Iterator[Fields]:
    """An instruction, perhaps with an input, and two responses."""
    yield pair_in(row, alpaca_prompt(row))


@form(Preference, "orca", "Orca's form", "question chosen rejected")
def question_pair(row: Row) -> Iterator[Fields]:
    """A question and two responses."""
    yield pair_in(row, prompt_in(row, "question"))


@form(
    Preference,
    "stackexchange",
    "StackExchange's form: response_j is the better one",
    "question response_j response_k",
)
def stackexchange_pair(row: Row) -> Iterator[Fields]:
    """A question, the answer with more votes, and one with fewer."""
    yield pair_in(row, prompt_in(row, "question"), "response_j", "response_k")


def numbered_pair(row: Row, which: str) -> Iterator[Fields]:
    """response_0 and response_1, of which the column `which` names the chosen one."""
    better = {"0": 0, "1": 1}.get(str(row[which]).removesuffix(".0"))
    if better is None:
        raise UserError(f"{which!r} must be 0 or 1, not {str(row[which])[:40]!r}")
    yield pair_in(row, prompt_in(row, "prompt"), f"response_{better}", f"response_{1 - better}")


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
    prompts = [row[name] for name in ("prompt", "instruction") if has_text(row.get(name))]
    if len(prompts) != 1:
        raise UserError("either 'prompt' or 'instruction' must say what was asked, and not both")
    prompt = read_prompt("the prompt", prompts[0], system_of(row))
    responses, scores = row.get("responses"), row.get("scores")
    if isinstance(row.get("completions"), list):
        if responses or scores:
            raise UserError("there are 'completions', and 'responses' or 'scores' as well; keep one form")
        found = [one if isinstance(one, dict) else {} for one in row["completions"]]
        responses = [one.get("response") for one in found]
        scores = [
            next((one[key] for key in ("overall_score", "score", "rating") if key in one), None)
            for one in found
        ]
    if not isinstance(responses, list) or not isinstance(scores, list) or len(responses) != len(scores):
        raise UserError("there must be as many scores as responses, each in a list")
    for i, score in enumerate(scores, 1):
        if isinstance(score, bool) or not isinstance(score, (int, float)) or score != score:
            raise UserError(f"the score of response {i} must be a number, not {str(score)[:40]}")
    texts = [read_response(f"response {i}", one) for i, one in enumerate(responses, 1)]
    return prompt, sorted(zip(scores, texts, strict=True), key=lambda both: -both[0])


def is_ranked(row: Row) -> bool:
    """Whether a row has several responses with scores, and does not say itself which is chosen."""
    lists = [isinstance(row.get(name), list) for name in ("responses", "scores", "completions")]
    return (all(lists[:2]) or lists[2]) and not any(has_text(row.get(name)) for name in ("chosen", "label"))


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


@form(Preference, "texts", "plain texts", "prompt chosen rejected")
def text_pair(row: Row) -> Iterator[Fields]:
    """A prompt and two responses."""
    yield pair_in(row, prompt_in(row, "prompt"))
