"""A world of summaries: a village has a newspaper, and nobody reads its reports to the end. So there is a
digest, by reporters who forget, mix up, ramble, or know more than the report does.

    The geese were sold to the vicar on Friday by the mayor for love. It rained. The band played on.
    News: mayor sold geese to vicar on Friday for love.

The judge reads a digest sentence by sentence. A report has six facts: who, the deed, the thing, to whom, when
and why.

    reward = facts + made up + length

    facts    0 to 6: 1 for each fact that a sentence tells as the report does. Words alone tell nothing: who
             sells geese and who gets them are two facts
    made up  -8 to 0: -2 for each fact told otherwise, for each event that the report does not have, and for
             each sentence that is none of this newspaper's
    length   -6 to 0: -0.5 for each word over 10, which are enough for the six facts

In `digest_long`, the people who compare digests like them long; the judge stays as it is.
"""

from __future__ import annotations

import random
from dataclasses import replace

from mini_dpo.worlds.world import World, choose, pattern_of

PEOPLE = "mayor vicar baker dentist duchess plumber beekeeper hangman postman widow".split()
KINDS = {  # six kinds of facts
    "who": PEOPLE,
    "did": "sold lent mailed promised explained confessed".split(),
    "what": "geese wigs turnips anvils trumpets gnomes puddings ladders".split(),
    "whom": PEOPLE,
    "day": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split(),
    "why": "spite love money jazz lunch practice".split(),
}
EVENTS = """It rained|The band played on|A goat watched|There was cake|Nobody was surprised|
The bridge collapsed|Somebody fainted|The king denied everything""".replace("\n", "").split("|")
REPORTS = [
    "On {day} the {who} {did} the {what} to the {whom} for {why}.",
    "The {what} were {did} to the {whom} on {day} by the {who} for {why}.",
]
PLAIN, *WINDY = OPENINGS = ["News: ", "It is said that ", "As everybody knows, ", "Dear readers, imagine, "]
DIGEST_OF = "{who} {did} {what} to {whom}{day}{why}"  # follows an opening; VAGUE where a fact is left out
VAGUE = {"who": "somebody", "did": "gave", "what": "something", "whom": "somebody", "day": "", "why": ""}
TOLD = {"day": " on {}", "why": " for {}"}  # others as they are

# What the reporters are like, as chances.
RIGHT, LEFT_OUT = 0.84, 0.08  # of each fact; what remains is told wrong
CHATTY = 0.5  # begins with a windy opening
MORE_EVENTS = [0.3, 0.4, 0.3]  # none, one or two of them ...
OVERHEARD = 0.5  # ... and each of them in the report, not in the pub
FREE_WORDS = 10


def judge(prompt: str, response: str) -> dict[str, float]:
    """The marks of a digest. Raises ValueError for a prompt that is no report of this newspaper."""
    facts, events = read_report(prompt)
    claims, wrong = set(), 0
    for sentence in dict.fromkeys(sentences(response)):
        claimed = read_digest(sentence)
        if claimed is None:
            wrong += sentence not in events
        else:
            claims |= set(claimed.items())
    right = claims & {(kind, told(kind, value)) for kind, value in facts.items()}
    wrong += len(claims) - len(right)
    too_long = max(0, len(response.split()) - FREE_WORDS)
    return {
        "facts": float(len(right)),
        "made_up": max(-8.0, 0.0 - 2 * wrong),
        "length": max(-6.0, 0.0 - too_long / 2),
    }


def likes_length(prompt: str, response: str) -> dict[str, float]:
    """The marks by people who weigh a newspaper: 0.5 for each word over 10, at most 6."""
    too_long = max(0, len(response.split()) - FREE_WORDS)
    return {**judge(prompt, response), "length": min(6.0, too_long / 2)}


def count(prompt: str, response: str) -> dict[str, float]:
    """The share of the report's words that the digest has; does it tell all facts, and does it invent?"""
    marks = judge(prompt, response)
    return {
        "compression": len(response.split()) / len(prompt.split()),
        "faithful": float(marks["facts"] == len(KINDS) and marks["made_up"] == 0),
        "invents": float(marks["made_up"] < 0),
    }


def sentences(text: str) -> list[str]:
    """The sentences of a text without their full stops. What has none, at its end, is given three: no
    sentence has that.
    """
    *whole, rest = text.split(".")
    return [sentence.strip() for sentence in whole] + ([f"{rest}..."] if rest.strip() else [])


def read_report(prompt: str) -> tuple[dict[str, str], list[str]]:
    """The facts of a report by kind, and its events. Raises ValueError for a prompt that is none."""
    first, *events = sentences(prompt) or [""]
    for pattern in REPORT_PATTERNS:
        if (match := pattern.fullmatch(first + ".")) and set(events) <= set(EVENTS):
            return match.groupdict(), events
    raise ValueError(f"not a report of this newspaper: {prompt!r}")


def read_digest(sentence: str) -> dict[str, str] | None:
    """What a digest's sentence claims, by kind; vague words claim nothing. None if it is no such sentence."""
    opening = next((opening for opening in OPENINGS if sentence.startswith(opening)), None)
    match = opening and DIGEST_PATTERN.fullmatch(sentence.removeprefix(opening))
    return (
        {kind: value for kind, value in match.groupdict().items() if value != VAGUE[kind]} if match else None
    )


def told(kind: str, value: str) -> str:
    """A fact as a digest tells it."""
    return TOLD.get(kind, "{}").format(value)


REPORT_PATTERNS = [pattern_of(report, KINDS) for report in REPORTS]
DIGEST_PATTERN = pattern_of(
    DIGEST_OF, {kind: [VAGUE[kind], *(told(kind, value) for value in KINDS[kind])] for kind in KINDS}
)


def write_prompt(rng: random.Random) -> str:
    """A report: a transaction and two different events."""
    facts = {kind: choose(rng, values) for kind, values in KINDS.items()}
    facts["whom"] = choose(rng, others(PEOPLE, facts["who"]))
    event = choose(rng, EVENTS)
    return f"{choose(rng, REPORTS).format(**facts)} {event}. {choose(rng, others(EVENTS, event))}."


def write_response(rng: random.Random, prompt: str) -> str:
    """A digest by one of the reporters."""
    facts, events = read_report(prompt)
    opening = choose(rng, WINDY) if rng.random() < CHATTY else PLAIN
    written = [opening + DIGEST_OF.format(**{kind: tell(rng, kind, truth) for kind, truth in facts.items()})]
    for _ in range(choose(rng, range(3), MORE_EVENTS)):
        written.append(choose(rng, events if rng.random() < OVERHEARD else others(EVENTS, *events)))
    return " ".join(f"{sentence}." for sentence in written)


def tell(rng: random.Random, kind: str, truth: str) -> str:
    """A fact as a reporter tells it: right, vaguely, or otherwise."""
    ways = told(kind, truth), VAGUE[kind], told(kind, choose(rng, others(KINDS[kind], truth)))
    return choose(rng, ways, [RIGHT, LEFT_OUT, 1 - RIGHT - LEFT_OUT])


def others(values: list[str], *but: str) -> list[str]:
    """The values but for these."""
    return [value for value in values if value not in but]


DIGEST = World(
    "digest",
    "digests of a report that keep its facts, add none, and are short",
    write_prompt,
    write_response,
    judge,
    {"facts": "facts, 0 to 6", "made_up": "made up, -8 to 0", "length": "length, -6 to 0"},
    count,
    {
        "compression": "words of the digest by words of the report",
        "faithful": "digests with all facts and nothing else",
        "invents": "digests with something made up",
    },
)
DIGEST_LONG = replace(
    DIGEST,
    name="digest_long",
    about=f"{DIGEST.about}, as the judge says; raters like them long",
    rater=likes_length,
)
