"""The two optimizers, and the learning rate of a step: AdamW, and Muon for the matrices inside the blocks.

Muon is a step for a matrix that goes equally far in every direction (arXiv:2502.16982, after Keller Jordan's
"Muon: An optimizer for hidden layers in neural networks").

Write the average of a matrix's last gradients as M = U S V^T, its singular value decomposition. A few
singular values are large and most are small, so a step along M moves the matrix in a few directions, and
AdamW, which scales each weight by itself, mends little of that. Muon steps along U V^T: every singular value
is made one.

That is meant for matrices that turn one vector into another: those inside the blocks. A row of
the embedding (which is the output matrix too) belongs to one token, and most tokens are not in a batch;
biases and LayerNorms are no matrices. AdamW keeps these.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mini_dpo.model import GPT


@dataclass(frozen=True)
class LoopConfig:
    """How to train. steps: optimizer steps. lr: the peak learning rate. warmup: steps of linear rise to it,
    before the cosine's fall to zero. accumulate: batches a step. optimizer: "adamw", or "muon" for the
    matrices inside the blocks.
    weight_decay: on matrices only. grad_clip: largest gradient norm. dtype: "float32", or "bfloat16" for
    autocast with float32 weights. *_every: steps between two of their kind.
    """

    steps: int
    lr: float
    warmup: int = 0
    accumulate: int = 1
    optimizer: str = "adamw"
    weight_decay: float = 0.0
    grad_clip: float = 1.0
    dtype: str = "float32"
    seed: int = 0
    eval_every: int = 100
    save_every: int = 100


INSIDE = ("h.", "wte.patch.")  # the blocks, and what makes a vector of a picture's patch


def make_optimizer(policy: GPT, config: LoopConfig) -> torch.optim.AdamW:
    """AdamW (arXiv:1711.05101) in its fused form, or Muon for the matrices inside the blocks and AdamW for
    the rest; weight decay on matrices, not on biases and LayerNorms.
    """
    matrices = {name: p for name, p in policy.named_parameters() if p.dim() > 1}
    inside = [p for name, p in matrices.items() if name.startswith(INSIDE)]
    embeddings = [p for name, p in matrices.items() if not name.startswith(INSIDE)]
    vectors = [p for p in policy.parameters() if p.dim() <= 1]
    decays = [(inside, config.weight_decay), (embeddings, config.weight_decay), (vectors, 0.0)]
    kind = Muon if config.optimizer == "muon" else torch.optim.AdamW
    return kind(
        [{"params": params, "weight_decay": decay} for params, decay in decays],
        lr=config.lr,
        betas=(0.9, 0.95),
        fused=True,
    )


def learning_rate(step: int, config: LoopConfig) -> float:
    """Linear rise over `warmup` steps, then half a cosine down to zero."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    return config.lr * 0.5 * (1 + math.cos(math.pi * (step - config.warmup) / (config.steps - config.warmup)))


def step_where(taken: Tensor, optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Take the optimizer's step with this learning rate where `taken`, () of bool, is true; else change
    nothing.

    To ask a GPU for the value of `taken` would stop it at every step. The fused kernel of AdamW reads, on the
    device, what torch's gradient scalers set for it: `found_inf`, 1 if the step is to be left out.
    """
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.found_inf = 1 - taken.float()  # type: ignore[attr-defined]
    optimizer.step()


MOMENTUM = 0.95


class Muon(torch.optim.AdamW):
    """Muon for the parameters of the first group, AdamW for the others, with one learning rate for both:
    Muon's step is scaled to 0.2 learning rates a weight (root mean square), about AdamW's (arXiv:2502.16982,
    section 2.2).

    `step_where` takes its steps, as it does fused AdamW's: where `found_inf` is 1, nothing changes.
    """

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        group = self.param_groups[0]
        take = 1 - self.found_inf  # type: ignore[attr-defined]  # (), 0 or 1: on the device
        for matrix in group["params"]:
            # named as AdamW names its own, which reads them when a checkpoint is loaded
            if not self.state[matrix]:
                self.state[matrix] = {"step": torch.zeros(()), "exp_avg": torch.zeros_like(matrix)}
            average = self.state[matrix]["exp_avg"]
            gradient = torch.where(take > 0, matrix.grad, average)
            average.lerp_(gradient, 1 - MOMENTUM)
            # Nesterov's: this gradient counts once more
            direction = orthogonalise(gradient.lerp(average, MOMENTUM))
            rate = group["lr"] * take
            matrix.mul_(1 - rate * group["weight_decay"])
            # of U V^T alone: 1 / sqrt(longer side) a weight
            matrix.sub_(rate * 0.2 * math.sqrt(max(matrix.shape)) * direction)
            matrix.grad = None  # AdamW passes over what has no gradient
        super().step()


def orthogonalise(matrix: Tensor, steps: int = 5) -> Tensor:
    """About U V^T, where the matrix (m, n) is U S V^T, without the decomposition (Newton-Schulz): (m, n).

    An odd polynomial of a matrix, a X + b (X X^T) X + c (X X^T)^2 X, is U p(S) V^T with p(s) = a s + b s^3 +
    c s^5. This p drives small singular values up fast: five rounds bring all from 0.002 to 1 to between 0.68
    and 1.21. It is done in the matrix's own type; torch.optim.Muon does it in bfloat16, which takes ten times
    as long on a CPU that has none.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix  # lying, so that X X^T is the smaller of the two products
    x = x / x.norm().clamp(min=1e-7)  # no singular value above 1
    for _ in range(steps):
        square = x @ x.T  # (m, m)
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x  # Keller Jordan's a, b, c
    return x.T if tall else x
