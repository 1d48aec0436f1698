"""The GPT against a loop-by-loop oracle, and the properties that training and decoding rest on."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mini_dpo.generate import empty_cache, read_on
from mini_dpo.model import GPT, PRESETS, GPTConfig, causal, softmax_attention
from mini_dpo.tokenizer import load_tokenizer
from tests.oracles import gpt2_logits
from tests.strategies import seeds, tiny_gpt


def random_ids(seed: int, B: int, T: int, V: int = 5) -> torch.Tensor:
    return torch.randint(V, (B, T), generator=torch.Generator().manual_seed(seed))


@given(seeds, st.integers(1, 8))
def test_forward_is_gpt2_s_to_the_last_digit(seed, T):
    """Catches: exact GELU for tanh, post-LayerNorm, a missing 1/sqrt(D), heads mixed up, an untied output
    matrix.
    """
    model = tiny_gpt(seed % 5)
    ids = random_ids(seed, 1, T)
    expected = torch.from_numpy(gpt2_logits(model, ids[0].tolist()))
    torch.testing.assert_close(model(ids)[0], expected, rtol=1e-10, atol=1e-10)


@given(seeds, st.integers(2, 10), st.data())
def test_a_later_token_never_changes_an_earlier_logit(seed, T, data):
    model = tiny_gpt()
    ids = random_ids(seed, 2, T)
    t = data.draw(st.integers(1, T - 1))
    changed = ids.clone()
    changed[:, t:] = (changed[:, t:] + 1) % 5
    torch.testing.assert_close(model(ids)[:, :t], model(changed)[:, :t], rtol=0, atol=1e-12)
    assert not torch.allclose(model(ids)[:, t:], model(changed)[:, t:])


@given(seeds, st.integers(1, 9), st.integers(1, 5))
def test_torch_s_kernel_is_attention_as_it_is_written_out(seed, T, D):
    """Values and gradients; a kernel with another scale, or a mask off by one, differs."""
    torch.manual_seed(seed)
    q, k, v = (torch.randn(2, 3, T, D, dtype=torch.float64, requires_grad=True) for _ in range(3))
    seen = torch.ones(T, T, dtype=torch.bool).tril()
    found = []
    for mixed in (causal(q, k, v), softmax_attention(q, k, v, seen)):
        found.append([mixed, *torch.autograd.grad((mixed**2).sum(), (q, k, v))])
    for fast, plain in zip(*found, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-10, atol=1e-12)


@given(seeds, st.integers(1, 4), st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_reading_in_pieces_with_a_cache_equals_reading_at_once(seed, B, pieces):
    model = tiny_gpt()
    T = min(sum(pieces), 12)
    ids = random_ids(seed, B, T)
    cache = empty_cache(model, B, T)
    outputs, start = [], 0
    for piece in pieces:
        stop = min(start + piece, T)
        if start < stop:
            positions = torch.arange(start, stop).expand(B, -1)
            outputs.append(read_on(model, ids[:, start:stop], positions, cache))
        start = stop
    torch.testing.assert_close(torch.cat(outputs, 1), model.hidden(ids), rtol=0, atol=1e-11)


@given(seeds, st.lists(st.integers(1, 8), min_size=1, max_size=5), st.integers(0, 3))
def test_a_batch_equals_its_rows_and_right_padding_changes_nothing(seed, lengths, extra):
    model = tiny_gpt()
    T = max(lengths) + extra
    ids = random_ids(seed, len(lengths), T)
    together = model(ids)
    for row, length in enumerate(lengths):
        alone = model(ids[row : row + 1, :length])[0]
        torch.testing.assert_close(together[row, :length], alone, rtol=0, atol=1e-11)


@torch.no_grad()
def test_probabilities_of_all_strings_of_every_length_sum_to_one(gpt):
    for n in range(1, 5):
        strings = torch.tensor(list(itertools.product(range(5), repeat=n)))
        ids = torch.cat([torch.zeros(len(strings), 1, dtype=torch.long), strings], 1)
        logps = gpt(ids[:, :-1]).log_softmax(-1).gather(2, strings[..., None]).sum((1, 2))
        assert float(logps.exp().sum()) == pytest.approx(1, abs=1e-12)


def test_gpt2_has_as_many_parameters_as_gpt2():
    with torch.device("meta"):
        assert sum(p.numel() for p in GPT(PRESETS["gpt2"]).parameters()) == 124_439_808


def test_the_toy_preset_fits_the_toy_vocabulary():
    assert PRESETS["toy"].vocab_size == load_tokenizer("toy").vocab_size


def test_initialisation_is_gpt2_s():
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=300, context=300, n_layer=3, n_head=2, n_embd=64))
    for name, p in model.named_parameters():
        if name.endswith("bias"):
            assert p.abs().max() == 0, name
        elif "ln_" in name:
            assert (p == 1).all(), name
        else:
            std = 0.01 if name == "wpe.weight" else 0.02 / 6**0.5 if name.endswith("c_proj.weight") else 0.02
            assert float(p.detach().std()) == pytest.approx(std, rel=0.05), name


def test_dropout_is_noise_in_training_and_absent_otherwise():
    model = tiny_gpt(dropout=0.5)
    ids = random_ids(0, 2, 6)
    assert torch.equal(model(ids), model(ids))
    torch.testing.assert_close(model(ids), tiny_gpt(dropout=0.0)(ids))
    model.train()
    assert not torch.allclose(model(ids), model(ids))


def test_impossible_shapes_are_refused():
    for wrong in (
        dict(n_embd=10, n_head=3),
        dict(n_layer=0),
        dict(vocab_size=0),
        dict(dropout=1.0),
        dict(context=-1),
    ):
        with pytest.raises(ValueError):
            GPTConfig(**{**vars(PRESETS["toy"]), **wrong})


def test_text_beyond_the_context_is_refused(gpt):
    with pytest.raises(ValueError, match="13 tokens do not fit the model's context of 12"):
        gpt(random_ids(0, 1, 13))
