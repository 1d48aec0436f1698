"""The proof: in a world small enough to list, the trained GPT is the optimum that the mathematics gives.

    python -m mini_dpo.exact

The world has two words. A response is any string of up to three words. There are fifteen responses, so that a
reward, a reference and beta give the optimum pi* = ref exp(r / beta) / Z in closed form. The handwritten GPT
is trained on every ordered pair of responses, with the real DPO loss in the real loop. Each pair has the
weight P(chosen over rejected), the share of people who would label it so. DPO's claim (arXiv:2305.18290,
section 4) is that the trained policy is pi*.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mini_dpo.batches import Batch, Encoded, collate, pack
from mini_dpo.cli import option, parser_for, run_command
from mini_dpo.errors import UserError
from mini_dpo.logprobs import response_logps, score_responses
from mini_dpo.losses import LOSSES, PairLogps
from mini_dpo.model import GPT, GPTConfig
from mini_dpo.objectives import Objective, Outcome, sft_objective
from mini_dpo.optimizers import LoopConfig
from mini_dpo.reference import freeze
from mini_dpo.theory.bradley_terry import kl, optimal_policy, preference_probability
from mini_dpo.training import train

WORDS = ["tea", "please"]
END = len(WORDS)  # the id of the end-of-text token
LONGEST_RESPONSE = 3
PROMPTS = [[0], [1]]  # "tea" and "please"
MODEL = GPTConfig(vocab_size=len(WORDS) + 1, context=1 + LONGEST_RESPONSE, n_layer=2, n_head=2, n_embd=32)


@dataclass(frozen=True)
class ExactSettings:
    """Which world, and how many steps."""

    seed: int = option(int, "of the reward, the reference and the weights", 0)
    beta: float = option(float, "price of a nat of KL, in units of reward", 0.5)
    steps: int = option(int, "training steps", 400)


def main() -> None:
    parser = parser_for(
        ExactSettings,
        "exact",
        "Train the GPT with the real DPO loss where the optimum is known, and compare.",
    )
    settings = ExactSettings(**vars(parser.parse_args()))
    if settings.beta <= 0 or settings.steps < 1:
        raise UserError("--beta must be positive and --steps at least 1")
    if not 0 <= settings.seed < 2**31:
        raise UserError(f"--seed must be in [0, 2^31), not {settings.seed}")
    started = time.perf_counter()
    responses = list_responses()
    reference = make_reference(responses, settings.seed)
    reward = make_reward(responses, settings.seed)  # (prompts, K)
    policy = train_on_every_pair(reference, responses, reward, settings)
    ref_logps, learned = score_all(reference, responses), score_all(policy, responses)  # (prompts, K)
    optimum = optimal_policy(ref_logps, reward, settings.beta)  # (prompts, K)
    print(optimum_table(responses, reward, ref_logps, optimum, learned))
    print(
        f"KL(optimum || reference)  {float(kl(optimum, ref_logps).max()):.1e} nats, the worse "
        "of the two prompts"
    )
    print(f"KL(optimum || learned)    {float(kl(optimum, learned).max()):.1e} nats, likewise")
    print(f"{time.perf_counter() - started:.0f} s")


def list_responses() -> list[list[int]]:
    """All responses: those of fewer than LONGEST words end in end-of-text; those of LONGEST words end because
    no more fits. The probabilities of all responses sum to one, for every model.
    """
    ended = [
        [*words, END] for n in range(LONGEST_RESPONSE) for words in itertools.product(range(END), repeat=n)
    ]
    return ended + [list(words) for words in itertools.product(range(END), repeat=LONGEST_RESPONSE)]


@torch.no_grad()
def score_all(model: GPT, responses: Sequence[list[int]]) -> Tensor:
    """log pi(y | x) of every response to every prompt: (prompts, K)."""
    return response_logps(model, every_response(responses)).view(len(PROMPTS), len(responses))


def every_response(responses: Sequence[list[int]]) -> Batch:
    """One row with each prompt once and all K responses to it. Number i K + k is response k to prompt i."""
    return pack([[Encoded(prompt, response) for response in responses] for prompt in PROMPTS])


def make_reference(responses: Sequence[list[int]], seed: int) -> GPT:
    """A GPT after a little SFT on a random corpus, so that the reference is not uniform."""
    torch.manual_seed(seed)
    model = GPT(MODEL).double()
    corpus = torch.randint(len(responses), (24,)).tolist()
    batch = collate([Encoded(PROMPTS[i % len(PROMPTS)], responses[k]) for i, k in enumerate(corpus)])
    config = LoopConfig(steps=60, lr=3e-3, seed=seed)
    train(model, sft_objective, dict.fromkeys(range(config.steps), batch), config, name="sft")
    return freeze(model)


def make_reward(responses: Sequence[list[int]], seed: int) -> Tensor:
    """A random reward for every response to every prompt: (prompts, K)."""
    return torch.randn(
        len(PROMPTS), len(responses), generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def train_on_every_pair(
    reference: GPT, responses: Sequence[list[int]], reward: Tensor, settings: ExactSettings
) -> GPT:
    """A copy of the reference, trained on all ordered pairs in every step."""
    chosen, rejected, probabilities = [], [], []
    for i in range(len(PROMPTS)):
        for w, l in itertools.permutations(range(len(responses)), 2):
            chosen.append(i * len(responses) + w)
            rejected.append(i * len(responses) + l)
            probabilities.append(preference_probability(reward[i, w], reward[i, l]))
    batch = every_response(responses)
    policy = freeze(reference).requires_grad_(True)
    objective = expected_dpo(
        reference, torch.tensor(chosen), torch.tensor(rejected), torch.stack(probabilities), settings.beta
    )
    config = LoopConfig(steps=settings.steps, lr=3e-3, warmup=20, grad_clip=math.inf, seed=settings.seed)
    train(policy, objective, dict.fromkeys(range(config.steps), batch), config, name="dpo")
    return policy


def expected_dpo(
    reference: GPT, chosen: Tensor, rejected: Tensor, probabilities: Tensor, beta: float
) -> Objective:
    """The DPO loss in expectation over random labels: the loss of each ordered pair, times the probability of
    its label.
    chosen, rejected: (B,), the numbers of the two responses of a pair in the batch.
    probabilities: (B,), of each label.
    """

    def objective(policy: GPT, batch: Batch) -> Outcome:
        responses = score_responses(policy, reference, batch, None)
        # (B,)
        losses = probabilities * LOSSES["dpo"](PairLogps(responses[chosen], responses[rejected]), beta=beta)
        return Outcome(losses.sum(), len(losses) // 2, {})  # each pair of responses is there in two orders

    return objective


def optimum_table(
    responses: Sequence[list[int]], reward: Tensor, ref_logps: Tensor, optimum: Tensor, learned: Tensor
) -> str:
    """One line for each response: its reward, and its probability under reference, optimum and policy."""
    words = [*WORDS, "."]
    lines = []
    for i, prompt in enumerate(PROMPTS):
        lines.append(f'\nprompt "{words[prompt[0]]}"')
        lines.append(f"  {'response':22}{'reward':>8}{'reference':>11}{'optimum':>12}{'learned':>12}")
        for k, response in enumerate(responses):
            text = " ".join(words[token] for token in response)
            p = [float(logps[i, k].exp()) for logps in (ref_logps, optimum, learned)]
            lines.append(f"  {text:22}{float(reward[i, k]):8.2f}{p[0]:11.4f}{p[1]:12.8f}{p[2]:12.8f}")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    run_command(main)
