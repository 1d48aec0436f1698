"""Files are read or refused with their line; tokens and mask agree; batches lose and repeat nothing."""

import bz2
import itertools
import json
import lzma
import re
import unicodedata

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from mini_dpo.batches import Batches, Encoded, EncodedPair, collate, collate_pairs, encode, pack
from mini_dpo.corpus.fitting import encode_fitting
from mini_dpo.corpus.splits import same_prompt, split_by_prompt
from mini_dpo.data import Demonstration, Preference
from mini_dpo.errors import UserError
from mini_dpo.feedback import EncodedFeedback, MixedBatches, mismatch
from mini_dpo.formats.loading import holds_pairs, load_demonstrations, load_feedback, load_preferences
from mini_dpo.tokenizer import load_tokenizer
from tests.strategies import encoded_pairs, encoded_sequences, encoded_trees

TOY = load_tokenizer("toy")
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
responses = texts.filter(lambda text: text.strip())
GOOD = {"prompt": "p", "chosen": "c", "rejected": "r"}


def write(tmp_path, *lines: str | bytes, name="pairs.jsonl"):
    path = tmp_path / name
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines))
    return path


# --- reading


@given(
    rows=st.lists(
        st.tuples(texts, responses, responses).filter(lambda row: row[1] != row[2]), min_size=1, max_size=5
    ),
    escaped=st.booleans(),
)
def test_whatever_was_written_is_read(tmp_path_factory, rows, escaped):
    """Characters that look like line ends inside a string (U+2028) do not end a line of JSONL."""
    lines = [json.dumps(dict(zip(GOOD, row, strict=True)), ensure_ascii=escaped) for row in rows]
    path = write(tmp_path_factory.mktemp("data"), *lines, "")
    assert [(p.prompt, p.chosen, p.rejected) for p in load_preferences(path)] == rows
    assert [p.line for p in load_preferences(path)] == list(range(1, len(rows) + 1))


BROKEN = {
    "a key stands there twice": (
        '{"prompt": "p", "chosen": "c", "rejected": "r", "chosen": "d"}',
        "the key 'chosen' stands there twice",
    ),
    "not json": ("{nope", "not JSON"),
    "cut off": ('{"prompt": "p", "chosen": "c", "rej', "not JSON"),
    "an array of all": ("[", "not JSON"),
    "not an object": ('["p", "c", "r"]', "a list, not an object"),
    "a key is missing": ('{"prompt": "p", "chosen": "c"}', "no 'rejected' (keys found: 'prompt', 'chosen')"),
    "wrong type": (
        '{"prompt": "p", "chosen": 3, "rejected": "r"}',
        "'chosen' must be a string, not a number",
    ),
    "chat messages": (
        '{"prompt": [{"role": "user"}], "chosen": "c", "rejected": "r"}',
        "'prompt', message 1: 'content' must be a string, not null",
    ),
    "null": ('{"prompt": null, "chosen": "c", "rejected": "r"}', "'prompt' must be a string, not null"),
    "empty response": ('{"prompt": "p", "chosen": "", "rejected": "r"}', "'chosen' is empty"),
    "blank response": ('{"prompt": "p", "chosen": "c", "rejected": " \\n"}', "'rejected' is empty"),
    "half a surrogate pair": (
        '{"prompt": "p", "chosen": "\\ud83d", "rejected": "r"}',
        "half of a surrogate pair",
    ),
    "null in place of an object": ("null", "null, not an object"),
    "not utf-8": (b'{"prompt": "\xff", "chosen": "c", "rejected": "r"}', "not UTF-8 (byte 13 of the line)"),
    "nested without end": ("[" * 100_000, "not JSON"),
    "a number without end": ("9" * 5000, "not JSON"),
}


@pytest.mark.parametrize("line, message", BROKEN.values(), ids=BROKEN)
def test_a_broken_line_is_named(tmp_path, line, message):
    path = write(tmp_path, json.dumps(GOOD), "", line, json.dumps(GOOD))
    with pytest.raises(UserError) as caught:
        load_preferences(path)
    assert str(caught.value).startswith(f"{path}, line 3: ") and message in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.binary(max_size=60) | st.text().map(str.encode))
@example(b"\xef\xbb\xbf")
@example(b"\x00\n\x1c")
def test_any_bytes_are_read_or_refused_with_the_file_s_name(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("fuzz") / "f.jsonl"
    path.write_bytes(content)
    for load in (load_preferences, load_demonstrations):
        try:
            assert load(path)
        except UserError as error:
            assert str(path) in str(error)


@given(st.data())
def test_a_damaged_file_is_read_or_refused_with_its_line(tmp_path_factory, data):
    """Cut, flip or insert a byte anywhere in a good file."""
    good = "\n".join(json.dumps({**GOOD, "prompt": f"prompt {i}"}) for i in range(3)).encode()
    at = data.draw(st.integers(0, len(good) - 1))
    damage = data.draw(st.sampled_from(["cut", "flip", "insert"]))
    byte = bytes([data.draw(st.integers(0, 255))])
    damaged = {
        "cut": good[:at],
        "flip": good[:at] + byte + good[at + 1 :],
        "insert": good[:at] + byte + good[at:],
    }[damage]
    path = tmp_path_factory.mktemp("fuzz") / "f.jsonl"
    path.write_bytes(damaged)
    try:
        load_preferences(path, say=lambda message: None)
    except UserError as error:
        assert re.match(rf"{re.escape(str(path))}(, line [123])?:", str(error))


def test_byte_order_mark_and_windows_line_ends_are_read(tmp_path):
    path = write(
        tmp_path, b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r", json.dumps(GOOD).encode() + b"\r"
    )
    assert len(load_preferences(path)) == 2


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_refused(tmp_path, content):
    path = write(tmp_path, content)
    with pytest.raises(UserError, match="the file is empty"):
        load_preferences(path)


def test_missing_file_and_folder_are_refused(tmp_path):
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(UserError, match=re.escape(str(path))):
            load_preferences(path)


def test_identical_pairs_are_left_out_aloud(tmp_path):
    path = write(tmp_path, json.dumps(GOOD), json.dumps({**GOOD, "rejected": "c"}))
    said = []
    assert len(load_preferences(path, said.append)) == 1
    assert said[1:] == [f"{path}: left out 1 of 2 pairs: chosen and rejected are the same (first: line 2)"]
    with pytest.raises(UserError, match="no pair is left"):
        load_preferences(write(tmp_path, json.dumps({**GOOD, "rejected": "c"})), said.append)


def test_columns_that_nothing_reads_are_named_once(tmp_path):
    path = write(tmp_path, *[json.dumps({**GOOD, "id": i, "score": 0.5, "system": ""}) for i in range(3)])
    said = []
    assert load_preferences(path, said.append)[0] == Preference("p", "c", "r", line=1)
    assert said[0] == f"{path}: not read: id, score"


@pytest.mark.parametrize(
    "name",
    [
        "persona",
        "history",
        "input",
        "context",
        "instruction",
        "messages",
        "tools",
        "images",
        "Images",
        "conversations",
    ],
)
@pytest.mark.parametrize(
    "load, row",
    [
        (load_preferences, GOOD),
        (load_demonstrations, {"prompt": "p", "response": "r"}),
        (load_feedback, {"prompt": "p", "completion": "c", "label": True}),
    ],
)
def test_a_column_that_changes_the_meaning_is_refused_by_name(tmp_path, name, load, row):
    """Where it says something, on any line, and whatever else is wrong with the file."""
    without_prompt = {key: value for key, value in row.items() if key != "prompt"}
    path = write(
        tmp_path,
        json.dumps(row),
        json.dumps({**row, name: []}),
        json.dumps({**without_prompt, name: "You are a pirate."}),
    )
    with pytest.raises(UserError) as caught:
        load(path)
    assert str(caught.value).startswith(
        f"{path}: {name!r} (on 1 of 3 lines, first: line 3) would change what an answer means"
    ) and "put that text into the prompt" in str(caught.value)


LINE = json.dumps(GOOD).encode()
FORMS = {
    "bzip2": (bz2.compress(LINE), "compressed with bzip2"),
    "xz": (lzma.compress(LINE), "compressed with xz"),
    "zip": (b"PK\x03\x04\x14\x00" + LINE, "a zip archive"),
    "git lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "a Git LFS pointer"),
    "utf-16": (LINE.decode().encode("utf-16"), "UTF-16 text"),
    "utf-16, little end first": (LINE.decode().encode("utf-16-le"), "UTF-16 text"),
    "utf-16, big end first": (LINE.decode().encode("utf-16-be"), "UTF-16 text"),
    "a web page": (b"<!DOCTYPE html>\n<html>", "a web page"),
}


@pytest.mark.parametrize("content, form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("load", [load_preferences, load_feedback, load_demonstrations])
def test_the_first_bytes_name_the_form_of_a_file_that_holds_no_rows(tmp_path, content, form, load):
    path = tmp_path / "mine.jsonl"
    path.write_bytes(content)
    for skip_bad in (False, True):
        with pytest.raises(UserError) as caught:
            load(path, skip_bad=skip_bad)
        assert str(caught.value).startswith(f"{path}: {form}") and "one JSON object a line" in str(
            caught.value
        )
        assert "save the file as UTF-8" not in str(caught.value) and "\n" not in str(caught.value)


faulty_lines = st.lists(
    st.one_of(st.just(None), st.sampled_from([line for line, _ in BROKEN.values() if len(line) < 100])),
    min_size=1,
    max_size=20,
)


@given(faulty_lines.filter(any))
@example([BROKEN["empty response"][0]] * 7)
def test_all_faulty_lines_are_counted_the_first_five_shown_and_left_out_if_asked(tmp_path_factory, lines):
    """A faulty line here is one of BROKEN, a good one is None."""
    path = write(
        tmp_path_factory.mktemp("faults"), json.dumps(GOOD), *[line or json.dumps(GOOD) for line in lines]
    )
    faulty = [number for number, line in enumerate(lines, 2) if line]
    with pytest.raises(UserError) as caught:
        load_preferences(path)
    first, *listed = str(caught.value).split("\n")
    if len(faulty) == 1:
        assert first.startswith(f"{path}, line {faulty[0]}: ") and not listed
    else:
        assert first.startswith(f"{path}: {len(faulty)} of {len(lines) + 1} lines cannot be used")
        shown = [
            int(number)
            for line in listed
            if ": " in line
            for number in re.findall(r"\d+", line.split(": ")[0])
        ]
        assert sorted(shown) == faulty[:5]
        assert (len(faulty) > 5) == (
            f"  ... and {len(faulty) - 5} more, the last on line {faulty[-1]}" in listed
        )
    assert first.count("must be like {") == 1 and "--skip-bad" in first
    said = []
    kept = load_preferences(path, said.append, skip_bad=True)
    assert [pair.line for pair in kept] == [1, *(number for number, line in enumerate(lines, 2) if not line)]
    assert said[0].startswith(f"{path}: --skip-bad left out {len(faulty)} of {len(lines) + 1} lines\n  line")


def test_a_file_of_faulty_lines_only_is_refused_whatever_is_asked(tmp_path):
    path = write(tmp_path, "{}", "{}")
    with pytest.raises(UserError, match="no line can be used"):
        load_preferences(path, lambda message: None, skip_bad=True)


@pytest.mark.parametrize(
    "rows, pairs",
    [
        ([GOOD], True),
        ([{"prompt": "p", "completion": "c", "label": True}], False),
        ([{"prompt": "p", "completion": "c"}], False),
        ([{"prompt": "p", "rejected": "c", "label": True}], True),
        (["{broken", {"prompt": "p", "completion": "c", "label": True}], False),
        ([], True),
    ],
)
def test_a_file_of_pairs_is_told_from_one_of_single_responses(tmp_path, rows, pairs):
    path = write(tmp_path, *[row if isinstance(row, str) else json.dumps(row) for row in rows])
    assert holds_pairs(path) is pairs


def test_single_responses_without_a_label_are_told_what_theirs_should_look_like(tmp_path):
    path = write(tmp_path, '{"prompt": "p", "completion": "c"}')
    with pytest.raises(UserError) as caught:
        load_feedback(path)
    assert "no 'label' (keys found: 'prompt', 'completion')" in str(
        caught.value
    ) and '"completion": "...", "label": true}' in str(caught.value)


# --- encoding


@given(texts, responses)
def test_the_response_and_one_end_of_text_are_trained_on(prompt, response):
    encoded = encode(TOY, prompt, response)
    assert encoded.ids == TOY.encode_prompt(prompt) + TOY.encode(response) + [TOY.end_of_text]
    trained_on = collate([encoded]).index.targets.tolist()
    assert TOY.decode_response(trained_on) == response and trained_on.count(TOY.end_of_text) == 1


def test_no_token_straddles_prompt_and_response():
    """ " so" is one token of the toy vocabulary; across the boundary it must not be."""
    assert len(TOY.encode(" so")) == 1
    joined = encode(TOY, "x ", "so").ids
    assert joined == [TOY.user, *TOY.encode("x "), TOY.assistant, *TOY.encode("so"), TOY.end_of_text]


def test_too_long_is_left_out_aloud_and_never_cut():
    examples = [Demonstration("short", "ok", line=1), Demonstration("long", "tea " * 30, line=2)]
    said = []
    _, kept = encode_fitting(examples, TOY, 20, "f.jsonl", said.append)
    assert kept == [encode(TOY, "short", "ok")]
    needed = len(encode(TOY, "long", "tea " * 30).ids)
    assert said == [
        "f.jsonl: left out 1 of 2 examples: longer than the context of 20 tokens (first: "
        f"line 2); --context {needed} would keep all"
    ]
    assert len(encode_fitting(examples, TOY, needed, "f.jsonl", said.append)[1]) == 2
    with pytest.raises(
        UserError, match=f"f.jsonl: every example to train on is longer .* --context {needed}"
    ):
        encode_fitting(examples[1:], TOY, 20, "f.jsonl", said.append)


def test_a_pair_is_as_long_as_its_longer_response():
    pairs = [Preference("p", "ok", "tea " * 30, line=4), Preference("p", "ok", "no", line=5)]
    said = []
    assert len(encode_fitting(pairs, TOY, 20, "f.jsonl", said.append)[1]) == 1
    assert "first: line 4" in said[0]


# --- batching


@given(encoded_trees())
def test_a_batch_holds_each_prompt_once_and_each_response_after_it(trees):
    """One row without padding: of each tree the prompt, then its responses. Response tokens are counted in
    the row's order, by the number of their response in the batch.
    """
    batch = pack(trees)
    row, targets, owners = [], [], []
    for tree in trees:
        row += tree[0].prompt
        for sequence in tree:
            response = sequence.response
            owners += [1 + owners[-1] if owners else 0] * len(response)
            targets += response
            row += response
    assert batch.ids.tolist() == row and batch.n_tokens == len(row)
    assert batch.index.targets.tolist() == targets and batch.n_targets == len(targets)
    assert batch.index.owners.tolist() == owners
    assert batch.lengths.tolist() == [len(s.response) for tree in trees for s in tree]


@given(encoded_sequences())
def test_single_responses_are_packed_with_a_prompt_each(sequences):
    batch = collate(sequences)
    assert batch.ids.tolist() == [token for s in sequences for token in s.ids]
    assert batch.n_tokens == sum(s.n_tokens for s in sequences)


@given(encoded_pairs(n=3), st.booleans())
def test_pairs_are_chosen_first_then_rejected(pairs, known):
    """Of each pair, before the next one: in the row, and of what is known of the reference."""
    ref = [(-1.5 * i, -2.5 * i) for i in range(3)]
    pairs = [pair._replace(ref_logps=ref[i] if known else None) for i, pair in enumerate(pairs)]
    batch = collate_pairs(pairs)
    assert torch.equal(batch.sequences.ids, pack([(pair.chosen, pair.rejected) for pair in pairs]).ids)
    assert batch.n_tokens == sum(pair.n_tokens for pair in pairs) == len(batch.sequences.ids)
    assert (
        (batch.ref_logps.tolist() == [logp for both in ref for logp in both])
        if known
        else batch.ref_logps is None
    )


def test_only_one_prompt_is_shared_and_it_is_not_empty():
    """A pair of different prompts would score its second response after the first one's prompt."""
    with pytest.raises(ValueError, match="only share a prompt that is the same"):
        pack([[Encoded([1, 2], [3]), Encoded([1, 4], [3])]])
    with pytest.raises(ValueError, match="only share a prompt that is the same"):
        collate_pairs([EncodedPair(Encoded([1], [3]), Encoded([1, 1], [3]))])
    for trees in ([[Encoded([], [3])]], [[Encoded([1], [3])], [Encoded([], [2, 3]), Encoded([], [4])]]):
        with pytest.raises(ValueError, match="position 0"):
            pack(trees)


def another_prompts_response(sequences, context):
    """In plain loops: of each prompt, with the first response after it that answers another prompt and
    fits.
    """
    found = []
    for i, sequence in enumerate(sequences):
        prompt = sequence.prompt
        for step in range(1, len(sequences)):
            other = sequences[(i + step) % len(sequences)]
            if other.prompt != prompt and len(prompt) + len(other.response) <= context:
                found.append(Encoded(prompt, other.response))
                break
    return found


@given(encoded_trees(n=3), st.integers(4, 10))
def test_a_mismatched_response_answers_another_prompt_and_fits(trees, context):
    """Never the same prompt, whether its other responses stand beside it or it comes again later. Whatever
    prompt stays out fits with no response of another one's.
    """
    sequences = [sequence for tree in [*trees, trees[0]] for sequence in tree]
    expected = another_prompts_response(sequences, context)
    if expected:
        assert mismatch(sequences, context) == expected
    else:
        alone = len({tuple(sequence.prompt) for sequence in sequences}) == 1
        with pytest.raises(
            UserError, match="this batch has one prompt only" if alone else "no prompt of this batch fits"
        ):
            mismatch(sequences, context)


def numbered(lengths: list[int], *args, **kwargs) -> Batches:
    """Batches that are lists of the numbers of their examples, which are 3 tokens longer than `lengths`
    says.
    """
    examples = [encode(TOY, "", "x" * length) for length in lengths]
    number = {id(example): i for i, example in enumerate(examples)}
    return Batches(examples, lambda chosen: [number[id(example)] for example in chosen], *args, **kwargs)


sizes_of_batches = st.fixed_dictionaries({"batch_size": st.integers(1, 9)}) | st.fixed_dictionaries(
    {"batch_size": st.none(), "tokens": st.integers(8, 60)}
)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=40), sizes_of_batches, st.integers(0, 5))
def test_every_example_once_an_epoch_in_an_order_that_needs_no_history(lengths, size, seed):
    """Batches of so many examples as well as of so many tokens, whose number differs from epoch to epoch."""
    batches = numbered(lengths, **size, seed=seed)
    bounds = [0, batches.count(1), batches.count(2), batches.count(3)]
    epochs = [[i for k in range(a, b) for i in batches[k]] for a, b in itertools.pairwise(bounds)]
    assert all(sorted(epoch) == list(range(len(lengths))) for epoch in epochs)
    assert len(lengths) < 12 or epochs[0] != epochs[1], "the order must change with the epoch"
    fresh = numbered(lengths, **size, seed=seed)
    assert [fresh[k] for k in reversed(range(bounds[-1]))][::-1] == [batches[k] for k in range(bounds[-1])]
    assert [i for batch in batches.once() for i in batch] == list(range(len(lengths)))
    assert (
        len(lengths) < 12
        or [i for k in range(bounds[1]) for i in numbered(lengths, **size, seed=seed + 1)[k]] != epochs[0]
    )


@given(st.lists(st.integers(1, 20), min_size=1, max_size=40), st.integers(23, 120), st.integers(0, 5))
def test_a_batch_of_tokens_is_as_full_as_it_can_be(lengths, tokens, seed):
    """No batch goes beyond its tokens, not even the last, and none could have held the next example too."""
    batches = numbered(lengths, None, seed, tokens=tokens)
    cost = [batches.examples[i].n_tokens for i in range(len(lengths))]
    epoch = [batches[k] for k in range(batches.count(1))]
    sums = [sum(cost[i] for i in batch) for batch in epoch]
    assert all(total <= tokens for total in sums)
    assert all(total + cost[following[0]] > tokens for total, following in zip(sums, epoch[1:], strict=False))


# (which prompt, tokens of the response)
answers = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 5)), min_size=2, max_size=30)


@given(
    answers,
    st.fixed_dictionaries({"batch_size": st.integers(2, 9)})
    | st.fixed_dictionaries({"batch_size": st.none(), "tokens": st.integers(24, 60)}),
    st.integers(0, 5),
)
@example([(0, 1)] * 8 + [(1, 1)] * 8, {"batch_size": 4}, 0)  # in file order, no batch has two prompts
# three fill a batch, and one is left over
@example([(i, 5) for i in range(4)], {"batch_size": None, "tokens": 24}, 0)
def test_a_mixed_batch_holds_two_prompts_wherever_there_are_enough(answers, size, seed):
    """Every example once, no batch beyond its tokens (or its number, but for one that would be alone), and
    the same plan whether or not others were made. Where every prompt is as frequent as the others, no batch
    has a single one.
    """
    examples = [EncodedFeedback(Encoded([prompt, 0, 0], [1] * length), True) for prompt, length in answers]
    number = {id(example): i for i, example in enumerate(examples)}

    def make():
        return MixedBatches(
            examples, lambda chosen: [number[id(example)] for example in chosen], **size, seed=seed
        )

    batches = make()
    n = batches.count(1)
    epoch = [batches[k] for k in range(n)]
    assert [make()[k] for k in reversed(range(n))][::-1] == epoch
    for cut in (epoch, list(batches.once())):
        assert sorted(i for batch in cut for i in batch) == list(range(len(examples)))
        if size["batch_size"]:
            assert all(len(batch) <= size["batch_size"] + (k == len(cut) - 1) for k, batch in enumerate(cut))
        else:
            assert all(sum(examples[i].n_tokens for i in batch) <= size["tokens"] for batch in cut)
        alone = [batch for batch in cut if len({answers[i][0] for i in batch}) == 1]
        frequent = max(sum(prompt == p for prompt, _ in answers) for p in range(4))
        assert not alone or 2 * frequent > len(answers), alone
    assert batches.can_be_mixed() == all(len({answers[i][0] for i in batch}) > 1 for batch in batches.once())


@given(st.integers(1, 30), sizes_of_batches, st.floats(0.01, 4))
def test_epochs_are_counted_in_batches(n, size, epochs):
    """Whole epochs exactly, parts of one by rounding, and never none."""
    batches = numbered([1 + i % 5 for i in range(n)], **size, seed=0)
    whole = [batches.count(e) for e in range(1, 6)]
    assert whole == [sum(len(batches.plan_epoch(e)) for e in range(last)) for last in range(1, 6)]
    assert (
        batches.count(epochs) >= 1
        and [0, *whole][int(epochs)] <= max(1, batches.count(epochs)) <= whole[int(epochs)]
    )


@given(prompts=st.lists(texts, min_size=1, max_size=30))
def test_held_out_prompts_are_never_trained_on(prompts):
    examples = [Demonstration(p, "r", line=i) for i, p in enumerate(prompts)]
    ((train, held_out),) = split_by_prompt(examples)
    assert sorted(train + held_out, key=lambda e: e.line) == examples
    assert not {same_prompt(e.prompt) for e in train} & {same_prompt(e.prompt) for e in held_out}
    assert train and (held_out or len({same_prompt(p) for p in prompts}) == 1)
    ((backwards, _),) = split_by_prompt(examples[::-1])
    assert backwards[::-1] == train, "the split must not depend on the file's order"


# few enough words for two files to share some, each in several forms
prompts_in_forms = st.builds(
    "{}{}{}".format,
    st.sampled_from(["", " ", "\t\n"]),
    st.integers(0, 40).map("say {} café".format),
    st.sampled_from(["", " "]),
).flatmap(
    lambda text: st.sampled_from(
        [
            text,
            text.upper(),
            text.replace(" ", "  "),
            text.replace("é", "e\u0301"),
            text.replace("ca", "ｃａ"),
        ]
    )
)


@given(st.lists(prompts_in_forms, min_size=1, max_size=30), st.lists(prompts_in_forms, max_size=30))
def test_what_is_held_out_in_one_file_is_trained_on_in_neither(pairs, demonstrations):
    """In both directions, and whatever form the prompt has. Nothing is lost, and each file holds out its
    tenth at least.
    """
    files = (
        [Preference(p, "c", "r", line=i) for i, p in enumerate(pairs)],
        [Demonstration(p, "r", line=i) for i, p in enumerate(demonstrations)],
    )
    split = split_by_prompt(*files)

    def plain(examples):
        return {"".join(unicodedata.normalize("NFKC", e.prompt).casefold().split()) for e in examples}

    assert not set.union(*(plain(train) for train, _ in split)) & set.union(
        *(plain(held_out) for _, held_out in split)
    )
    for examples, (train, held_out) in zip(files, split, strict=True):
        assert sorted(train + held_out, key=lambda e: e.line) == examples
        assert len(plain(held_out)) >= min(round(len(plain(examples)) / 10), len(plain(examples)) - 1)
