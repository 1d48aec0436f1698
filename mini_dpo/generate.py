"""Sampling from a model, many prompts at a time, with a key/value cache."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from mini_dpo.errors import UserError
from mini_dpo.model import GPT


@torch.no_grad()
def generate(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    *,
    end_of_text: int,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | Sequence[int] = 0,
    batch_size: int = 128,
    watch: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> list[list[int]]:
    """Continue each prompt until end-of-text (which is kept in the result), `max_new_tokens`, or the end of
    the context.

    Row i draws its tokens with random numbers of its own. They do not depend on the other rows or on the
    batch.
    seed: one for all rows together, or one for each row. A row with a seed of its own draws the same tokens
        alone.
    temperature: divides the logits; 0 takes the likeliest token.
    top_k: only the k likeliest tokens.
    top_p: only the fewest likeliest tokens with this much probability together (arXiv:1904.09751).
    watch: is given the numbers of the first rows of all batches, and yields them; for progress.
    Raises UserError for a prompt that leaves no room for a response, ValueError for settings out of range.
    """
    check_settings(temperature, top_k, top_p)
    for prompt in prompts:
        check_room(model, prompt)

    def draw(seed: int, rows: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.rand(rows, max_new_tokens, generator=generator, dtype=torch.float64)

    if isinstance(seed, int):
        uniforms = draw(seed, len(prompts))  # (N, max_new_tokens)
    else:
        uniforms = torch.cat([draw(own, 1) for own in seed])
    choose = partial(sample, temperature=temperature, top_k=top_k, top_p=top_p)
    responses: list[list[int]] = []
    was_training = model.training
    model.eval()
    for i in watch(range(0, len(prompts), batch_size)):
        rows = slice(i, i + batch_size)
        responses += continue_batch(model, prompts[rows], uniforms[rows], end_of_text, choose)
    model.train(was_training)
    return responses


def check_room(model: GPT, prompt: Sequence[int], place: str = "the prompt") -> None:
    """Raise UserError for a prompt that leaves no room for a response. place: names the prompt."""
    if len(prompt) >= model.config.context:
        raise UserError(
            f"{place} has {len(prompt)} tokens and the model's context "
            f"{model.config.context}: no room for a response"
        )


def check_settings(temperature: float, top_k: int | None, top_p: float | None) -> None:
    """Raise ValueError for a setting out of range."""
    if temperature < 0:
        raise ValueError(f"temperature must be at least 0, not {temperature}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, not {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p must be in (0, 1], not {top_p}")


def continue_batch(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    uniforms: Tensor,
    end_of_text: int,
    choose: Callable[[Tensor, Tensor], Tensor],
) -> list[list[int]]:
    """Read the prompts in one pass, then write one token a step for all rows. Returns the responses.
    uniforms: (B, max_new_tokens), the random numbers. choose: logits (B, V) and uniforms (B,) to tokens (B,).
    """
    device, context = model.wte.weight.device, model.config.context
    lengths = torch.tensor([len(p) for p in prompts])  # (B,)
    longest, n_new = int(lengths.max()), uniforms.shape[1]
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)  # (B, T), padded on the right
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = torch.tensor(prompt)
    cache = empty_cache(model, len(prompts), min(longest + n_new, context))
    positions = torch.arange(longest).expand(len(prompts), longest)
    hidden = read_on(model, ids.to(device), positions.to(device), cache)  # (B, T, C)
    last = hidden[torch.arange(len(prompts)), lengths - 1]  # (B, C), at each prompt's own last token
    responses: list[list[int]] = [[] for _ in prompts]
    open_rows = torch.ones(len(prompts), dtype=torch.bool)
    for step in range(n_new):
        tokens = choose(model.logits(last).cpu(), uniforms[:, step])  # (B,)
        for row in open_rows.nonzero().flatten().tolist():
            responses[row].append(int(tokens[row]))
        positions = lengths + step  # (B,), where the new tokens stand
        open_rows &= (tokens != end_of_text) & (positions + 1 < context)
        if not open_rows.any() or step == n_new - 1:
            break
        positions = positions.clamp(max=cache.shape[4] - 1)  # finished rows write into the last place
        hidden = read_on(model, tokens[:, None].to(device), positions[:, None].to(device), cache)
        last = hidden[:, 0]  # (B, C)
    return responses


def empty_cache(model: GPT, rows: int, places: int) -> Tensor:
    """Room for the keys and values of `places` positions of `rows` sequences: (n_layer, 2, B, H, S, D)."""
    n_head, n_embd = model.config.n_head, model.config.n_embd
    return model.wte.weight.new_zeros(len(model.h), 2, rows, n_head, places, n_embd // n_head)


def read_on(model: GPT, ids: Tensor, positions: Tensor, cache: Tensor) -> Tensor:
    """`GPT.hidden` of tokens that continue what is in the cache: ids and positions (B, T) -> (B, T, C)."""
    attends = [partial(remember, cache=cache[i], positions=positions) for i in range(len(cache))]
    return model.stream(ids, positions, attends)


def remember(q: Tensor, k: Tensor, v: Tensor, cache: Tensor, positions: Tensor) -> Tensor:
    """Write new keys and values into the cache of a layer, (2, B, H, S, D), and attend to all: (B, H, T, D).

    Place s of a row in the cache is position s, so a query at position p sees the places 0..p. Later places
    are empty or belong to padding. Padding is on the right of the text, and the next real token overwrites
    it.
    """
    rows = torch.arange(len(positions), device=positions.device)[:, None]  # (B, 1)
    cache[0][rows, :, positions] = k.transpose(1, 2)
    cache[1][rows, :, positions] = v.transpose(1, 2)
    places = torch.arange(cache.shape[3], device=positions.device)  # (S,)
    seen = places <= positions[:, None, :, None]  # (B, 1, T, S)
    return F.scaled_dot_product_attention(q, cache[0], cache[1], attn_mask=seen)


def sample(
    logits: Tensor, uniforms: Tensor, temperature: float, top_k: int | None, top_p: float | None
) -> Tensor:
    """Choose one token a row by inverting the distribution function: logits (B, V), uniforms (B,) in [0, 1)
    -> (B,).
    """
    if temperature == 0:
        return logits.argmax(-1)
    logits, order = logits.double() / temperature, None  # (B, V)
    if top_k is not None or top_p is not None:
        # (B, V), likeliest first; costly, so only where it is needed
        logits, order = logits.sort(descending=True)
    if top_k is not None:
        logits[:, top_k:] = -torch.inf
    probabilities = logits.softmax(-1)  # (B, V)
    if top_p is not None:
        before = probabilities.cumsum(-1) - probabilities  # (B, V), the probability of all likelier tokens
        probabilities = probabilities.masked_fill(before >= top_p, 0)
    cumulative = probabilities.cumsum(-1)  # (B, V)
    threshold = uniforms[:, None] * cumulative[:, -1:]  # (B, 1)
    choice = torch.searchsorted(cumulative, threshold, right=True).clamp(max=logits.shape[1] - 1)  # (B, 1)
    return (choice if order is None else order.gather(1, choice)).squeeze(1)
