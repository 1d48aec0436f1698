"""Which examples of the user's files are for training, and which are held out for the closing table."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from typing import Any

from mini_dpo.batches import Encoded
from mini_dpo.corpus.fitting import OwnFile, encode_example, fitting, longest_text
from mini_dpo.corpus.parts import Corpus, HeldOut
from mini_dpo.corpus.remarks import remarks
from mini_dpo.data import Demonstration, Preference, Prompt, turns
from mini_dpo.errors import UserError
from mini_dpo.formats.loading import holds_pairs, load_demonstrations, load_feedback, load_preferences
from mini_dpo.progress import watched
from mini_dpo.tokenizer import Tokenizer


def read_own(
    data: str | None,
    sft_data: str | None,
    tokenizer: Tokenizer,
    paired: bool,
    skip_bad: bool = False,
    held_out: str | None = None,
    form: str | None = None,
    sft_on: str = "all",
) -> tuple[OwnFile, OwnFile]:
    """(preferences, responses to imitate) from a preference file, an SFT file, or both. Prints remarks about
    them.

    A tenth of the prompts of each file is held out. A prompt that is held out in one file is not trained on
    in the other. Without an SFT file, SFT imitates each chosen (or liked) response once.
    paired: False for a loss of single responses.
    held_out: a file in the form of `data`, which is held out in place of the tenths.
    form: the name of the form of `data`, or of `sft_data` alone, in place of the one that is recognised.
    sft_on: as `encode_example`, of the conversations of `sft_data`. Of those of `data` the last turn alone is
        imitated, because nobody chose the ones before it.
    Raises UserError, with file and line, for input that cannot be used.
    """
    load: Any = load_preferences if paired or not data or holds_pairs(data) else load_feedback
    files: tuple[list[Any], list[Any]] = (
        load(data, skip_bad=skip_bad, form=form) if data else [],
        load_demonstrations(sft_data, skip_bad=skip_bad, form=None if data else form) if sft_data else [],
    )
    apart = load(held_out, skip_bad=skip_bad, form=form) if held_out else []
    for path, examples in zip((data, sft_data, held_out), (*files, apart), strict=True):
        for remark in remarks(examples):
            print(f"{path}: {remark}")
    prompts = {e.prompt for examples in (*files, apart) for e in examples}
    if twins := len(prompts) - len({same_prompt(prompt) for prompt in prompts}):
        print(
            f"{twins} of {len(prompts)} prompts are near copies of another one (other blanks, letter case or "
            "Unicode form, or the same first turn); near copies are held out or trained on together"
        )
    preferences, demonstrations = hold_out(files, apart, held_out) if held_out else split_by_prompt(*files)
    for examples, path, (train, _) in zip(
        files, (data, sft_data), (preferences, demonstrations), strict=True
    ):
        if examples and not train:
            raise UserError(
                f"{path}: every prompt is held out in the other file; add examples with other prompts"
            )
    if not sft_data:
        demonstrations = chosen_responses(preferences[0]), chosen_responses(preferences[1])
        n, liked = len(demonstrations[0]), "chosen" if load is load_preferences else "liked"
        again = sum(load is load_preferences or e.label for e in preferences[0]) - n
        print(
            f"{data}: no --sft-data, so SFT imitates its {liked} "
            f"responses{f' ({again} of them stand there again, and are imitated once)' if again else ''}"
        )
    sources = (
        " and ".join([path, *([held_out] if held_out else [])])
        for path in (str(data or sft_data), str(sft_data or data))
    )
    own: list[OwnFile] = []
    for source, (train, kept) in zip(sources, (preferences, demonstrations), strict=True):
        known = {} if sft_data or not own else responses_of(own[0])
        encoded = encode_all(tokenizer, source, [*train, *kept], sft_on, known)
        own.append(OwnFile(source, [*train, *kept], encoded, len(train)))
    return own[0], own[1]


def encode_all(
    tokenizer: Tokenizer,
    source: str,
    examples: list[Any],
    sft_on: str,
    known: dict[tuple[Prompt, str], Encoded],
) -> list[Any]:
    """The tokens of all examples of a file. Says how far it is, where that takes long.
    known: the tokens of some prompts and responses.
    """
    return [
        known.get((e.prompt, getattr(e, "response", ""))) or encode_example(tokenizer, e, sft_on)
        for e in watched(examples, len(examples), f"{source}: text to tokens", "examples")
    ]


def responses_of(file: OwnFile) -> dict[tuple[Prompt, str], Encoded]:
    """The tokens of a file's chosen (or only) responses."""
    return {
        (e.prompt, e.chosen if isinstance(e, Preference) else e.completion): tokens[0]
        for e, tokens in zip(file.examples, file.encoded, strict=True)
    }


def split_by_prompt(*files: list[Any], share: float = 0.1) -> list[tuple[list[Any], list[Any]]]:
    """Split the examples of each file into (train, held out). No prompt is in both parts, of any file.
    `share` of the distinct prompts of each file is held out. The hash of a prompt decides, so that the
    split depends on nothing else. A file with a single prompt holds none of its own out. Prompts that
    differ only as in `same_prompt` are the same.
    """
    held_out: set[str] = set()
    for examples in files:
        prompts = sorted(
            {same_prompt(e.prompt) for e in examples},
            key=lambda prompt: hashlib.sha256(prompt.encode()).digest(),
        )
        held_out |= set(prompts[: min(len(prompts) - 1, max(1, round(share * len(prompts))))])
    return [
        (
            [e for e in examples if same_prompt(e.prompt) not in held_out],
            [e for e in examples if same_prompt(e.prompt) in held_out],
        )
        for examples in files
    ]


def same_prompt(prompt: Prompt) -> str:
    """What is the same for prompts that are held out together: what the user says first, because of a
    conversation that is held out no longer one must be trained on. White space, letter case and Unicode form
    (NFKC) make no difference.
    """
    first = next(turn.text for turn in turns(prompt) if turn.role == "user")
    return " ".join(unicodedata.normalize("NFKC", first).casefold().split())


def hold_out(files: Sequence[list], apart: list, path: str) -> list[tuple[list, list]]:
    """As `split_by_prompt`, but `apart`, the examples of the file `path`, is held out, with its chosen
    responses.
    """
    prompts = {same_prompt(e.prompt) for e in apart}
    train = [[e for e in examples if same_prompt(e.prompt) not in prompts] for examples in files]
    print(
        f"{path}: {len(apart)} examples are held out, in place of a tenth; "
        f"{sum(map(len, files)) - sum(map(len, train))} others have their prompts, and are not trained on"
    )
    return list(zip(train, (apart, chosen_responses(apart)), strict=True))


def chosen_responses(preferences: Sequence[Any]) -> list[Demonstration]:
    """The chosen responses of preferences, or the liked ones of feedback, each once, to imitate."""
    if all(isinstance(p, Preference) for p in preferences):
        liked = [Demonstration(p.prompt, p.chosen, p.line) for p in preferences]
    else:
        liked = [Demonstration(p.prompt, p.completion, p.line) for p in preferences if p.label]
    # the first of equal ones is kept
    return list({(d.prompt, d.response): d for d in reversed(liked)}.values())[::-1]


def own_corpus(own: tuple[OwnFile, OwnFile], context: int) -> Corpus:
    """The part of the user's files that fits the context. The split does not depend on the context."""
    longest = max(longest_text(e) for file in own for e in file.encoded)
    train, kept_to_train, held_out = [], [], []  # of each file
    for file in own:
        # the chosen responses of the pairs, which were reported already
        said_already = file is own[1] and own[0].examples and file.source == own[0].source
        say = (lambda message: None) if said_already else print
        kept = fitting(file.encoded, file.examples, context, file.source, say, file.n_train, longest)
        kept_to_train.append([i for i in kept if i < file.n_train])
        train.append([file.encoded[i] for i in kept_to_train[-1]])
        held_out.append([i for i in kept if i >= file.n_train])
    preferences, demonstrations = own
    (encoded, responses), (kept_preferences, kept_responses) = (
        train,
        ([file.encoded[i] for i in kept] for file, kept in zip(own, held_out, strict=True)),
    )
    of_pairs = not preferences.examples or isinstance(preferences.examples[0], Preference)
    kind = "pairs" if of_pairs else "single responses"
    print(
        f"held out by prompt: {len(kept_preferences)} of "
        f"{len(kept_preferences) + len(encoded)} {kind}, {len(kept_responses)} of "
        f"{len(kept_responses) + len(responses)} responses"
    )
    if not of_pairs and len({e.desirable for e in encoded}) == 1:
        print(
            f"{preferences.source}: every response to train on is "
            f"{'liked' if encoded[0].desirable else 'disliked'}; the other kind is never seen"
        )
    asked, numbers = (preferences, held_out[0]) if held_out[0] else (demonstrations, held_out[1])
    prompts = [asked.examples[i].prompt for i in numbers]
    trained_on = [preferences.examples[i].prompt for i in kept_to_train[0]]
    pairs = ([preferences.examples[i] for i in held_out[0]], kept_preferences) if of_pairs else ([], [])
    return Corpus(
        responses,
        kept_responses,
        encoded,
        kept_preferences,
        HeldOut(prompts, kept_responses, *pairs, judge=None),
        trained_on,
    )
