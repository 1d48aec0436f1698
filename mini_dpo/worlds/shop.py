"""The toy world: the support desk of a small shop of curious goods, and a judge who knows good answers.

    python -m mini_dpo.worlds.shop        # write data/*.jsonl again, byte for byte

A customer's prompt has four facts: a name, an item, a day and a problem. The shop's clerks answer in many
manners: careful or careless, polite or curt, short or rambling. The judge gives every answer its true reward,

    reward = facts + tone + length

    facts   -8 to 8: for each of the four, +2 if it is right, 0 if it is absent, -2 if another one is named
    tone    -4 to 4: +1 for each polite phrase, -1 for each curt phrase
    length  -6 to 0: -0.2 for each word over 32

Which of two answers people prefer is drawn from the Bradley-Terry model, P(a over b) = sigmoid(reward(a) -
reward(b)): mostly the better answer, not always. The true reward is code, so the gain of a model can be
measured.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mini_dpo.vocabularies import DATA
from mini_dpo.worlds.world import World, choose, label_accuracy, pattern_of, rows_of

NAMES = "Ada Basil Clara Dexter Edith Felix Greta Hugo Ines Jasper Mabel Otto Pearl Rosa Silas Zelda".split()
ITEMS = "teapot kite umbrella lantern globe telescope harmonica compass kettle puppet doormat clock".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
PROBLEMS = [
    "leaks",
    "bites",
    "hums at night",
    "smells of fish",
    "ticks backwards",
    "sheds glitter",
    "attracts pigeons",
    "whistles rude tunes",
]
PROMPT_FORMS = [
    "Hello, this is {name}. The {item} I bought on {day} {problem}. What can you do?",
    "{name} here. On {day} you sold me a {item}, and now it {problem}.",
    "Dear shop, the {item} from {day} {problem}. Please help. {name}",
]
# An answer is five parts, each in one of three tones. A part without its fact is what a forgetful clerk
# writes.
POLITE, PLAIN, CURT = range(3)
GREETING = {
    True: ["Good day, dear {name}!", "Hello, {name}.", "You again, {name}?"],
    False: ["Good day, dear customer!", "Hello.", "You again?"],
}
APOLOGY = {
    (True, True): [
        "We are so sorry that your {item} {problem}.",
        "Your {item} {problem}, then.",
        "So your {item} {problem}. Big deal.",
    ],
    (True, False): [
        "We are so sorry about your {item}.",
        "It is the {item}, then.",
        "So it is the {item}. Big deal.",
    ],
    (False, True): [
        "We are so sorry that it {problem}.",
        "It {problem}, then.",
        "So it {problem}. Big deal.",
    ],
    (False, False): ["We are so sorry about that.", "That is noted.", "Big deal."],
}
REMEDY = {
    True: [
        "You bought it on {day}, so we will gladly mend it.",
        "It was sold on {day}, so we will mend it.",
        "If it worked on {day}, it works now.",
    ],
    False: ["We will gladly mend it.", "We will mend it.", "It worked when it left us."],
}
FAREWELL = ["Thank you for your patience!", "That is all.", "Do not write again."]
RAMBLINGS = [
    "My aunt once kept a goose that could count to four.",
    "I have always said that weather is mostly sky.",
    "There is a drawer in this shop that nobody has opened since spring.",
    "Between you and me, the cat does the accounts.",
]
POLITE_PHRASES = ["good day, dear", "so sorry", "gladly", "thank you"]
CURT_PHRASES = ["you again", "big deal", "works now", "worked when it left us", "do not write"]
# What the clerks are like, as chances.
RIGHT, LEFT_OUT = 0.74, 0.12  # of each fact; what remains names something else
MOODS = [0.15, 0.40, 0.45]  # polite, plain, curt, for the whole answer ...
SLIP = 0.35  # ... and of each part to fall into a tone drawn anew
FREE_WORDS = 32


@dataclass(frozen=True)
class Complaint:
    """The four facts of a prompt."""

    name: str
    item: str
    day: str
    problem: str


KINDS = {"name": NAMES, "item": ITEMS, "day": DAYS, "problem": PROBLEMS}


def judge(prompt: str, response: str) -> dict[str, float]:
    """The marks of a response to one of the shop's prompts. Raises ValueError for any other prompt."""
    facts = read_prompt(prompt)
    if facts is None:
        raise ValueError(f"the judge only knows prompts of the shop's own kind, not {prompt!r}")
    facts_mark = 2.0 * sum(judge_fact(response, truth, KINDS[kind]) for kind, truth in asdict(facts).items())
    text = response.lower()
    polite = sum(phrase in text for phrase in POLITE_PHRASES)
    curt = sum(phrase in text for phrase in CURT_PHRASES)
    too_long = max(0, len(response.split()) - FREE_WORDS)
    return {"facts": facts_mark, "tone": max(-4, polite - curt), "length": max(-6.0, -too_long / 5)}


def judge_fact(response: str, truth: str, values: Sequence[str]) -> int:
    """+1: the response names the right value and no other; 0: it names none; -1: it names another."""
    named = {value for value in values if re.search(rf"\b{value}\b", response)}
    return 0 if not named else 1 if named == {truth} else -1


def read_prompt(prompt: str) -> Complaint | None:
    """The facts in a prompt of the shop, None for any other text."""
    for pattern in PROMPT_PATTERNS:
        if match := pattern.fullmatch(prompt):
            return Complaint(**match.groupdict())
    return None


def facts_of(prompt: str) -> Complaint:
    """The facts in a prompt of the shop."""
    facts = read_prompt(prompt)
    assert facts, prompt
    return facts


PROMPT_PATTERNS = [pattern_of(template, KINDS) for template in PROMPT_FORMS]


def write_prompt(rng: random.Random) -> str:
    """A random prompt."""
    facts = {kind: choose(rng, values) for kind, values in KINDS.items()}
    return choose(rng, PROMPT_FORMS).format(**facts)


def write_response(rng: random.Random, prompt: str) -> str:
    """A random answer: each fact right, absent or wrong, in a mood, with none to three ramblings."""
    told = {kind: tell(rng, truth, KINDS[kind]) for kind, truth in asdict(facts_of(prompt)).items()}
    knows = {kind: value is not None for kind, value in told.items()}
    mood = choose(rng, [POLITE, PLAIN, CURT], MOODS)

    def say(choices: list[str]) -> str:
        tone = choose(rng, [POLITE, PLAIN, CURT]) if rng.random() < SLIP else mood
        return choices[tone].format(**told)

    ramblings = list(RAMBLINGS)
    rambling = [
        ramblings.pop(int(rng.random() * len(ramblings)))
        for _ in range(choose(rng, range(4), [0.4, 0.3, 0.2, 0.1]))
    ]
    parts = [
        say(GREETING[knows["name"]]),
        say(APOLOGY[knows["item"], knows["problem"]]),
        *rambling,
        say(REMEDY[knows["day"]]),
        say(FAREWELL),
    ]
    return " ".join(parts)


def tell(rng: random.Random, truth: str, values: Sequence[str]) -> str | None:
    """A fact as a clerk tells it: right, absent (None), or another value of its kind."""
    u = rng.random()
    if u < RIGHT:
        return truth
    if u < RIGHT + LEFT_OUT:
        return None
    return choose(rng, [value for value in values if value != truth])


SHOP = World(
    "shop",
    "answers to complaints that name the right facts, politely, in few words",
    write_prompt,
    write_response,
    judge,
    {"facts": "facts, -8 to 8", "tone": "tone, -4 to 4", "length": "length, -6 to 0"},
)


# --- the files in data/


def make_data(folder: Path) -> None:
    """Write `sft.SPLIT.jsonl` and `preferences.SPLIT.jsonl` for each split."""
    for split, kinds in rows_of(SHOP).items():
        for kind, rows in zip(("sft", "preferences"), kinds, strict=True):
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / f"{kind}.{split}.jsonl").write_text(text, encoding="utf-8", newline="\n")


def main() -> None:
    make_data(DATA)
    for path in sorted(DATA.glob("*.jsonl")):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        noise = (
            f", {label_accuracy(judge, rows):.3f} of the labels agree with the judge"
            if "chosen" in rows[0]
            else ""
        )
        print(f"{path.name:25} {len(rows):4} lines{noise}")


if __name__ == "__main__":
    main()
