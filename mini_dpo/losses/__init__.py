"""The preference losses: one pure function each, from log-probabilities to a number per example.

    inputs.py        PairLogps and UnpairedLogps: what a loss is given
    dpo.py           DPO's loss: begin here
    margins.py       DPO's relatives, and other functions of the margin
    responses.py     losses of each response on its own, and of a whole batch
    others.py        losses without a reference, and of single responses
    closed_forms.py  what their formulas and facts share
    registry.py      `@loss`, what a loss declares
    finding.py       a loss by its name, or in a file of one's own

To add a loss is to write one function under `@loss(...)`, here or in a file of your own; `python -m mini_dpo.check`
then judges it.
"""

from mini_dpo.losses.inputs import PairLogps, Responses, UnpairedLogps
from mini_dpo.losses.registry import LOSSES, Loss, loss, require
from mini_dpo.losses import dpo, margins, responses, others  # noqa: F401, I001: they register, in the order of the lists
from mini_dpo.losses.finding import find_loss

__all__ = ["LOSSES", "Loss", "PairLogps", "Responses", "UnpairedLogps", "find_loss", "loss", "require"]
