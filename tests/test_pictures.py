"""A model that looks: patches, their embedding, the gallery and its judge."""

import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mini_dpo import show
from mini_dpo.batches import Encoded, EncodedPair, collate_pairs
from mini_dpo.errors import UserError
from mini_dpo.evaluation.measuring import blanked
from mini_dpo.export import __main__ as export
from mini_dpo.feedback import collate_contrasts
from mini_dpo.generate import generate
from mini_dpo.logprobs import response_logps
from mini_dpo.model import GPT, GPTConfig
from mini_dpo.optimizers import LoopConfig, make_optimizer
from mini_dpo.pictures import BLANK, PATCH, SIDE, find_tokenizer, new_model, patches, pixels_of
from mini_dpo.plot.pictures import lines_of
from mini_dpo.rlhf.reward import ScalarModel
from mini_dpo.saving.checkpoint import load_model, save_checkpoint
from mini_dpo.train.parsing import parse
from mini_dpo.worlds import gallery, sight
from mini_dpo.worlds.gallery import SHAPES, look
from mini_dpo.worlds.sight import SIGHT, SIGHT_ADDED, SIGHT_SWAPPED, caption, count, judge, said
from mini_dpo.worlds.world import choose, reward
from tests.commands import run

NAME = 'pictures, words [" boat", " moon", "top"]'
TOKENIZER = find_tokenizer(NAME)
seeds = st.integers(0, 10**6)
pictures = st.lists(st.text(".rgb", min_size=SIDE, max_size=SIDE), min_size=SIDE, max_size=SIDE).map(
    "\n".join
)


def seeing(seed=0, **shape):
    torch.manual_seed(seed)
    return new_model(
        GPTConfig(TOKENIZER.vocab_size, **{"context": 64, "n_layer": 2, "n_head": 2, "n_embd": 16} | shape),
        TOKENIZER,
    )


def drawn(seed):
    """A random picture, and random numbers to go on with."""
    rng = random.Random(seed)
    return rng, gallery.write_prompt(rng)


# --- the model


@given(pictures)
def test_a_picture_is_36_patches_that_hold_all_of_it(picture):
    numbers = patches(picture)
    rows = [pixels_of(number) for number in numbers]  # of each patch
    n = SIDE // PATCH
    lines = ["".join(rows[i * n + j][k] for j in range(n)) for i in range(n) for k in range(PATCH)]
    assert len(numbers) == n * n and "\n".join(lines) == picture and max(numbers) < 2**32
    ids = TOKENIZER.encode_prompt(picture)
    assert ids == [
        TOKENIZER.user,
        *(TOKENIZER.vocab_size + number for number in numbers),
        TOKENIZER.assistant,
    ]


@given(pictures, st.sampled_from(["the end", "side", "letter", "place"]))
def test_what_is_no_picture_is_text(picture, how):
    """A line too few, a column too few, another letter, or a picture in the place of an answer."""
    wrong = {
        "the end": picture[: -SIDE - 1],
        "side": re.sub("(?m).$", "", picture),
        "letter": picture[:-1] + "x",
        "place": picture,
    }[how]
    ids = TOKENIZER.encode_response(wrong) if how == "place" else TOKENIZER.encode_prompt(wrong)[1:]
    assert max(ids) < TOKENIZER.vocab_size and TOKENIZER.decode(ids[:-1]) == wrong


@given(pictures)
def test_the_embedding_of_a_patch_is_a_linear_layer_of_its_pixels(picture):
    """Pixel by pixel: a loop over `.rgb`. Catches: bits in another order, a patch read column by column, the
    vector of a token in between.
    """
    wte = seeing().wte
    ids = torch.tensor(TOKENIZER.encode_prompt(picture))
    found = wte(ids)
    for place, number in enumerate(patches(picture), 1):
        pixels = "".join(pixels_of(number))
        columns = [4 * i + ".rgb".index(pixel) for i, pixel in enumerate(pixels)]
        expected = wte.patch.weight[:, columns].sum(1) + wte.patch.bias
        torch.testing.assert_close(found[place], expected)
    torch.testing.assert_close(found[[0, -1]], wte.weight[[TOKENIZER.user, TOKENIZER.assistant]])


def test_a_prompt_of_patches_goes_through_row_cache_and_checkpoint(tmp_path):
    """The packed row gives what each text alone gives; what is sampled with the cache is what the model
    itself finds likeliest; the checkpoint's model sees the same.
    """
    model, texts = seeing(), [[1, 2], [3]]
    prompt = TOKENIZER.encode_prompt(drawn(0)[1])
    pair = EncodedPair(*(Encoded(prompt, [*text, TOKENIZER.end_of_text]) for text in texts))
    together = response_logps(model, collate_pairs([pair]).sequences)
    for y, logp in zip(pair[:2], together, strict=True):
        rows = model(torch.tensor([y.ids]))[0].log_softmax(-1)
        alone = sum(rows[len(prompt) - 1 + i, token] for i, token in enumerate(y.response))
        torch.testing.assert_close(logp, alone)
    (written,) = generate(model, [prompt], end_of_text=-1, max_new_tokens=5, temperature=0)
    for i, token in enumerate(written):
        assert int(model(torch.tensor([[*prompt, *written[:i]]]))[0, -1].argmax()) == token
    save_checkpoint(tmp_path / "sft.pt", model, TOKENIZER.name)
    loaded, tokenizer = load_model(tmp_path / "sft.pt")
    assert tokenizer.name == NAME and tokenizer.encode_prompt(BLANK) == TOKENIZER.encode_prompt(BLANK)
    torch.testing.assert_close(response_logps(loaded, collate_pairs([pair]).sequences), together)
    assert not torch.allclose(
        response_logps(model, collate_pairs([blanked(pair, TOKENIZER.encode_prompt(BLANK))]).sequences),
        together,
    )
    critic = ScalarModel(model, rows=1)
    torch.testing.assert_close(critic.hidden(torch.tensor([prompt])), model.hidden(torch.tensor([prompt])))


def test_every_weight_is_trained_once():
    for kind in ("adamw", "muon"):
        model = seeing()
        groups = make_optimizer(model, LoopConfig(steps=1, lr=1e-3, optimizer=kind)).param_groups
        held = [id(p) for group in groups for p in group["params"]]
        assert sorted(held) == sorted(id(p) for p in model.parameters())
        assert any(p is model.wte.patch.weight for p in groups[0]["params"]), "Muon's"


@pytest.mark.parametrize(
    "name",
    ["pictures, gpt3", "pictures, pictures, toy", 'pictures, words ["ab", "ab"]', "pictures, ", "picture"],
)
def test_a_strange_name_of_a_tokenizer_is_a_line(name):
    with pytest.raises(UserError):
        find_tokenizer(name)


def test_a_checkpoint_cannot_claim_to_see(tmp_path):
    """The name says that the model sees, and the weights have no patches; or the reverse."""
    path = tmp_path / "sft.pt"
    for model, name in (
        (seeing(), NAME.removeprefix("pictures, ")),
        (GPT(GPTConfig(TOKENIZER.vocab_size, n_layer=1, n_embd=12)), NAME),
        (new_model(GPTConfig(300, n_layer=1, n_embd=12), TOKENIZER), NAME),
    ):
        save_checkpoint(path, model, name)
        with pytest.raises(UserError, match=r"weights do not fit|a model of 300"):
            load_model(path)
        path.unlink()


def test_what_a_world_asks_for_gives_way_to_a_flag():
    for flags, weight, epochs in (
        ("--world sight", SIGHT.sft_weight, SIGHT.sft_epochs),
        ("--world sight --sft-weight 0 --sft-epochs 1", 0, 1),
        ("--world sight --sft-weight 3", 3, SIGHT.sft_epochs),
        ("--world sight --stage sft", 0, SIGHT.sft_epochs),
        ("--world shop", 0, 2),
        ("--data own.jsonl", 0, 6),
    ):
        found = parse(flags.split())
        assert (found.sft_weight, found.sft_epochs) == (weight, epochs), flags
    assert SIGHT.sft_weight != 0


def test_the_other_prompt_is_the_named_one_or_another_of_the_batch():
    one, two = ([TOKENIZER.user, *ids, TOKENIZER.assistant] for ids in ([5], [6, 7]))
    pairs = [EncodedPair(Encoded(x, [1]), Encoded(x, [2])) for x in (one, one, two)]
    pairs[0] = pairs[0]._replace(other=[9, 9])
    ids, layout = collate_contrasts(pairs, 9).mismatched[:2]
    expected = [9, 9, 1, *two, 1, *one, 1]
    assert ids.tolist() == expected and [size for size, _ in layout.sizes] == [2, 4, 3]
    for wrong, context in ((pairs[1:2], 9), (pairs, 2)):
        with pytest.raises(UserError, match="no other prompt"):
            collate_contrasts(wrong, context)


def test_show_spells_patches_and_export_refuses(tmp_path, monkeypatch, capsys):
    status, out, err = run(monkeypatch, capsys, show, "--world", "sight")
    assert (status, err) == (0, "") and out.count("patch  ") == 72 and "yes, predicted at position 37" in out
    save_checkpoint(tmp_path / "sft.pt", seeing(), NAME)
    status, _, err = run(monkeypatch, capsys, export, tmp_path, tmp_path / "out", "--sft")
    assert status == 2 and not Path(tmp_path / "out").exists() and err.count("\n") == 1, err


# --- the gallery


@given(seeds)
def test_the_judge_sees_what_the_painter_paints(seed):
    rng, picture = drawn(seed)
    thing = gallery.anything(rng, choose(rng, gallery.PLACES), choose(rng, SHAPES))
    changed = {t.place: t for t in look(picture)} | {thing.place: thing}
    painted = gallery.paint(rng, picture, thing)
    assert look(painted) == tuple(sorted(changed.values(), key=lambda t: gallery.PLACES.index(t.place)))


def test_all_shapes_are_different_things():
    assert len(gallery.KNOWN) == len(SHAPES) * len(gallery.SIZES) == 16
    assert all(
        gallery.COMPANION[gallery.COMPANION[shape]] == shape != gallery.COMPANION[shape] for shape in SHAPES
    )


@given(
    seeds, st.text() | st.lists(st.sampled_from(["a", "big", "red", "top left", ",", *SHAPES])).map(" ".join)
)
def test_the_right_caption_has_the_highest_mark_of_all(seed, text):
    """5 for each thing, and no other text has more: nothing, any words, all shapes at once, a caption twice,
    one that goes on, a guard's.
    """
    rng, picture = drawn(seed)
    right = caption(look(picture))
    best = reward(judge(picture, right))
    assert best == 5 * len(look(picture)) and tuple(said(right)) == look(picture)
    for other in (
        text,
        f"{right} {text}",
        " ".join(SHAPES),
        f"{right} {right}",
        sight.write_response(rng, picture),
    ):
        total = reward(judge(picture, other))
        assert total < best or (
            total == best and sorted(map(str, said(other))) == sorted(map(str, look(picture)))
        )
        assert all(value == value for value in count(picture, other).values())


@given(seeds)
def test_each_mark_falls_when_its_fault_is_planted(seed):
    rng, picture = drawn(seed)
    things = look(picture)
    marks = judge(picture, caption(things))
    new = gallery.anything(rng, "top left", sight.unseen(rng, picture, things))
    wrong = [
        replace(things[0], **{name: next(v for v in values if v != getattr(things[0], name))})
        for name, values in (("size", gallery.SIZES), ("colour", gallery.COLOURS), ("place", gallery.PLACES))
    ]
    for text, mark, by in (
        (caption([*things, new]), "made up", 4),
        (caption([*things, things[0]]), "made up", 4),
        (caption(things[1:]), "seen", 2),
        (caption(things) + " Oh dear", "stray", 2),
        *((caption([thing, *things[1:]]), "details", 2) for thing in wrong),
    ):
        assert judge(picture, text)[mark] == marks[mark] - by, text
        assert count(picture, text)["faultless"] == 0
    assert count(picture, caption(things))["faultless"] == 1
    assert count(picture, "") == dict.fromkeys(
        ["imagined", "companions", "imagines", "recall", "faultless"], 0
    ), "silence makes nothing up, and sees nothing"
    assert count(picture, str(new))["chair"] == 1
    free = [place for place in gallery.PLACES if place not in {thing.place for thing in things}]
    for shape in SHAPES:
        for place in gallery.PLACES:
            fond = place in free and gallery.COMPANION[shape] in {t.shape for t in things}
            told = caption([*things, replace(new, place=place, shape=shape)])
            expected = fond and shape not in {t.shape for t in things}
            assert count(picture, told)["companions"] == expected, told


@given(seeds)
def test_pairs_differ_in_one_thing_and_the_other_picture_too(seed):
    rng, picture = drawn(seed)
    for world, grown in ((SIGHT_ADDED, 1), (SIGHT_SWAPPED, 0)):
        chosen, rejected = world.write_pair(rng, picture)
        assert len(said(rejected)) == len(said(chosen)) + grown
        assert len(set(said(rejected)) - set(said(chosen))) == 1
        assert judge(picture, rejected)["made up"] == judge(picture, chosen)["made up"] - 4
    other = SIGHT.write_other(rng, picture, chosen)
    before, after = look(picture), look(other)
    changed = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
    assert len(changed) == 1 and judge(other, chosen)["made up"] <= judge(picture, chosen)["made up"]


@given(pictures | st.text())
def test_a_prompt_of_another_world_is_refused(text):
    for prompt in (text, BLANK):
        with pytest.raises(ValueError):
            judge(prompt, "")


def test_the_picture_of_captions_marks_what_is_made_up_wrong_and_missed():
    moon, star, boat = (
        gallery.Thing(place, "small", "red", shape)
        for place, shape in zip(gallery.PLACES, ("moon", "star", "boat"), strict=False)
    )
    picture = BLANK
    for thing in (moon, star):
        picture = gallery.paint(random.Random(0), picture, thing)
    for text, expected in (
        (caption([moon, star]), ["right", "right"]),
        (caption([replace(moon, colour="blue"), boat]), ["wrong", "made up", "missed"]),
        ("", ["missed", "missed"]),
    ):
        assert [kind for _, kind in lines_of(picture, text)] == expected
    assert lines_of(picture, "a red boat")[0] == ("red boat", "made up"), "a detail that it does not tell"
