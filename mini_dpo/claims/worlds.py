"""The worlds in which claims are measured: small enough that the best policy is known, and every expectation
is a sum.

A `World` is K responses to one prompt, and a policy is log-linear in features of them: ref exp(phi theta) /
Z. With one feature for each response it is a table, which can be any policy. The `TeaHouse` is the world of
mini_dpo/exact.py: fifteen strings to each of two prompts, and the project's own GPT.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import lru_cache
from io import StringIO

import torch
from torch import Tensor
from torch.nn import functional as F

from mini_dpo.batches import Batch
from mini_dpo.exact import every_response, list_responses, make_reference, make_reward, score_all
from mini_dpo.logprobs import response_logps
from mini_dpo.losses import PairLogps
from mini_dpo.model import GPT
from mini_dpo.objectives import Outcome
from mini_dpo.optimizers import LoopConfig
from mini_dpo.reference import freeze
from mini_dpo.theory.bradley_terry import objective, preference_probability
from mini_dpo.theory.tabular import descend, draw_comparisons, minimise, pairs_of
from mini_dpo.training import train

Pairs = tuple[Tensor, Tensor]  # which responses won and which lost, (n,) of whole numbers each


def normal(*shape: int, seed: int) -> Tensor:
    """Standard normal numbers of a shape, in float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@dataclass(frozen=True)
class World:
    """K responses to one prompt. ref: log-probs, (K,). reward: (K,). features: of the policy, (K, d)."""

    ref: Tensor
    reward: Tensor
    features: Tensor

    @property
    def zero(self) -> Tensor:
        """The weights of the reference: (d,)."""
        return self.features.new_zeros(self.features.shape[1])

    def policy(self, theta: Tensor) -> Tensor:
        """log pi = log ref + phi theta - log Z: (d,) -> (K,)."""
        return (self.ref + self.features @ theta).log_softmax(-1)

    def pairs(self, n: int, seed: int) -> Pairs:
        """n comparisons: responses from the reference, labels from Bradley-Terry with the true reward."""
        return draw_comparisons(self.ref, self.reward, n, seed)

    def every_pair(self) -> tuple[Pairs, Tensor]:
        """(Each two responses in both orders, and how many people label them so.) The weights are
        P(chosen over rejected), (n,): these are all labels there can be, so that nothing is left to chance.
        """
        w, l = (~torch.eye(len(self.ref), dtype=torch.bool)).nonzero().T
        return (w, l), preference_probability(self.reward[w], self.reward[l])

    def fit(
        self,
        loss: Callable[[PairLogps], Tensor],
        pairs: Pairs,
        weights: Tensor | float = 1.0,
        lengths: Tensor | None = None,
        ref: Tensor | None = None,
        steps: int | None = None,
    ) -> Tensor:
        """log pi of the policy that minimises the mean loss of the comparisons: (K,).

        weights: of the comparisons, (n,). lengths: of the responses, (K,). ref: what the loss is told of the
        reference, (K,), where that is not the truth. steps: of plain gradient descent, for a loss that may
        have no minimum.
        """
        told = self.ref if ref is None else ref

        def risk(theta: Tensor) -> Tensor:
            return (weights * loss(pairs_of(self.policy(theta), told, *pairs, lengths))).mean()

        if steps:
            return self.policy(descend(risk, self.zero, steps, lr=0.3)[-1])
        return self.policy(minimise(risk, self.zero))

    def fit_reward(self, pairs: Pairs, features: Tensor) -> Tensor:
        """The reward model, linear in `features` (K, e), under which the labels are most likely: (K,)."""
        w, l = pairs
        start = features.new_zeros(features.shape[1])
        return features @ minimise(
            lambda x: -F.logsigmoid((features @ x)[w] - (features @ x)[l]).mean(), start
        )

    def best(self, reward: Tensor, beta: float) -> Tensor:
        """log pi of the policy with the greatest J under a reward (K,), among those that the features allow:
        (K,).
        """
        return self.policy(
            minimise(lambda theta: -objective(self.policy(theta), self.ref, reward, beta), self.zero)
        )


def table(seed: int, K: int = 8, spread: float = 1.0) -> World:
    """A random reference and a random reward (of this standard deviation), and policies that are free."""
    return World(
        normal(K, seed=2 * seed).log_softmax(-1),
        spread * normal(K, seed=2 * seed + 1),
        torch.eye(K, dtype=torch.float64),
    )


def log_linear(seed: int, K: int = 64, d: int = 8, spread: float = 1.5) -> World:
    """K responses with d random features; the true reward is linear in them."""
    features = normal(K, d, seed=3 * seed)
    weights = normal(d, seed=3 * seed + 1)
    reward = features @ weights
    return World(normal(K, seed=3 * seed + 2).log_softmax(-1), spread * reward / reward.std(), features)


@dataclass(frozen=True)
class TeaHouse:
    """Two prompts, and all K = 15 responses to each. ref: log-probs, (2, K). reward: (2, K)."""

    reference: GPT
    batch: Batch
    ref: Tensor
    reward: Tensor

    def train(self, risk: Callable[[Tensor], Tensor], steps: int, lr: float = 3e-3) -> Tensor:
        """Train a copy of the reference in the project's own loop. risk: the log-probs of all responses,
        (2, K), to a scalar. Returns what the trained model's log-probs are: (2, K).
        """
        policy = freeze(self.reference).requires_grad_(True)

        def step(model: GPT, batch: Batch) -> Outcome:
            return Outcome(risk(self.score(model)), 1, {})

        train(policy, step, dict.fromkeys(range(steps), self.batch), LoopConfig(steps, lr), name="tea house")
        return self.score(policy).detach()

    def score(self, model: GPT) -> Tensor:
        """log pi(y | x) of every response to every prompt, with gradient: (2, K)."""
        return response_logps(model, self.batch).view_as(self.reward)


@lru_cache(maxsize=4)
def tea_house(seed: int) -> TeaHouse:
    """The tea house of a seed."""
    responses = list_responses()
    with redirect_stdout(StringIO()):  # its SFT says how far it is
        reference = make_reference(responses, seed)
    return TeaHouse(
        reference, every_response(responses), score_all(reference, responses), make_reward(responses, seed)
    )
