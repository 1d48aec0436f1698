"""Files are read or refused with their line; tokens and mask agree; batches lose and repeat nothing."""

import json
import re

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from mini_dpo.data import (
    Batches,
    Demonstration,
    EncodedPair,
    Preference,
    collate,
    collate_pairs,
    encode,
    encode_demonstrations,
    encode_preferences,
    load_demonstrations,
    load_preferences,
    split_by_prompt,
)
from mini_dpo.errors import UserError
from mini_dpo.tokenizer import load_tokenizer
from tests.strategies import encoded_sequences

TOY = load_tokenizer("toy")
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
responses = texts.filter(lambda text: text.strip())
GOOD = {"prompt": "p", "chosen": "c", "rejected": "r"}


def write(tmp_path, *lines: str | bytes, name="pairs.jsonl"):
    path = tmp_path / name
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines))
    return path


# --------------------------------------------------------------------------------------------------------- reading


@given(rows=st.lists(st.tuples(texts, responses, responses).filter(lambda row: row[1] != row[2]), min_size=1, max_size=5), ascii=st.booleans())
def test_whatever_was_written_is_read(tmp_path_factory, rows, ascii):
    """Characters that look like line ends inside a string (U+2028) do not end a line of JSONL."""
    lines = [json.dumps(dict(zip(GOOD, row)), ensure_ascii=ascii) for row in rows]
    path = write(tmp_path_factory.mktemp("data"), *lines, "")
    assert [(p.prompt, p.chosen, p.rejected) for p in load_preferences(path)] == rows
    assert [p.line for p in load_preferences(path)] == list(range(1, len(rows) + 1))


BROKEN = {
    "not json": ("{nope", "not JSON"),
    "cut off": ('{"prompt": "p", "chosen": "c", "rej', "not JSON"),
    "an array of all": ("[", "not JSON"),
    "not an object": ('["p", "c", "r"]', "a JSON list, not an object"),
    "a key is missing": ('{"prompt": "p", "chosen": "c"}', "no 'rejected' (keys found: 'prompt', 'chosen')"),
    "wrong type": ('{"prompt": "p", "chosen": 3, "rejected": "r"}', "'chosen' must be a string, not int"),
    "chat messages": ('{"prompt": [{"role": "user"}], "chosen": "c", "rejected": "r"}', "'prompt' must be a string, not list"),
    "null": ('{"prompt": null, "chosen": "c", "rejected": "r"}', "'prompt' must be a string, not NoneType"),
    "empty response": ('{"prompt": "p", "chosen": "", "rejected": "r"}', "'chosen' is empty"),
    "blank response": ('{"prompt": "p", "chosen": "c", "rejected": " \\n"}', "'rejected' is empty"),
    "half a surrogate pair": ('{"prompt": "p", "chosen": "\\ud83d", "rejected": "r"}', "half of a surrogate pair"),
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
    damaged = {"cut": good[:at], "flip": good[:at] + byte + good[at + 1 :], "insert": good[:at] + byte + good[at:]}[damage]
    path = tmp_path_factory.mktemp("fuzz") / "f.jsonl"
    path.write_bytes(damaged)
    try:
        load_preferences(path, say=lambda message: None)
    except UserError as error:
        assert re.match(rf"{re.escape(str(path))}(, line [123])?:", str(error))


def test_byte_order_mark_and_windows_line_ends_are_read(tmp_path):
    path = write(tmp_path, b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r", json.dumps(GOOD).encode() + b"\r")
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
    assert said == [f"{path}: left out 1 of 2 pairs: chosen and rejected are the same (first: line 2)"]
    with pytest.raises(UserError, match="no pair is left"):
        load_preferences(write(tmp_path, json.dumps({**GOOD, "rejected": "c"})), said.append)


def test_other_keys_are_ignored(tmp_path):
    path = write(tmp_path, json.dumps({**GOOD, "id": 7}))
    assert load_preferences(path) == [Preference("p", "c", "r", line=1)]


# -------------------------------------------------------------------------------------------------------- encoding


@given(texts, responses)
def test_ids_and_mask_are_born_together(prompt, response):
    ids, mask = encode(TOY, prompt, response)
    assert ids == TOY.encode_prompt(prompt) + TOY.encode(response) + [TOY.end_of_text]
    assert TOY.decode_response([token for token, trained in zip(ids, mask) if trained]) == response
    assert mask == sorted(mask) and not mask[0] and mask[-1]
    assert [t for t, trained in zip(ids, mask) if trained].count(TOY.end_of_text) == 1


def test_no_token_straddles_prompt_and_response():
    """" so" is one token of the toy vocabulary; across the boundary it must not be."""
    assert len(TOY.encode(" so")) == 1
    joined = encode(TOY, "x ", "so").ids
    assert joined == [TOY.user, *TOY.encode("x "), TOY.assistant, *TOY.encode("so"), TOY.end_of_text]


def test_too_long_is_left_out_aloud_and_never_cut():
    examples = [Demonstration("short", "ok", line=1), Demonstration("long", "tea " * 30, line=2)]
    said = []
    kept = encode_demonstrations(examples, TOY, 20, "f.jsonl", said.append)
    assert kept == [encode(TOY, "short", "ok")]
    needed = len(encode(TOY, "long", "tea " * 30).ids)
    assert said == [f"f.jsonl: left out 1 of 2 examples: longer than the context of 20 tokens (first: line 2); --context {needed} would keep all"]
    assert len(encode_demonstrations(examples, TOY, needed, "f.jsonl", said.append)) == 2
    with pytest.raises(UserError, match=f"f.jsonl: every example is longer .* --context {needed}"):
        encode_demonstrations(examples[1:], TOY, 20, "f.jsonl", said.append)


def test_a_pair_is_as_long_as_its_longer_response():
    pairs = [Preference("p", "ok", "tea " * 30, line=4), Preference("p", "ok", "no", line=5)]
    said = []
    assert len(encode_preferences(pairs, TOY, 20, "f.jsonl", said.append)) == 1
    assert "first: line 4" in said[0]


# -------------------------------------------------------------------------------------------------------- batching


@given(encoded_sequences())
def test_a_batch_holds_each_sequence_padded_on_the_right(sequences):
    batch = collate(sequences)
    for row, s in enumerate(sequences):
        assert batch.ids[row, : len(s.ids)].tolist() == s.ids
        assert not batch.ids[row, len(s.ids) :].any()
    assert batch.n_tokens == sum(len(s.ids) for s in sequences)
    expected = [(row, t) for row, s in enumerate(sequences) for t, trained in enumerate(s.response_mask) if trained]
    T = batch.ids.shape[1]
    found = [(int(owner), int(place) - owner * T + 1) for owner, place in zip(batch.index.owners.tolist(), batch.index.rows.tolist())]
    assert found == expected
    assert batch.index.targets.tolist() == [sequences[row].ids[t] for row, t in expected]


@given(encoded_sequences(n=6), st.booleans())
def test_pairs_are_chosen_first_then_rejected(sequences, known):
    ref = [(-1.5 * i, -2.5 * i) for i in range(3)]
    pairs = [EncodedPair(sequences[i], sequences[i + 3], ref[i] if known else None) for i in range(3)]
    batch = collate_pairs(pairs)
    assert torch.equal(batch.sequences.ids, collate(sequences).ids)
    expected = [w for w, _ in ref] + [l for _, l in ref]
    assert (batch.ref_logps.tolist() == expected) if known else batch.ref_logps is None


@given(n=st.integers(1, 40), batch_size=st.integers(1, 9), seed=st.integers(0, 5))
def test_every_example_once_an_epoch_in_an_order_that_needs_no_history(n, batch_size, seed):
    examples = [encode(TOY, "p", "x" * (1 + i % 5)) for i in range(n)]
    identity = lambda chosen: [next(i for i, e in enumerate(examples) if e is c) for c in chosen]  # noqa: E731
    batches = Batches(examples, identity, batch_size, seed)
    epochs = [[i for k in range(e * batches.per_epoch, (e + 1) * batches.per_epoch) for i in batches[k]] for e in range(2)]
    assert all(sorted(epoch) == list(range(n)) for epoch in epochs)
    assert n < 12 or epochs[0] != epochs[1], "the order must change with the epoch"
    fresh = Batches(examples, identity, batch_size, seed)
    assert [fresh[k] for k in reversed(range(2 * fresh.per_epoch))][::-1] == [batches[k] for k in range(2 * batches.per_epoch)]
    assert [i for batch in batches.once() for i in batch] == list(range(n))


@given(prompts=st.lists(texts, min_size=1, max_size=30))
def test_held_out_prompts_are_never_trained_on(prompts):
    examples = [Demonstration(p, "r", line=i) for i, p in enumerate(prompts)]
    train, held_out = split_by_prompt(examples)
    assert sorted(train + held_out, key=lambda e: e.line) == examples
    assert not {e.prompt for e in train} & {e.prompt for e in held_out}
    assert train and (held_out or len(set(prompts)) == 1)
    assert split_by_prompt(examples[::-1])[0][::-1] == train, "the split must not depend on the file's order"
