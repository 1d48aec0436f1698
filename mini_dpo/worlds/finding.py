"""A world or a judge by its name; those in files of the user's own are run, and what comes out of them
becomes one clear line.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache, wraps
from numbers import Real
from typing import Any

from mini_dpo.errors import UserError, did_you_mean
from mini_dpo.losses.finding import in_a_line, module_of
from mini_dpo.worlds.code import CODE
from mini_dpo.worlds.digest import DIGEST, DIGEST_LONG
from mini_dpo.worlds.guard import GUARD, GUARD_FEW, GUARD_MANY
from mini_dpo.worlds.shop import SHOP
from mini_dpo.worlds.sight import SIGHT, SIGHT_ADDED, SIGHT_SWAPPED
from mini_dpo.worlds.voice import VOICE
from mini_dpo.worlds.world import Judge, World

OF_WORDS = (SHOP, GUARD, GUARD_FEW, GUARD_MANY, VOICE, DIGEST, DIGEST_LONG, CODE)
OF_PICTURES = (SIGHT, SIGHT_ADDED, SIGHT_SWAPPED)
WORLDS = {world.name: world for world in (*OF_WORDS, *OF_PICTURES)}

# What the closing table has of its own: no mark and no count can be called like that.
TAKEN = set(
    """reward reward_gain win_rate kl perplexity reward_accuracy reward_sign_accuracy blanked_accuracy
logps/chosen logps/rejected response_tokens unfinished training_seconds""".split()
)


def find_world(name: str) -> World:
    """The world of that name, or `NAME` of `file.py:NAME`. Raises UserError where there is none."""
    if ".py:" not in name:
        if name in WORLDS:
            return WORLDS[name]
        raise UserError(
            f"there is no world {name}{did_you_mean(name, WORLDS)}; `python -m mini_dpo.worlds` shows what "
            "there is, and file.py:NAME takes one of your own"
        )
    path, attribute = name.rsplit(":", 1)
    return world_in(module_of(path, attribute), path, attribute)


@lru_cache
def world_in(module: object, path: str, attribute: str) -> World:
    """The world of that name in a file that was run. One file gives one world, whose rows are drawn once."""
    found = vars(module).get(attribute)
    if not isinstance(found, World):
        raise UserError(f"{path}: {attribute} is not a World of mini_dpo.worlds.world")
    if taken := TAKEN & (found.marks.keys() | found.counts.keys()):
        raise UserError(f"{path}: a mark cannot be called {min(taken)}, which the closing table has already")
    return replace(
        found,
        write_prompt=guarded(path, found.write_prompt, "write_prompt"),
        write_response=guarded(path, found.write_response, "write_response"),
        write_pair=found.write_pair and guarded(path, found.write_pair, "write_pair"),
        write_other=found.write_other and guarded(path, found.write_other, "write_other"),
        judge=checked_judge(path, found.judge, "judge"),
        rater=found.rater and checked_judge(path, found.rater, "rater"),
        count=checked_judge(path, found.count, "count"),
    )


def find_judge(name: str) -> Judge:
    """`function` of `file.py:function`: (prompt, answer) -> a number, or marks by name. Raises UserError if
    there is none.
    """
    if ".py:" not in name:
        raise UserError(f"--judge wants file.py:function, not {name}")
    path, attribute = name.rsplit(":", 1)
    found = vars(module_of(path, attribute)).get(attribute)
    if not callable(found):
        raise UserError(f"{path}: there is no function {attribute} in it")
    return checked_judge(path, found, attribute)


def guarded(path: str, function: Any, name: str) -> Any:
    """The same function of a user's file; what it raises becomes a UserError with the line."""

    @wraps(function)
    def call(*arguments: Any) -> Any:
        with in_a_line(path):
            return function(*arguments)

    return call


def checked_judge(path: str, function: Any, name: str) -> Judge:
    """The same judge; what it raises, and what are not finite numbers by name, become a UserError. A single
    number is the only mark.
    """
    call = guarded(path, function, name)

    def judge(prompt: str, response: str) -> dict[str, float]:
        found = call(prompt, response)
        marks = found if isinstance(found, dict) else {"judged": found}
        for mark, value in marks.items():
            if not isinstance(mark, str) or mark in TAKEN or not isinstance(value, Real):
                raise UserError(f"{path}: {name} gives {mark!r:.40}: {value!r:.40}, and not numbers by name")
            if not math.isfinite(value):
                raise UserError(f"{path}: {name} gives {mark} {value}, which is not a finite number")
        return {mark: float(value) for mark, value in marks.items()}

    return judge
