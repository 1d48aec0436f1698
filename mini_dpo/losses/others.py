"""Losses without a reference, and losses of single responses."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mini_dpo.losses.closed_forms import bounded, logit, majority, offset_logit
from mini_dpo.losses.inputs import PairLogps, UnpairedLogps
from mini_dpo.losses.registry import loss, require


@loss(
    paper="Xu et al. 2024, arXiv:2401.08417",
    best_margin=lambda p, beta, nll_weight: logit(p) if nll_weight == 0 else None,
    swap_slope=lambda beta, nll_weight: -1 - nll_weight / beta,
    reference=False,
    shift_invariant=lambda beta, nll_weight: nll_weight == 0,
    beta_scales=lambda beta, nll_weight: nll_weight == 0,
)
def cpo(logps: PairLogps, *, beta: float = 0.1, nll_weight: float = 1.0) -> Tensor:
    """Contrastive PO: DPO with a uniform reference, and SFT on the chosen response to stand in for the real one.

        L = -log sigma(beta s(y_w) - beta s(y_l)) - lambda s(y_w)

    beta: scale of the log-probs; must be positive
    nll_weight: lambda, weight of the chosen response's negative log-likelihood; at least 0
    Returns (B,), in nats. The paper's sum over tokens; TRL's second term is a mean over all chosen tokens of the batch.
    """
    require(beta > 0, f"beta must be positive, not {beta}")
    require(nll_weight >= 0, f"nll_weight must be at least 0, not {nll_weight}")
    w, l = logps.chosen.policy, logps.rejected.policy  # (B,) each
    return -F.logsigmoid(beta * (w - l)) - nll_weight * w


@loss(
    paper="Meng et al. 2024, arXiv:2405.14734",
    reward=lambda y, beta, gamma: beta * y.average,
    best_margin=lambda p, beta, gamma: offset_logit(p, gamma),
    reference=False,
    shift_invariant=False,
)
def simpo(logps: PairLogps, *, beta: float = 2.0, gamma: float = 1.0) -> Tensor:
    """Simple PO: the reward is the policy's log-prob of the average token, and has to win by gamma.

        L = -log sigma(beta s(y_w) / |y_w| - beta s(y_l) / |y_l| - gamma)

    beta: scale of the average log-prob; must be positive
    gamma: the margin that is asked for, in units of reward
    Returns (B,), in nats. As the paper. TRL has it in its CPO trainer, where it adds an SFT term unless cpo_alpha=0;
    other implementations call gamma / beta gamma.
    """
    require(beta > 0, f"beta must be positive, not {beta}")
    return -F.logsigmoid(beta * (logps.chosen.average - logps.rejected.average) - gamma)


@loss(
    paper="Gupta et al. 2025, arXiv:2501.03884",
    reward=lambda y, beta, gamma, alpha: -beta * torch.expm1(bounded(-alpha * y.average)) / alpha,
    best_margin=lambda p, beta, gamma, alpha: offset_logit(p, gamma),
    reference=False,
    shift_invariant=False,
    convex=False,
    beta_scales=False,
)
def alphapo(logps: PairLogps, *, beta: float = 2.5, gamma: float = 0.1, alpha: float = 0.25) -> Tensor:
    """SimPO with a bent reward R, of the average token's probability P.

        L = -log sigma(beta R_w - beta R_l - gamma),   R = (1 - P^-alpha) / alpha,   P = exp(s(y) / |y|)

    beta: scale of the reward; must be positive
    gamma: the margin that is asked for, in units of reward
    alpha: how much the reward is bent, above 0; towards 0 it is SimPO's
    Returns (B,), in nats. As in TRL, whose default alpha is 0: SimPO. The exponent is cut at 70 in float32.
    """
    require(beta > 0, f"beta must be positive, not {beta}")
    require(alpha > 0, f"alpha must be positive, not {alpha}")
    w, l = (torch.expm1(bounded(-alpha * y.average)) for y in (logps.chosen, logps.rejected))  # P^-alpha - 1, (B,)
    return -F.logsigmoid(beta * (l - w) / alpha - gamma)


def log_odds(average: Tensor) -> Tensor:
    """log(P / (1 - P)) of P = exp(average), average <= 0: (B,). A P within 1e-6 of 1 counts as 1 - 1e-6."""
    average = average.clamp(max=-1e-6)
    return average - torch.log(-torch.expm1(average))


@loss(
    paper="Hong et al. 2024, arXiv:2403.07691",
    reward=lambda y, odds_weight: log_odds(y.average),
    reference=False,
    shift_invariant=False,
)
def orpo(logps: PairLogps, *, odds_weight: float = 0.1) -> Tensor:
    """Odds-ratio PO: SFT on the chosen response, and its odds against those of the rejected one. No reference.

        L = -s(y_w) / |y_w| - lambda log sigma(log odds_w - log odds_l),   odds = P / (1 - P),   P = exp(min(s(y) / |y|, -1e-6))

    odds_weight: lambda, weight of the odds ratio against SFT; at least 0 (TRL calls it beta)
    Returns (B,), in nats a token. The SFT term is over the response. TRL's and the authors' is over prompt and response,
    averaged over the tokens of the batch. The gradient grows like 1 / (1 - P) for near-certain responses; without the
    min(...) it would have no bound.
    """
    require(odds_weight >= 0, f"odds_weight must be at least 0, not {odds_weight}")
    margin = log_odds(logps.chosen.average) - log_odds(logps.rejected.average)  # (B,)
    return -logps.chosen.average - odds_weight * F.logsigmoid(margin)


@loss(
    paper="Ethayarajh et al. 2024, arXiv:2402.01306",
    at_reference=lambda beta, desirable_weight, undesirable_weight: (desirable_weight + undesirable_weight) / 2,
    best_margin=lambda p, beta, desirable_weight, undesirable_weight: majority(p) if desirable_weight == undesirable_weight > 0 else None,
    mismatched=True,
    shift_invariant=False,
    convex=False,
    decomposes=False,
    keeps_learning=False,
)
def kto(logps: UnpairedLogps, *, beta: float = 0.1, desirable_weight: float = 1.0, undesirable_weight: float = 1.0) -> Tensor:
    """Kahneman-Tversky Optimization: gains and losses against a reference point, each flattening out.

        L = lambda_D (1 - sigma(beta (r - z))) if liked, lambda_U (1 - sigma(beta (z - r))) if not
        z = max(0, mean(r'))

    r': the log-ratios of the batch's prompts, each with another one's response. z has no gradient.
    beta: price of a nat of KL divergence from the reference, in units of reward; must be positive
    desirable_weight: lambda_D, what a liked response counts; at least 0
    undesirable_weight: lambda_U, what a disliked one counts; at least 0
    Returns (B,). The paper's estimate of the KL divergence: biased, as the responses are not the policy's. As in TRL.
    """
    require(beta > 0, f"beta must be positive, not {beta}")
    require(desirable_weight >= 0 and undesirable_weight >= 0, "desirable_weight and undesirable_weight must be at least 0")
    z = logps.mismatched.mean().clamp(min=0).detach()  # ()
    liked = desirable_weight * (beta * (z - logps.r)).sigmoid()  # (B,)
    return torch.where(logps.desirable, liked, undesirable_weight * (beta * (logps.r - z)).sigmoid())


@loss(
    paper="D'Oosterlinck et al. 2024, arXiv:2408.06266, eq. 7, cut in two",
    at_reference=lambda beta, desirable_weight, undesirable_weight: (desirable_weight + undesirable_weight) / 2,
    best_margin=lambda p, beta, desirable_weight, undesirable_weight: majority(p) if desirable_weight == undesirable_weight > 0 else None,
    shift_invariant=False,
    convex=False,
    keeps_learning=False,
)
def apo_zero_unpaired(logps: UnpairedLogps, *, beta: float = 0.1, desirable_weight: float = 1.0, undesirable_weight: float = 1.0) -> Tensor:
    """APO-zero of single responses: KTO with its reference point fixed at the reference.

        L = lambda_D (1 - sigma(beta r)) if liked, lambda_U sigma(beta r) if not

    beta: price of a nat of KL divergence from the reference, in units of reward; must be positive
    desirable_weight: lambda_D, what a liked response counts; at least 0
    undesirable_weight: lambda_U, what a disliked one counts; at least 0
    Returns (B,). As TRL's KTO trainer has it.
    """
    require(beta > 0, f"beta must be positive, not {beta}")
    require(desirable_weight >= 0 and undesirable_weight >= 0, "desirable_weight and undesirable_weight must be at least 0")
    liked = desirable_weight * (-beta * logps.r).sigmoid()  # (B,)
    return torch.where(logps.desirable, liked, undesirable_weight * (beta * logps.r).sigmoid())
