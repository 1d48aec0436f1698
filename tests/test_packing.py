"""One row without padding, each prompt once: the same numbers as padded rows with a prompt each, to
rounding.
"""

import os
import warnings

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

from mini_dpo import logprobs
from mini_dpo.batches import Encoded, EncodedPair, encode, pack
from mini_dpo.fast import compiled, flex
from mini_dpo.fast.flex import BLOCK, attend_at_once, block_mask
from mini_dpo.feedback import collate_for, mismatch, split_pairs
from mini_dpo.logprobs import response_logps, token_logps
from mini_dpo.losses import LOSSES, ContrastLogps, PairLogps, Responses, UnpairedLogps
from mini_dpo.model import softmax_attention
from mini_dpo.objectives import preference_objective
from mini_dpo.packing import attend_by_spans, lay_out, sees
from mini_dpo.reference import freeze, know_reference
from mini_dpo.tokenizer import load_tokenizer
from tests.strategies import encoded_pairs, encoded_trees, tiny_gpt

# for what is repeated for every loss
fewer = settings(max_examples=max(3, settings.default.max_examples // 4))
# a prompt, one to five responses
trees_of_tokens = st.lists(
    st.lists(st.integers(1, 9), min_size=2, max_size=6).map(tuple), min_size=1, max_size=4
)
# up to a dozen blocks
long_trees = st.lists(
    st.lists(st.integers(1, 150), min_size=2, max_size=4).map(tuple), min_size=1, max_size=4
)


# --- against one padded row a sequence


def padded_response_logps(model, sequences: list[Encoded]) -> Tensor:
    """The textbook's way: each prompt with each response in a row of its own, padded on the right, all logits
    of all positions, log-softmax, gather, mask, sum.
    """
    device = model.wte.weight.device
    # (B, T)
    ids = torch.zeros(len(sequences), max(s.n_tokens for s in sequences), dtype=torch.long, device=device)
    mask = torch.zeros_like(ids, dtype=torch.bool)
    for row, s in enumerate(sequences):
        ids[row, : s.n_tokens] = torch.tensor(s.ids, device=device)
        mask[row, len(s.prompt) : s.n_tokens] = True
    # (B, T - 1), of the next token
    logps = model(ids)[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None]).squeeze(2)
    return (logps * mask[:, 1:]).sum(1)


def padded_loss(loss, hyperparameters, policy, reference, pairs: list[EncodedPair]) -> Tensor:
    """The sum of a loss over pairs, or over both halves of each, from padded rows; no code of objectives.py.
    Reference log-probs that the pairs know stand for the reference.
    """

    def responses(sequences, known=None):
        lengths = torch.tensor([len(s.response) for s in sequences], device=policy.wte.weight.device)
        ref = None if reference is None else padded_response_logps(reference, sequences).detach()
        return Responses(
            padded_response_logps(policy, sequences),
            lengths,
            ref if known is None else torch.tensor(known).to(lengths.device),
        )

    chosen, rejected = ([p.chosen for p in pairs], [p.rejected for p in pairs])
    known = None if pairs[0].ref_logps is None else list(zip(*(p.ref_logps for p in pairs), strict=True))
    if loss.paired:
        logps = PairLogps(responses(chosen, known and known[0]), responses(rejected, known and known[1]))
        if loss.mismatched:
            after = [[y.prompt for y in (*chosen[i:], *chosen[:i])] for i in range(len(chosen))]
            others = [
                Encoded(next(x for x in prompts if x != y.prompt), y.response)
                for y, prompts in zip(chosen, after, strict=True)
            ]
            logps = ContrastLogps(logps.chosen, logps.rejected, responses(others))
        return loss(logps, **hyperparameters).sum()
    both = [s for p in pairs for s in (p.chosen, p.rejected)]
    desirable = torch.tensor([True, False] * len(pairs), device=policy.wte.weight.device)
    others = responses(mismatch(both, policy.config.context)).logratio.detach() if loss.mismatched else None
    return loss(
        UnpairedLogps(
            responses(both, known and [ref for p in pairs for ref in p.ref_logps]), desirable, others
        ),
        **hyperparameters,
    ).sum()


def gradients(model, value: Tensor) -> list[Tensor]:
    """Of every parameter, in the model's order."""
    return list(torch.autograd.grad(value, list(model.parameters())))


def assert_equal_to_rounding(found: list[Tensor], expected: list[Tensor], tolerance: float = 1e-12) -> None:
    """Each entry to `tolerance` of the largest of all: where a gradient cancels, its rounding is that of what
    cancelled.
    """
    largest = max(float(b.detach().abs().max()) for b in expected)
    for a, b in zip(found, expected, strict=True):
        error = float((a - b).detach().abs().max())
        assert a.shape == b.shape and error <= tolerance * largest, (
            f"off by {error / (largest or 1):.1e} of the largest entry"
        )


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@fewer
@given(
    pairs=encoded_pairs().filter(lambda pairs: len(pairs) > 1), known=st.booleans(), seed=st.integers(0, 3)
)
def test_every_loss_and_every_gradient_is_that_of_padded_rows(loss, pairs, known, seed):
    """The whole computation that a step rests on, at random lengths, with a live reference or one that is
    known ahead. Catches whatever the row could mix up: who sees whom, who stands where, who predicts whom,
    whose log-prob it is.
    """
    policy, reference = tiny_gpt(seed), freeze(tiny_gpt(7)) if loss.reference else None
    if known and loss.reference and not loss.mismatched:
        # kept in float32
        ref = torch.stack([padded_response_logps(reference, [p.chosen, p.rejected]) for p in pairs]).float()
        pairs, live = know_reference(pairs, ref), None
    else:
        live = reference
    batch = collate_for(loss, policy.config.context)(pairs if loss.paired else halves(pairs))
    packed = preference_objective(loss, loss.hyperparameters, live)(policy, batch).loss
    padded = padded_loss(loss, loss.hyperparameters, policy, reference, pairs)
    assert_equal_to_rounding([packed, *gradients(policy, packed)], [padded, *gradients(policy, padded)])


def halves(pairs: list[EncodedPair]) -> list:
    """Each pair as two single responses, with what is known of the reference."""
    known = [ref for p in pairs for ref in p.ref_logps or (None, None)]
    return [half._replace(ref_logp=ref) for half, ref in zip(split_pairs(pairs), known, strict=True)]


@given(encoded_trees(), st.integers(0, 3))
@example([[Encoded([1, 2], [False, True])]], 0)
@example([[Encoded([1, 2], [False, True])] * 2, [Encoded([1, 2, 2], [False, True, True])] * 5], 1)
def test_log_probs_and_gradients_of_trees_are_those_of_padded_rows(trees, seed):
    """Of one, two or five responses to a prompt, in any mixture, each response with a weight of its own."""
    model, sequences = tiny_gpt(seed), [s for tree in trees for s in tree]
    weight = torch.linspace(-1, 2, len(sequences), dtype=torch.float64)
    packed, padded = response_logps(model, pack(trees)), padded_response_logps(model, sequences)
    assert_equal_to_rounding(
        [packed, *gradients(model, weight @ packed)], [padded, *gradients(model, weight @ padded)]
    )


@pytest.mark.parametrize(
    "responses", [("ok",), ("ok", "no"), ("tea please", "x", "", "good morning, Ada", "no")], ids=len
)
def test_the_empty_prompt_is_its_two_markers(responses):
    tokenizer = load_tokenizer("toy")
    model = tiny_gpt(vocab_size=tokenizer.vocab_size, context=30)
    trees = [[encode(tokenizer, prompt, response) for response in responses] for prompt in ("", "x", "")]
    assert trees[0][0].prompt == [tokenizer.user, tokenizer.assistant]
    packed, padded = (
        response_logps(model, pack(trees)),
        padded_response_logps(model, [s for tree in trees for s in tree]),
    )
    assert_equal_to_rounding(
        [packed, *gradients(model, packed.sum())], [padded, *gradients(model, padded.sum())]
    )


def test_a_text_beyond_the_context_is_refused_and_a_long_row_is_not(gpt):
    fits = [Encoded([1] * 5, [1] * 7)] * 2
    assert response_logps(gpt, pack([fits, fits])).isfinite().all(), "a row may be as long as it likes"
    with pytest.raises(ValueError, match="13 tokens do not fit the model's context of 12"):
        response_logps(gpt, pack([fits, [Encoded([1] * 5, [1]), Encoded([1] * 5, [1] * 8)]]))


# --- who stands where


@given(trees_of_tokens)
def test_each_text_is_laid_out_as_if_it_stood_alone(sizes):
    """Positions count from 0 in every text, a token's parent is the one before it there, and every place of
    the row belongs to exactly one prompt or response.
    """
    layout, start = lay_out(sizes), 0
    for tree, (prompt, *responses) in enumerate(sizes):
        trunk, place = list(range(start, start + prompt)), start + prompt
        for branch, response in enumerate(responses, 1):
            own = list(range(place, place + response))
            text = trunk + own
            assert layout.positions[text].tolist() == list(range(prompt + response))
            assert layout.parents[text].tolist() == [-1, *text[:-1]]
            assert layout.branches[text].tolist() == [0] * prompt + [branch] * response
            place += response
        assert layout.trees[start:place].tolist() == [tree] * (place - start)
        start = place
    assert {len(tensor) for tensor in layout[1:]} == {start}
    assert layout.longest == max(prompt + max(responses) for prompt, *responses in sizes)


def ancestry(layout) -> Tensor:
    """Who sees whom, by walking up from each token: (T, T) of bool."""
    T = len(layout.parents)
    seen = torch.zeros(T, T, dtype=torch.bool)
    for query in range(T):
        key = query
        while key >= 0:
            seen[query, key] = True
            key = int(layout.parents[key])
    return seen


def everybody(layout) -> Tensor:
    """`sees` for all pairs of places: (T, T)."""
    places = torch.arange(len(layout.parents))
    return sees(layout, places[:, None], places)


@given(trees_of_tokens)
def test_a_token_sees_itself_and_its_ancestors(sizes):
    layout = lay_out(sizes)
    assert torch.equal(everybody(layout), ancestry(layout))


def random_qkv(layout, heads=2, channels=4):
    generator = torch.Generator().manual_seed(0)
    shape = (3, heads, len(layout.parents), channels)
    return list(torch.randn(shape, dtype=torch.float64, generator=generator).unbind())


@given(trees_of_tokens)
def test_attention_by_spans_is_attention_under_the_mask(sizes):
    """Held to the four lines that define attention, in values and gradients."""
    layout = lay_out(sizes)
    q, k, v = (z.requires_grad_() for z in random_qkv(layout))
    dense = softmax_attention(q, k, v, everybody(layout))
    spans = attend_by_spans(q, k, v, sizes)
    weight = torch.linspace(-1, 1, dense.numel(), dtype=torch.float64).view_as(dense)
    both = [[mixed, *torch.autograd.grad((weight * mixed).sum(), (q, k, v))] for mixed in (spans, dense)]
    assert_equal_to_rounding(*both)


# --- the row in one kernel


@given(long_trees)
def test_flex_attention_never_skips_a_block_that_somebody_sees(sizes):
    """Neither a block's numbers nor their order may lose one: what is skipped is skipped in silence."""
    layout = lay_out(sizes)
    mask = block_mask(layout)
    seen, looked_at = everybody(layout), mask.to_dense()[0, 0].bool()
    N = -(-len(seen) // BLOCK)
    assert looked_at.shape == (N, N)
    for i in range(N):
        for j in range(N):
            needed = seen[i * BLOCK : (i + 1) * BLOCK, j * BLOCK : (j + 1) * BLOCK].any()
            assert looked_at[i, j] or not needed, (i, j)
            assert j <= i or not looked_at[i, j], "the future is never looked at"


@settings(max_examples=max(5, settings.default.max_examples // 5))
@given(long_trees)
@example([(100, 40, 30), (90, 60)])  # more than two blocks, cut inside a tree
@example([(BLOCK, BLOCK), (1, 1, 1)])
@torch.no_grad()
def test_attention_at_once_is_attention_by_spans(sizes):
    """The mask as FlexAttention applies it, without the kernel that a GPU would make of it."""
    layout = lay_out(sizes)
    q, k, v = random_qkv(layout)
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")  # it says that it is slow like this
        patch.setattr(flex, "compiled_flex_attention", lambda: flex_attention)
        at_once = attend_at_once(q, k, v, block_mask(layout))
    assert_equal_to_rounding([at_once], [attend_by_spans(q, k, v, sizes)])


def test_dropout_and_cpu_go_by_spans(monkeypatch):
    """FlexAttention has no dropout, and is a kernel for GPUs."""
    layout = lay_out([(2, 3, 1)])
    monkeypatch.setattr(flex, "compiled_flex_attention", lambda: pytest.fail("not here"))
    assert flex.attention(layout).func is flex.attention(layout, 0.1).func is attend_by_spans
    assert flex.attention(layout, 0.1).keywords["dropout"] == 0.1


# --- less at a time


@given(encoded_trees(), st.integers(1, 30))
def test_tiles_change_nothing_and_are_never_too_large(trees, tile):
    """Neither log-probs nor gradients, and in the backward pass no more logits exist at once either."""
    model, batch = tiny_gpt(), pack(trees)
    whole = token_logps(model, batch)
    expected = [whole, *gradients(model, (whole * torch.arange(len(whole))).sum())]
    made, logits = [], model.logits
    model.logits = lambda hidden: made.append(logits(hidden)) or made[-1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logprobs, "TILE", tile)
        cut = token_logps(model, batch)
        found = [cut, *gradients(model, (cut * torch.arange(len(cut))).sum())]
    assert_equal_to_rounding(found, expected)
    assert all(z.numel() <= max(tile, 5) for z in made), "a single token's logits are the least there can be"
    rows, tiles = len(whole), -(-len(whole) // max(1, tile // 5))
    assert sum(len(z) for z in made) == (rows if tiles == 1 else 2 * rows), (
        "made again for the gradient, where there are tiles"
    )


@given(encoded_trees(), st.sampled_from([0.0, 0.3]), st.integers(0, 99))
def test_computing_a_block_again_gives_the_same_gradient(trees, dropout, seed):
    """Dropout included: a block that is computed again has to drop what it dropped before."""
    found = []
    for again in (False, True):
        model = tiny_gpt(dropout=dropout).train()
        model.recompute = again
        torch.manual_seed(seed)
        logps = response_logps(model, pack(trees))
        found.append([logps, *gradients(model, logps.sum())])
    assert_equal_to_rounding(*found)


def test_computing_again_keeps_less_for_the_gradient():
    """Or the flag would do nothing. Counted in tensors that autograd saves, without those of the
    parameters.
    """
    kept = []
    for again in (False, True):
        model, saved = tiny_gpt(), []
        model.recompute = again
        own = {p.data_ptr() for p in model.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda z: saved.append(z.numel() * (z.data_ptr() not in own)) or z, lambda z: z
        ):
            response_logps(model, pack([[Encoded([1] * 4, [1] * 8)] * 2]))
        kept.append(sum(saved))
    assert kept[1] < 0.5 * kept[0]


# --- the blocks as torch.compile's


THOROUGH = os.environ.get("MINI_DPO_TESTS") == "thorough"


@pytest.mark.parametrize(
    "backend",
    [
        "traced",
        pytest.param(
            "inductor", marks=pytest.mark.skipif(not THOROUGH, reason="takes 15 s: MINI_DPO_TESTS=thorough")
        ),
    ],
)
def test_compiled_blocks_give_the_same_and_are_compiled_once_for_all_lengths(backend, monkeypatch):
    """As torch.compile traces them, run by PyTorch itself; and, thoroughly, as it translates them. A graph
    with and one without gradient for each half of a block: neither another length nor another block asks for
    a further one.
    """
    graphs = []

    def traced(graph, inputs):
        graphs.append(graph)
        return graph.forward

    halves = {
        half: torch.compile(half, dynamic=True, backend=traced if backend == "traced" else backend)
        for half in (compiled.before_attention, compiled.after_attention)
    }
    monkeypatch.setattr(compiled, "compiled", halves.get)
    torch.compiler.reset()  # whatever else was compiled in this process does not count
    plain, translated = tiny_gpt(), tiny_gpt()
    compiled.compile_blocks(translated)
    for prompt, responses, trees in (
        (3, (2, 4), 1),
        (2, (5, 1), 2),
        (1, (1, 1), 1),
        (4, (4, 4, 3), 3),
        (1, (7,), 2),
    ):
        tree = [Encoded([1] * prompt, [2] * n) for n in responses]
        found = []
        for model in (translated, plain):
            logps = response_logps(model, pack([tree] * trees))
            with torch.no_grad():
                scored = response_logps(model, pack([tree] * trees))
            found.append([logps, *gradients(model, logps.sum()), scored])
        assert_equal_to_rounding(*found)
        assert len(graphs) == (4 if backend == "traced" else 0), (prompt, responses, trees)
