"""DPO's loss. Every loss is written like it: a function from log-probabilities to a number for each pair."""

from torch import Tensor
from torch.nn import functional as F

from mini_dpo.losses.hyperparameters import Beta
from mini_dpo.losses.inputs import PairLogps
from mini_dpo.losses.registry import loss


@loss(paper="Rafailov et al. 2023, arXiv:2305.18290, eq. 7", aliases=("sigmoid",))
def dpo(logps: PairLogps, *, beta: Beta = 0.1) -> Tensor:
    """Direct Preference Optimization: the cross-entropy of Bradley-Terry with the reward beta log(pi/ref).

        L = -log sigma(beta h)

    h: the log-ratio of the chosen response minus that of the rejected one, see inputs.py
    sigma: the logistic function, sigma(x) = 1 / (1 + e^-x)
    Returns (B,), in nats. As in the paper. `logsigmoid` is finite even where sigma is rounded to 0.
    """
    return -F.logsigmoid(beta * logps.h)
