"""A world's examples, in place of a user's files: made in memory, always the same ones."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, cast

from mini_dpo.corpus.fitting import encode_example, encode_fitting, longest_text
from mini_dpo.corpus.parts import Corpus, HeldOut
from mini_dpo.data import Demonstration, Preference, as_text
from mini_dpo.errors import UserError
from mini_dpo.files import sha256_of_file
from mini_dpo.formats.conversations import check_text
from mini_dpo.formats.loading import load_demonstrations, load_preferences
from mini_dpo.pictures import BLANK, PICTURES
from mini_dpo.tokenizer import Tokenizer
from mini_dpo.vocabularies import DATA, name_of_words
from mini_dpo.worlds.finding import find_world
from mini_dpo.worlds.world import Row, rows_of

TOY_SFT = {split: DATA / f"sft.{split}.jsonl" for split in ("train", "valid", "test")}

TOY_PREFERENCES = {split: DATA / f"preferences.{split}.jsonl" for split in ("train", "valid", "test")}


def files_of(
    data: str | None, sft_data: str | None, held_out: str | None = None, world: str | None = "shop"
) -> list[Path]:
    """The files that a run reads: the user's, or the toy shop's. Other worlds have none."""
    own = [Path(path) for path in (data, sft_data, held_out) if path]
    return own or ([*TOY_SFT.values(), *TOY_PREFERENCES.values()] if world == "shop" else [])


def fingerprints(paths: Sequence[Path]) -> dict[str, str]:
    """The SHA-256 of each file's bytes. Raises UserError where one cannot be read."""
    return {str(path): sha256_of_file(path) for path in paths}


def world_examples(name: str) -> dict[str, tuple[list[Demonstration], list[Preference]]]:
    """The examples of a world: of each split, what is imitated and what is preferred. No two splits have a
    prompt in common. The shop's are read from its files, which are kept for people to look at.
    """
    if name == "shop":
        return {
            split: (load_demonstrations(TOY_SFT[split], quiet), load_preferences(path, quiet))
            for split, path in TOY_PREFERENCES.items()
        }
    try:
        rows = rows_of(find_world(name))
    except ValueError as error:
        raise UserError(f"--world {name}: {error}") from error
    return {
        split: (
            [Demonstration(**checked_row(name, row), line=i) for i, row in enumerate(sft, 1)],
            [Preference(**checked_row(name, row), line=i) for i, row in enumerate(pairs, 1)],
        )
        for split, (sft, pairs) in rows.items()
    }


def checked_row(world: str, row: Row) -> Row:
    """The row. Raises UserError if a text of it cannot be used."""
    return {key: check_text(f"--world {world}: a {key} that it writes", text) for key, text in row.items()}


def words_of(name: str) -> str:
    """The vocabulary of a world, as `load_tokenizer` knows it: the toy one is the shop's words."""
    if name == "shop":
        return "toy"
    sft, pairs = world_examples(name)["train"]
    said = [*(d.response for d in sft), *(text for p in pairs for text in (p.chosen, p.rejected))]
    if find_world(name).pictures:
        return PICTURES + name_of_words(said)
    prompts: list[Demonstration | Preference] = [*sft, *pairs]
    return name_of_words([*said, *(as_text(example.prompt) for example in prompts)])


def context_of(name: str, tokenizer: Tokenizer) -> int:
    """The tokens of the longest example of a world, each prompt with its longest response."""
    examples: Any = chain.from_iterable(kind for split in world_examples(name).values() for kind in split)
    return max(longest_text(encode_example(tokenizer, example)) for example in examples)


def world_corpus(name: str, tokenizer: Tokenizer, context: int, held_out: str = "test") -> Corpus:
    """A world's examples. held_out: which split is for the closing table."""
    world, examples = find_world(name), cast(dict[str, Any], world_examples(name))
    (sft, pairs), (valid_sft, valid_pairs), (test_sft, test_pairs) = (
        [encode_fitting(kind, tokenizer, context, f"{name}, {split}") for kind in examples[split]]
        for split in ("train", "valid", held_out)
    )
    asked, (kept, test) = [p.prompt for p in pairs[0]], test_pairs
    labels = {**world.marks, **world.counts}
    blank = tokenizer.encode_prompt(BLANK) if world.pictures else None
    held = HeldOut([p.prompt for p in kept], test_sft[1], kept, test, world.judge, world.count, labels, blank)
    return Corpus(sft[1], valid_sft[1], pairs[1], valid_pairs[1], held, asked)


def quiet(line: str) -> None:
    """Say nothing of files that everybody has."""
