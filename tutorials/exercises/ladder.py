"""The ladder: your answers in the place of the package's pieces, one by one, until all of it is yours.

python -m tutorials.exercises ladder               in the tea house, whose optimum is known
python -m tutorials.exercises ladder --shop RUN    the whole of it on the toy shop, from RUN's SFT model
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from statistics import fmean
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mini_dpo import exact
from mini_dpo.batches import Encoded, collate
from mini_dpo.claims.worlds import tea_house
from mini_dpo.logprobs import response_logps
from mini_dpo.losses import LOSSES
from mini_dpo.model import GPT
from mini_dpo.optimizers import LoopConfig, learning_rate
from mini_dpo.reference import freeze
from mini_dpo.theory.bradley_terry import kl, optimal_policy, preference_probability
from mini_dpo.theory.tabular import pairs_of

BETA, STEPS, WARMUP, LR = 0.5, 400, 20, 3e-3  # those of `python -m mini_dpo.exact`
LANDED = 1e-6  # nats
DRAWS = 2000  # responses to a prompt, to see the sampler


class Pieces(NamedTuple):
    """The reader's functions; None is the package's own piece."""

    lay_out: Callable | None = None  # exercise 2.2, the mask
    batch_logps: Callable | None = None  # 22.1, the log-probs
    dpo_loss: Callable | None = None  # 5.2, the loss
    adam_step: Callable | None = None  # 22.2, the step
    learning_rate: Callable | None = None  # 6.2, its rate
    respond: Callable | None = None  # 22.3, the sampler


# of each piece, its chapter and what it is
PIECES = {
    "lay_out": (2, "your mask"),
    "batch_logps": (22, "your log-probs"),
    "dpo_loss": (5, "your loss"),
    "adam_step": (22, "your step"),
    "learning_rate": (6, "your learning rate"),
    "respond": (22, "your sampler"),
}
RUNGS = {name: f"{title} (chapter {chapter})" for name, (chapter, title) in PIECES.items()}
SURE = 4.0  # standard errors


def climb(mine: Pieces, steps: int = STEPS) -> Iterator[tuple[str, float]]:
    """(the name of a rung, how far training ends from the optimum in nats), beginning with the package alone.
    Each rung keeps the pieces of those below it. The last one is the distance of 2,000 draws a prompt from
    what they should be, in standard errors.
    """
    pieces = Pieces()
    policy = train_in_the_tea_house(pieces, steps)
    yield "the package alone", distance(policy)
    for name, title in RUNGS.items():
        if getattr(mine, name) is None:
            return
        pieces = pieces._replace(**{name: getattr(mine, name)})
        if name == "respond":
            yield title, surprise(policy, getattr(mine, name))
        else:
            policy = train_in_the_tea_house(pieces, steps)
            yield title, distance(policy)


# --- the tea house


RESPONSES = exact.list_responses()


def distance(policy: GPT) -> float:
    """KL(optimum || policy) in nats, the worse of the two prompts; the package measures."""
    house = tea_house(0)
    optimum = optimal_policy(house.ref, house.reward, BETA)
    return float(kl(optimum, house.score(policy).detach()).max())


def train_in_the_tea_house(pieces: Pieces, steps: int) -> GPT:
    """DPO on every ordered pair of responses, each with the weight P(chosen over rejected)."""
    reference, reward = tea_house(0).reference, tea_house(0).reward
    policy = freeze(reference).requires_grad_(True)
    rows = laid_out(pieces.lay_out)
    w, l = map(list, zip(*itertools.permutations(range(len(RESPONSES)), 2), strict=True))
    weights = preference_probability(reward[:, w], reward[:, l])  # (2, pairs)
    with torch.no_grad():
        ref = score(pieces.batch_logps, reference, rows)  # (2, K)
    take_step = stepper(pieces, policy, steps)
    for step in range(steps):
        logps = score(pieces.batch_logps, policy, rows)  # (2, K)
        losses = loss_of(pieces.dpo_loss, logps, ref, w, l)  # (2, pairs)
        take_step(step, 2 * (weights * losses).mean())  # each pair of responses is there in two orders
    return policy


def laid_out(lay_out: Callable | None) -> list[tuple[list[int], list[bool]]]:
    """(ids, mask) of every response to every prompt. A response of three words has no room for its end."""
    rows = []
    for prompt, response in itertools.product(exact.PROMPTS, RESPONSES):
        if lay_out is None:
            rows.append((prompt + response, [False] * len(prompt) + [True] * len(response)))
        else:
            words = [token for token in response if token != exact.END]
            ids, mask = lay_out(list(prompt), words, exact.END)
            rows.append((ids[: exact.MODEL.context], mask[: exact.MODEL.context]))
    return rows


def score(batch_logps: Callable | None, model: GPT, rows: list[tuple[list[int], list[bool]]]) -> Tensor:
    """The log-probs of the tea house's responses: (2, K)."""
    if batch_logps is None:
        cut = [(ids, mask.index(True)) for ids, mask in rows]
        logps = response_logps(model, collate([Encoded(ids[:n], ids[n:]) for ids, n in cut]))
    else:
        ids, mask = padded(rows)
        logps = batch_logps(model(ids), ids, mask)
    return logps.view(len(exact.PROMPTS), -1)


def padded(rows: list[tuple[list[int], list[bool]]]) -> tuple[Tensor, Tensor]:
    """Rows of one length: (ids, mask), (B, T) each."""
    T = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([ids + [0] * (T - len(ids)) for ids, _ in rows])
    mask = torch.tensor([[bool(m) for m in mask] + [False] * (T - len(mask)) for _, mask in rows])
    return ids, mask


def loss_of(dpo_loss: Callable | None, logps: Tensor, ref: Tensor, w: list[int], l: list[int]) -> Tensor:
    """The loss of each pair: (..., K), (..., K) -> (..., pairs)."""
    if dpo_loss is not None:
        return dpo_loss(logps[..., w], logps[..., l], ref[..., w], ref[..., l], BETA)
    both = torch.tensor(w), torch.tensor(l)
    rows = zip(logps, ref, strict=True)
    return torch.stack([LOSSES["dpo"](pairs_of(p, r, *both), beta=BETA) for p, r in rows])


def stepper(pieces: Pieces, policy: GPT, steps: int, lr: float = LR) -> Callable[[int, Tensor], None]:
    """A function that takes step number k for a loss."""
    warmup = min(WARMUP, steps // 10)
    config = LoopConfig(steps=steps, lr=lr, warmup=warmup)
    parameters = list(policy.parameters())
    optimizer = torch.optim.Adam(parameters, betas=(0.9, 0.95))
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in parameters]

    def take_step(k: int, loss: Tensor) -> None:
        rate = learning_rate(k, config)
        if pieces.learning_rate is not None:
            rate = pieces.learning_rate(k, steps, warmup, lr)
        gradients = torch.autograd.grad(loss, parameters)
        for i, (p, gradient) in enumerate(zip(parameters, gradients, strict=True)):
            p.grad = gradient
            if pieces.adam_step is not None:
                value, *moments[i] = pieces.adam_step(p.detach(), gradient, *moments[i], k + 1, rate)
                p.data.copy_(value)
        if pieces.adam_step is None:
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step()

    return take_step


def surprise(policy: GPT, respond: Callable) -> float:
    """How far the mean reward of drawn responses is from the policy's, in standard errors."""
    rng = random.Random(0)
    logps, reward = exact.score_all(policy, RESPONSES), tea_house(0).reward  # (2, K)
    worst = 0.0
    for i, prompt in enumerate(exact.PROMPTS):
        told = lru_cache(lambda ids: next_probabilities(policy, ids))
        found = []
        for _ in range(DRAWS):
            drawn = respond(lambda ids: told(tuple(ids)), list(prompt), exact.END, 3, iter(rng.random, None))
            found.append(float(reward[i, RESPONSES.index(drawn)]))
        p = logps[i].exp()
        mean = float(p @ reward[i])
        deviation = float(p @ (reward[i] - mean) ** 2) ** 0.5
        worst = max(worst, abs(fmean(found) - mean) / (deviation / DRAWS**0.5))
    return worst


@torch.no_grad()
def next_probabilities(model: GPT, ids: tuple[int, ...]) -> list[float]:
    """The probabilities of the token after ids."""
    return model(torch.tensor([ids]))[0, -1].double().softmax(-1).tolist()


# --- the shop


def align_the_shop(mine: Pieces, model: GPT, corpus: Any, tokenizer: Any, say: Callable = print) -> None:
    """One pass over the shop's preferences with nothing but the reader's pieces, and what that gained."""
    assert mine.lay_out and mine.batch_logps and mine.dpo_loss and mine.respond
    reference, policy = freeze(model), freeze(model).requires_grad_(True)
    pairs, size = corpus.preferences, 32
    steps = len(pairs) // size
    take_step = stepper(mine, policy, steps, lr=3e-4)
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0)).tolist()
    say(f"before: {mean_reward(mine, policy, corpus, tokenizer):.2f}, the mean true reward of 64 answers")
    for step in range(steps):
        batch = [pairs[i] for i in order[step * size : (step + 1) * size]]
        sides = [side for pair in batch for side in (pair.chosen, pair.rejected)]
        rows = [mine.lay_out(list(s.prompt), list(s.response[:-1]), s.response[-1]) for s in sides]
        ids, mask = padded(rows)
        logps = mine.batch_logps(policy(ids), ids, mask)  # (2B,)
        with torch.no_grad():
            ref = mine.batch_logps(reference(ids), ids, mask)  # (2B,)
        loss = mine.dpo_loss(logps[0::2], logps[1::2], ref[0::2], ref[1::2], 0.3).mean()
        take_step(step, loss)
        if (step + 1) % (steps // 5 or 1) == 0:
            say(f"step {step + 1}/{steps}  loss {float(loss.detach()):.3f}", flush=True)
    say(f"after:  {mean_reward(mine, policy, corpus, tokenizer):.2f}")


def mean_reward(mine: Pieces, policy: GPT, corpus: Any, tokenizer: Any, n: int = 64) -> float:
    """The mean true reward of an answer to each of n held-out prompts."""
    assert mine.respond
    rng, rewards = random.Random(0), []
    for prompt in corpus.held_out.prompts[:n]:
        ids = tokenizer.encode_prompt(prompt)
        probabilities = partial(next_probabilities, policy)
        drawn = mine.respond(probabilities, ids, tokenizer.end_of_text, 80, iter(rng.random, None))
        rewards.append(sum(corpus.held_out.judge(prompt, tokenizer.decode_response(drawn)).values()))
    return fmean(rewards)
