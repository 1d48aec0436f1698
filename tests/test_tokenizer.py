"""Text survives the round trip, markers cannot be forged, and the vocabulary can be rebuilt."""

import os

import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st

from mini_dpo import vocabularies
from mini_dpo.errors import UserError
from mini_dpo.tokenizer import ASSISTANT, END_OF_TEXT, USER, load_tokenizer
from mini_dpo.vocabularies import TOY_VOCABULARY, read_vocabulary, train_bpe, write_vocabulary

TOY = load_tokenizer("toy")
MARKERS = {TOY.end_of_text, TOY.user, TOY.assistant}
needs_gpt2 = pytest.mark.skipif(
    "TIKTOKEN_CACHE_DIR" not in os.environ,
    reason="TIKTOKEN_CACHE_DIR is not set: no GPT-2 vocabulary offline",
)
any_text = st.text() | st.lists(st.sampled_from([END_OF_TEXT, USER, ASSISTANT, " ", "<|", "a"])).map("".join)


@given(any_text)
def test_any_text_survives_and_never_becomes_a_marker(text):
    ids = TOY.encode(text)
    assert TOY.decode(ids) == text
    assert not MARKERS & set(ids)


@given(any_text, any_text)
def test_layout_of_prompt_and_response(prompt, response):
    before, after = TOY.encode_prompt(prompt), TOY.encode_response(response)
    assert before[0] == TOY.user and before[-1] == TOY.assistant and TOY.decode(before[1:-1]) == prompt
    assert after[-1] == TOY.end_of_text and after.count(TOY.end_of_text) == 1
    assert TOY.decode_response(after) == response == TOY.decode_response(after[:-1])


def test_ids_are_dense():
    markers = [TOY.end_of_text, TOY.user, TOY.assistant, TOY.system]
    assert markers == list(range(TOY.vocab_size - 4, TOY.vocab_size))
    assert sorted(read_vocabulary(TOY_VOCABULARY).values()) == list(range(TOY.vocab_size - 4))


def test_half_a_character_decodes_to_the_replacement_sign():
    assert TOY.decode(TOY.encode("é")[:1]) == "\ufffd"


def test_bpe_on_the_classic_example():
    """Gage 1994 compresses aaabdaaabac: aa stands there four times; then (aa, a) and (a, b) twice, and ties
    go to the larger bytes; then (aaa, b) twice.
    """
    ranks = train_bpe(["aaabdaaabac"], 256 + 3)
    assert list(ranks)[256:] == [b"aa", b"aaa", b"aaab"]


@given(st.lists(st.text(alphabet="ab c", min_size=1), min_size=1, max_size=5), st.integers(256, 270))
def test_bpe_vocabulary_is_what_tiktoken_expects(texts, size):
    ranks = train_bpe(texts, size)
    assert list(ranks.values()) == list(range(len(ranks))) and len(ranks) <= size
    encoding = tiktoken.Encoding(
        "test", pat_str=vocabularies.PATTERN, mergeable_ranks=ranks, special_tokens={}
    )
    for text in texts:
        assert encoding.decode(encoding.encode(text)) == text
    for token in ranks:  # every token can be reached: its own bytes encode to itself
        assert encoding.encode_single_token(token) == ranks[token]


def test_vocabulary_file_round_trip(tmp_path):
    ranks = train_bpe(["tea please, tea\n"], 260)
    write_vocabulary(tmp_path / "v.tiktoken", ranks)
    assert read_vocabulary(tmp_path / "v.tiktoken") == ranks


def test_the_documented_command_rebuilds_the_committed_vocabulary(tmp_path, monkeypatch, capsys):
    committed = TOY_VOCABULARY.read_bytes()
    monkeypatch.setattr(vocabularies, "TOY_VOCABULARY", tmp_path / "toy.tiktoken")
    vocabularies.main()
    assert (tmp_path / "toy.tiktoken").read_bytes() == committed
    assert "663 tokens" in capsys.readouterr().out


def test_unknown_name_and_missing_gpt2_are_one_clear_line(monkeypatch):
    with pytest.raises(UserError, match="choose toy or gpt2"):
        load_tokenizer("gpt5")

    def offline(name):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(tiktoken, "get_encoding", offline)
    with pytest.raises(UserError, match="TIKTOKEN_CACHE_DIR") as caught:
        load_tokenizer("gpt2")
    assert "\n" not in str(caught.value)


@needs_gpt2
@given(any_text)
def test_gpt2_is_the_real_one(text):
    gpt2 = load_tokenizer("gpt2")
    assert (gpt2.vocab_size, gpt2.end_of_text) == (50_260, 50_256)
    assert gpt2.encode(text) == tiktoken.get_encoding("gpt2").encode_ordinary(text)
    assert gpt2.decode(gpt2.encode(text)) == text


@needs_gpt2
def test_gpt2_encodes_what_its_authors_say():
    assert load_tokenizer("gpt2").encode("Hello world") == [15496, 995]


@needs_gpt2
def test_the_default_for_own_texts_is_gpt2_s_where_tiktoken_has_it():
    assert vocabularies.default_vocabulary() == "gpt2"


def test_the_default_for_own_texts_is_the_toy_s_elsewhere_and_nothing_is_fetched(monkeypatch, tmp_path):
    def never(name):
        raise AssertionError("tiktoken was asked")

    monkeypatch.setattr(tiktoken, "get_encoding", never)
    for folder in (tmp_path, tmp_path / "none", ""):
        monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(folder))
        assert vocabularies.default_vocabulary() == "toy"
    (tmp_path / "6d1cbeee0f20b3d9449abfede4726ed8212e3aee").touch()  # one of its two files is not enough
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    assert vocabularies.default_vocabulary() == "toy"
