"""A world in which each pair's part is known, because the model is fitted again without it.

K responses have features phi (K, D) and a policy is log-linear in them, log pi = log ref + theta . phi + a
constant. People compare N pairs of responses drawn from the reference (Bradley-Terry), and a tenth of their
labels are flipped afterwards. The DPO optimum is found with all pairs, and N times with one pair left out:
the difference in log pi(y) is what that pair did. Two guesses from the first fit alone are held to it:

    gradients    K is the product of gradients, as in `influence` with P = 1
    curvature    P is the inverse Hessian of the loss, as in influence functions (arXiv:1703.04730)

RLHF is held to its own retraining in the same way. A reward model, linear in phi, is fitted to the pairs, and
the policy is the exact optimum for that reward, or what RLOO makes of it from sampled responses. Here the two
ways have the same optimum (the reward's weights are beta theta), so the exact one can be no worse traced.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mini_dpo.theory.bradley_terry import dpo_gradient, optimal_policy, preference_probability
from mini_dpo.theory.tabular import minimise, pairs_of
from mini_dpo.trace.influence import correlation, found_by

K, D, N = 64, 8, 150  # responses, features, pairs
BETA, FLIPPED = 0.5, 0.1
SPREAD = 3.0  # standard deviation of the rewards: the difference of two is as a rule beyond 3
RL_STEPS, RL_RESPONSES, RL_RATE = 300, 64, 0.3


def left_out(seed: int, spread: float = SPREAD) -> dict[str, float]:
    """Correlations, over the N pairs and averaged over the K responses y, between what a guess says that a
    pair does to log pi(y) and what leaving the pair out shows; and how well sigmoid(-m) finds flipped labels.

    "dpo gradients", "dpo curvature", "rlhf gradients" (exact optimum for the fitted reward), "rloo gradients"
    (sampled): correlations. "flipped": the AUC of sigmoid(-m).
    """
    phi, ref, winners, losers, flipped = draw_world(seed, spread)
    gaps = phi[winners] - phi[losers]  # (N, D)
    keep = torch.cat(
        [torch.ones(1, N), 1 - torch.eye(N)]
    ).double()  # (N + 1, N): all pairs, then each left out
    theta = minimise(
        lambda x: (keep * -F.logsigmoid(BETA * x @ gaps.T)).sum(), torch.zeros(N + 1, D).double()
    )
    weights = minimise(lambda x: (keep * -F.logsigmoid(x @ gaps.T)).sum(), torch.zeros(N + 1, D).double())
    policies = log_linear(ref, phi, theta)  # (N + 1, K)
    tilted = optimal_policy(ref, weights @ phi.T, BETA)  # (N + 1, K)
    sampled = log_linear(ref, phi, rloo(weights, phi, ref, seed))  # (N + 1, K)
    guess, doubt = guesses(policies[0], ref, phi, winners, losers)
    guess_of_reward, _ = guesses(tilted[0], ref, phi, winners, losers)
    bent = BETA**2 * (gaps * (doubt * (1 - doubt))[:, None]).T @ gaps  # (D, D), the loss's Hessian
    newton, _ = guesses(policies[0], ref, phi, winners, losers, bent.inverse())
    held_to = {
        "dpo gradients": (guess, policies),
        "dpo curvature": (newton, policies),
        "rlhf gradients": (guess_of_reward, tilted),
        "rloo gradients": (guess_of_reward, sampled),
    }
    found = {name: float(correlation(g, p[:1] - p[1:]).mean()) for name, (g, p) in held_to.items()}
    return {**found, "flipped": found_by(doubt, flipped)}


def draw_world(seed: int, spread: float) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(phi (K, D), log ref (K,), which responses won and which lost (N,) and (N,), which labels are flipped
    (N,)).
    """
    generator = torch.Generator().manual_seed(seed)
    phi = torch.randn(K, D, generator=generator, dtype=torch.float64)
    reward = phi @ torch.randn(D, generator=generator, dtype=torch.float64) * spread / D**0.5  # (K,)
    ref = torch.randn(K, generator=generator, dtype=torch.float64).log_softmax(0)
    a = torch.multinomial(ref.exp(), N, replacement=True, generator=generator)  # (N,)
    b = (a + torch.randint(1, K, (N,), generator=generator)) % K  # (N,), another response
    chance = torch.rand(N, generator=generator, dtype=torch.float64)
    flipped = torch.rand(N, generator=generator) < FLIPPED
    a_wins = (chance < preference_probability(reward[a], reward[b])) ^ flipped
    return phi, ref, torch.where(a_wins, a, b), torch.where(a_wins, b, a), flipped


def log_linear(ref: Tensor, phi: Tensor, theta: Tensor) -> Tensor:
    """log pi of policies with these parameters: (K,), (K, D), (M, D) -> (M, K)."""
    return (ref + theta @ phi.T).log_softmax(-1)


def guesses(
    logps: Tensor, ref: Tensor, phi: Tensor, winners: Tensor, losers: Tensor, P: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(c_i of each pair for each response y as in `influence`, (N, K); sigmoid(-m) of each pair, (N,)).
    logps: (K,), the policy's. P: (D, D), by default 1.
    """
    scores = phi - logps.exp() @ phi  # (K, D), grad log pi(y)
    similarity = scores @ (torch.eye(D).double() if P is None else P) @ scores.T  # (K, K)
    pairs = pairs_of(logps, ref, winners, losers)
    slope_w, slope_l = dpo_gradient(pairs, BETA)  # (N,), (N,)
    guess = -slope_w[:, None] * similarity[winners] - slope_l[:, None] * similarity[losers]  # (N, K)
    return guess, slope_l / BETA


def rloo(weights: Tensor, phi: Tensor, ref: Tensor, seed: int) -> Tensor:
    """The log-linear policies that policy optimisation makes of reward models with these weights, from
    sampled responses, with a baseline from the other samples (arXiv:2402.14740): (M, D) -> (M, D). Each draws
    responses of its own.
    """
    generator = torch.Generator().manual_seed(seed)
    reward, theta = weights @ phi.T, torch.zeros_like(weights)  # (M, K), (M, D)
    for step in range(RL_STEPS):
        logps = log_linear(ref, phi, theta)  # (M, K)
        y = torch.multinomial(logps.exp(), RL_RESPONSES, replacement=True, generator=generator)  # (M, n)
        scores = (reward - BETA * (logps - ref)).gather(1, y)  # (M, n)
        better = (scores - scores.mean(1, keepdim=True)) * RL_RESPONSES / (RL_RESPONSES - 1)  # (M, n)
        slopes = phi[y] - (logps.exp() @ phi)[:, None]  # (M, n, D)
        theta = theta + RL_RATE * (1 - step / RL_STEPS) * (better[..., None] * slopes).mean(1)
    return theta
