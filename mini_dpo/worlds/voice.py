"""A world of one voice: a house sells haunted furniture, does not like the word, and writes letters about it
from the notes of its warehouse.

    Shelf amber heron: a wardrobe that moans at night, for 9 crowns, leaves on Friday.

    Shelf amber heron. You have exquisite taste. Your lively wardrobe moans at night. You will welcome it on
    Friday for only 9 crowns. Sleep well.

All letters say the same, and few of them in the voice of the house: the customer is "you", some words are
banned, and the last words are "Sleep well." The shelf is copied for the warehouse, which has left for lunch.

    reward = content + words + person + sign-off + babble

    content   -8 to 8: for each of item, habit, day and price, +2 if it is right and -2 if it is another one
    words     -6 to 0: -1.5 for each banned word, wherever it is
    person    -3 to 3: for each of opening, item and delivery, +1 if it says "you", -1 if "the customer"
    sign_off  0 or 2: 2 if the letter ends with the sign-off and has no other end
    babble    -4 to 0: -1 for each sentence that nobody here writes, or that is more than one of its kind
"""

from __future__ import annotations

import random
import re

from mini_dpo.worlds.sentences import named, patterns_of, read, tell
from mini_dpo.worlds.world import World, choose, pattern_of

COLOURS = "amber crimson golden indigo ivory scarlet silver violet".split()
BIRDS = "heron magpie owl pelican raven stork swan vulture".split()
KINDS = {
    "shelf": [f"{colour} {bird}" for colour in COLOURS for bird in BIRDS],
    "item": "wardrobe mirror piano cradle clock sofa chandelier portrait staircase bathtub".split(),
    "habit": """moans at night|walks about|weeps softly|bites guests|floats|hums hymns|grows teeth|hides keys|
counts visitors|reads letters""".replace("\n", "").split("|"),
    "day": [f"on {day}" for day in "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()],
    "price": [f"{n} crowns" for n in (3, 7, 9, 12, 20, 45, 60, 99)],
}
FACTS = {"item": "thing", "habit": "is special", "day": "soon", "price": "a few crowns"}  # each left vague
NOTES = [
    "Shelf {shelf}: a {item} that {habit}, for {price}, leaves {day}.",
    "{price}, {item}, {habit}, {day}. Shelf {shelf}.",
    "The {item} from shelf {shelf} {habit}. Out {day} for {price}.",
]
# A letter is these sentences in a row; of the first three after the shelf, each to you, to nobody, or of the
# customer.
SENTENCES = {
    "shelf": ["Shelf {shelf}."],
    "opening": ["You have exquisite taste.", "Greetings.", "The customer is informed."],
    "item": ["Your {air}{item} {habit}.", "The {air}{item} {habit}.", "The customer's {air}{item} {habit}."],
    "delivery": [
        "You will welcome it {day} for {offer}{price}.",
        "It leaves {day} for {offer}{price}.",
        "The customer gets it {day} for {offer}{price}.",
    ],
    "comfort": ["Garlic is included.", "There is no refund."],
    "end": ["Sleep well.", "Regards.", "Farewell."],
}
PERSON = [1, 0, -1]  # of the forms
ADDRESSED = ["opening", "item", "delivery"]
AIRS = ["", "lively ", "haunted ", "cursed "]
OFFERS = ["", "only ", "a cheap "]
BANNED = re.compile(r"\b(haunted|cursed|cheap|refund)\b", re.IGNORECASE)
SIGN_OFF = "Sleep well."
BEST = {"content": 8.0, "words": 0.0, "person": 3.0, "sign_off": 2.0}  # of the marks

# What the writers are like, as chances.
RIGHT = 0.75  # of each fact
SHELVED = 0.85  # the shelf
PERSONS, SLIP = [0.2, 0.4, 0.4], 0.35  # of a letter; and of a sentence to fall into a person drawn anew
COMFORTS = [0.3, 0.3, 0.4]  # garlic, no refund, none
ENDS = [0.35, 0.25, 0.25, 0.15]  # the sign-off, two others, none


def judge(prompt: str, response: str) -> dict[str, float]:
    """The marks of a letter. Raises ValueError for a prompt that no warehouse writes."""
    note = read_note(prompt)
    said, babble = read(response, PATTERNS)
    right = sum(named(said, fact, note[fact], vague) for fact, vague in FACTS.items())
    persons = [
        min(PERSON[form] for of, form, _ in said if of == part)
        for part in ADDRESSED
        if any(of == part for of, _, _ in said)
    ]
    ends = [SENTENCES[part][form] for part, form, _ in said if part == "end"]
    signed = ends == [SIGN_OFF] and response.rstrip().endswith(SIGN_OFF)
    return {
        "content": 2.0 * right,
        "words": max(-6.0, 0.0 - 1.5 * len(BANNED.findall(response))),
        "person": float(sum(persons)),
        "sign_off": 2.0 * signed,
        "babble": float(max(-4, -babble)),
    }


def count(prompt: str, response: str) -> dict[str, float]:
    """Whether all content is kept, whether all rules are, and whether the shelf is right."""
    marks = judge(prompt, response)
    kept = {mark: marks[mark] == best for mark, best in BEST.items()}
    said, _ = read(response, PATTERNS)
    shelves = [told["shelf"] for part, _, told in said if part == "shelf"]
    return {
        "content_kept": float(kept.pop("content")),
        "rules_kept": float(all(kept.values())),
        "shelf": float(shelves == [read_note(prompt)["shelf"]]),
    }


def read_note(prompt: str) -> dict[str, str]:
    """The shelf and the facts of a note. Raises ValueError for any other text."""
    for pattern in NOTE_PATTERNS:
        if match := pattern.fullmatch(prompt):
            return match.groupdict()
    raise ValueError(f"no warehouse writes {prompt!r}")


FIELDS = {kind: [*values, FACTS[kind]] if kind in FACTS else values for kind, values in KINDS.items()}
NOTE_PATTERNS = [pattern_of(form, KINDS) for form in NOTES]
PATTERNS = patterns_of(SENTENCES, {**FIELDS, "air": AIRS, "offer": OFFERS})


def write_prompt(rng: random.Random) -> str:
    """A random note."""
    return choose(rng, NOTES).format(**{kind: choose(rng, values) for kind, values in KINDS.items()})


def write_response(rng: random.Random, prompt: str) -> str:
    """A random letter: facts right, vague or wrong, in any person, with and without banned words."""
    note = read_note(prompt)
    told = {fact: tell(rng, note[fact], KINDS[fact], vague, RIGHT) for fact, vague in FACTS.items()}
    told["shelf"] = note["shelf"] if rng.random() < SHELVED else choose(rng, KINDS["shelf"])
    told |= {"air": choose(rng, AIRS), "offer": choose(rng, OFFERS)}
    usual = choose(rng, PERSON, PERSONS)
    sentences = [SENTENCES["shelf"][0]]
    for part in ADDRESSED:
        person = choose(rng, PERSON) if rng.random() < SLIP else usual
        sentences.append(SENTENCES[part][PERSON.index(person)])
    extra = [*SENTENCES["comfort"], ""]
    sentences += [choose(rng, extra, COMFORTS), choose(rng, [*SENTENCES["end"], ""], ENDS)]
    return " ".join(filter(None, sentences)).format(**told)


VOICE = World(
    "voice",
    "letters that keep a note's content and a house's rules: you, no banned word, and Sleep well",
    write_prompt,
    write_response,
    judge,
    {
        "content": "content, -8 to 8",
        "words": "banned words, -6 to 0",
        "person": "second person, -3 to 3",
        "sign_off": "sign-off, 0 or 2",
        "babble": "babble, -4 to 0",
    },
    count,
    {
        "content_kept": "all content kept",
        "rules_kept": "all rules kept",
        "shelf": "shelf right, which nobody reads",
    },
)
