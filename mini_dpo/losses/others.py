"""Losses without a reference, and losses of single responses."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mini_dpo.losses.closed_forms import bounded
from mini_dpo.losses.hyperparameters import (
    Beta,
    DesirableWeight,
    Gamma,
    NonNegative,
    Positive,
    UndesirableWeight,
)
from mini_dpo.losses.inputs import PairLogps
from mini_dpo.losses.registry import loss
from mini_dpo.losses.unpaired import UnpairedLogps


@loss(paper="Xu et al. 2024, arXiv:2401.08417", reference=False)
def cpo(logps: PairLogps, *, beta: Positive = 0.1, nll_weight: NonNegative = 1.0) -> Tensor:
    """Contrastive PO: DPO with a uniform reference, and SFT on the chosen response in the place of the real
    reference.

        L = -log sigma(beta s(y_w) - beta s(y_l)) - lambda s(y_w)

    beta: scale of the log-probs
    nll_weight: lambda, weight of the chosen response's negative log-likelihood
    Returns (B,), in nats. The second term is a sum over tokens, as in the paper. TRL's second term is a mean
    over all chosen tokens of the batch.
    """
    w, l = logps.chosen.policy, logps.rejected.policy  # (B,) each
    return -F.logsigmoid(beta * (w - l)) - nll_weight * w


@loss(
    paper="Meng et al. 2024, arXiv:2405.14734",
    reward=lambda y, beta, gamma: beta * y.average,
    reference=False,
)
def simpo(logps: PairLogps, *, beta: Positive = 2.0, gamma: Gamma = 1.0) -> Tensor:
    """Simple PO: the reward is the policy's log-prob of the average token, and has to win by gamma.

        L = -log sigma(beta s(y_w) / |y_w| - beta s(y_l) / |y_l| - gamma)

    beta: scale of the average log-prob
    Returns (B,), in nats. As in the paper. TRL has this loss in its CPO trainer, and adds an SFT term unless
    cpo_alpha=0. What other implementations call gamma is gamma / beta.
    """
    return -F.logsigmoid(beta * (logps.chosen.average - logps.rejected.average) - gamma)


@loss(
    paper="Gupta et al. 2025, arXiv:2501.03884",
    reward=lambda y, beta, gamma, alpha: -beta * torch.expm1(bounded(-alpha * y.average)) / alpha,
    reference=False,
)
def alphapo(logps: PairLogps, *, beta: Positive = 2.5, gamma: Gamma = 0.1, alpha: Positive = 0.25) -> Tensor:
    """SimPO with a bent reward R, of the average token's probability P.

        L = -log sigma(beta R_w - beta R_l - gamma),   R = (1 - P^-alpha) / alpha,   P = exp(s(y) / |y|)

    beta: scale of the reward
    alpha: how much the reward is bent, above 0; towards 0 it is SimPO's
    Returns (B,), in nats. As in TRL, whose default alpha is 0: SimPO. The exponent is cut at 70 in float32.
    """
    # P^-alpha - 1, (B,)
    w, l = (torch.expm1(bounded(-alpha * y.average)) for y in (logps.chosen, logps.rejected))
    return -F.logsigmoid(beta * (l - w) / alpha - gamma)


def log_odds(average: Tensor) -> Tensor:
    """log(P / (1 - P)) of P = exp(average), average <= 0: (B,). A P within 1e-6 of 1 counts as 1 - 1e-6."""
    average = average.clamp(max=-1e-6)
    return average - torch.log(-torch.expm1(average))


@loss(
    paper="Hong et al. 2024, arXiv:2403.07691",
    reward=lambda y, odds_weight: log_odds(y.average),
    reference=False,
)
def orpo(logps: PairLogps, *, odds_weight: NonNegative = 0.1) -> Tensor:
    """Odds-ratio PO: SFT on the chosen response, and its odds against those of the rejected one.

        L = -s(y_w) / |y_w| - lambda log sigma(log odds_w - log odds_l),
        odds = P / (1 - P),   P = exp(min(s(y) / |y|, -1e-6))

    odds_weight: lambda, weight of the odds ratio against SFT; at least 0 (TRL calls it beta)
    Returns (B,), in nats per token. The SFT term is over the response. TRL's and the authors' is over prompt
    and response, averaged over the tokens of the batch. The gradient grows like 1 / (1 - P) for responses
    that are nearly certain. The min(...) bounds it.
    """
    margin = log_odds(logps.chosen.average) - log_odds(logps.rejected.average)  # (B,)
    return -logps.chosen.average - odds_weight * F.logsigmoid(margin)


@loss(paper="Ethayarajh et al. 2024, arXiv:2402.01306", mismatched=True, decomposes=False)
def kto(
    logps: UnpairedLogps,
    *,
    beta: Beta = 0.1,
    desirable_weight: DesirableWeight = 1.0,
    undesirable_weight: UndesirableWeight = 1.0,
) -> Tensor:
    """Kahneman-Tversky Optimization: gains and losses against a reference point, each flattening out.

        L = lambda_D (1 - sigma(beta (r - z))) if liked, lambda_U (1 - sigma(beta (z - r))) if not
        z = max(0, mean(r'))

    r': the log-ratios of the batch's prompts, each with another one's response. z has no gradient.
    Returns (B,). z is the paper's estimate of the KL divergence. The estimate is biased, as the responses are
    not the policy's. As in TRL.
    """
    z = logps.r_mismatched.mean().clamp(min=0).detach()  # ()
    liked = desirable_weight * (beta * (z - logps.r)).sigmoid()  # (B,)
    return torch.where(logps.desirable, liked, undesirable_weight * (beta * (logps.r - z)).sigmoid())


@loss(paper="D'Oosterlinck et al. 2024, arXiv:2408.06266, eq. 7, cut in two")
def apo_zero_unpaired(
    logps: UnpairedLogps,
    *,
    beta: Beta = 0.1,
    desirable_weight: DesirableWeight = 1.0,
    undesirable_weight: UndesirableWeight = 1.0,
) -> Tensor:
    """APO-zero of single responses: KTO whose reference point is the reference.

        L = lambda_D (1 - sigma(beta r)) if liked, lambda_U sigma(beta r) if not

    Returns (B,). As in TRL's KTO trainer.
    """
    liked = desirable_weight * (-beta * logps.r).sigmoid()  # (B,)
    return torch.where(logps.desirable, liked, undesirable_weight * (beta * logps.r).sigmoid())
