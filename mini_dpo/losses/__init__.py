"""The preference losses: one pure function each, from log-probabilities to a number per example.

    dpo.py              DPO's loss: begin here
    inputs.py           PairLogps: what a loss of pairs is given
    unpaired.py         UnpairedLogps: what a loss of single responses is given
    margins.py          DPO's relatives, and other functions of the margin
    responses.py        losses of each response on its own, and of a whole batch
    others.py           losses without a reference, and of single responses
    contrasts.py        ContrastLogps: pairs, and a chosen response to another prompt; mDPO
    hyperparameters.py  the types of hyperparameters, such as `Beta`: their ranges and descriptions
    registry.py         `@loss`, which makes a `Loss` of a function
    facts.py            what `check` holds each loss to
    closed_forms.py     what formulas and facts share
    finding.py          a loss by its name, or in a file of your own

To add a loss is to write one function under `@loss(...)`, here or in a file of your own. `python -m
mini_dpo.check` then judges it.
"""

from mini_dpo.losses import contrasts, dpo, margins, others, responses
from mini_dpo.losses.contrasts import ContrastLogps
from mini_dpo.losses.facts import Facts
from mini_dpo.losses.finding import find_loss
from mini_dpo.losses.hyperparameters import Beta, NonNegative, Positive, Range, require
from mini_dpo.losses.inputs import PairLogps, Responses
from mini_dpo.losses.registry import LOSSES, Loss, loss
from mini_dpo.losses.unpaired import UnpairedLogps

__all__ = [
    "LOSSES",
    "Beta",
    "ContrastLogps",
    "Facts",
    "Loss",
    "NonNegative",
    "PairLogps",
    "Positive",
    "Range",
    "Responses",
    "UnpairedLogps",
    "find_loss",
    "loss",
    "require",
]

GALLERY = (dpo, margins, responses, others, contrasts)  # in this order the losses are listed
LOSSES.update(
    {v.name: LOSSES.pop(v.name) for file in GALLERY for v in vars(file).values() if isinstance(v, Loss)}
)
