"""What the trainer and the command line need of every loss."""

from __future__ import annotations

import inspect
import re

import torch
from hypothesis import strategies as st

from mini_dpo.batches import Encoded, EncodedPair
from mini_dpo.check.examples import (
    accepts,
    batches,
    equal,
    example_shown,
    numbers,
    one_pair,
    options,
    settings_shown,
)
from mini_dpo.check.judge import Broken, prop
from mini_dpo.feedback import collate_for, split_pairs
from mini_dpo.model import GPT, GPTConfig
from mini_dpo.objectives import preference_objective
from mini_dpo.reference import freeze
from mini_dpo.theory.probe import pick, value

LONGEST = 30  # lines of a loss


@prop(
    "batch order",
    says="the order of the examples in a batch does not matter",
    usually="an index into the batch, a roll or a sort that is not undone",
)
def batch_order(loss, draw, hyper):
    logps = draw(batches(loss))
    order = draw(st.permutations(range(len(logps))))
    before, after = loss(logps, **hyper), loss(pick(logps, order), **hyper)
    by_rank = loss.paired and not loss.fact("decomposes", **hyper)  # only their sum has a meaning
    if not (equal(before.sum(), after.sum()) if by_rank else equal(before[torch.tensor(order)], after)):
        raise Broken(
            f"{example_shown(logps, hyper)}\nthe loss gives {numbers(before)}; the examples "
            f"in the order {[i + 1 for i in order]} give {numbers(after)}"
        )


@prop(
    "refuses nonsense",
    says="beta <= 0 is a ValueError; other values are taken, or refused with one",
    usually="no `require(beta > 0, ...)` in the first line: a run would train for hours on nothing",
    share=0.2,
)
def refuses_nonsense(loss, draw, hyper):
    for beta in (0.0, -1.0) if "beta" in hyper else ():
        if accepts(loss, {**hyper, "beta": beta}):
            raise Broken(f"beta {beta:g} is accepted")
    for name in hyper:
        for x in [x for x in options(loss, name) if not isinstance(x, str)]:
            allowed = within_its_range(loss.describe(name), x)
            try:
                found = value(loss, one_pair(), {**loss.hyperparameters, name: x})
            except ValueError as error:
                if allowed:
                    raise Broken(f"{name} {x:g} is refused ({error}), and the docstring allows it") from error
            except Exception as error:
                raise Broken(
                    f"{name} {x:g}: {type(error).__name__}: {error}; where {name} may not be "
                    f"{x:g}, say so: require(...)"
                ) from error
            else:
                if found.isnan().any():
                    raise Broken(
                        f"{name} {x:g} gives nan where the policy is the reference; say that "
                        "it may not be: require(...)"
                    )
                if allowed is False:
                    raise Broken(
                        f"{name} {x:g} is accepted, and the docstring does not allow it: require(...)"
                    )


RANGE = re.compile(
    r"\bin ([\[(])(-?[\d.e-]+), (-?[\d.e-]+)([\])])|\b(must be positive|above 0|at least (?:0|zero))\b"
)


def within_its_range(description: str, x: float) -> bool | None:
    """Whether a number is in the range that a hyperparameter's line gives: "in [0, 0.5)", "must be positive",
    "at least
    0"; None if it gives none.
    """
    match = RANGE.search(description)
    if not match:
        return None
    if match[5]:
        return x >= 0 if match[5].startswith("at least") else x > 0
    low, high = float(match[2]), float(match[3])
    return (low <= x if match[1] == "[" else low < x) and (x <= high if match[4] == "]" else x < high)


@prop(
    "explains itself",
    says="the docstring has the formula and a line for each hyperparameter",
    usually="the command line and --list-losses have nothing to show",
    share=0.01,
)
def explains_itself(loss, draw, hyper):
    if not loss.formula:
        raise Broken("the docstring has no indented line with the formula")
    for name in loss.hyperparameters:
        if not loss.describe(name):
            raise Broken(f"the docstring has no line `{name}: ...`")
    lines = len(inspect.getsource(loss.function).splitlines())
    if lines > LONGEST:
        raise Broken(f"it takes {lines} lines to read")


@prop(
    "trains",
    says="every weight of a small GPT gets a finite gradient",
    usually="the loss works on the numbers above and not on a batch: look at shapes and types",
    share=0.05,
)
def trains(loss, draw, hyper):
    torch.manual_seed(0)
    reference = GPT(GPTConfig(vocab_size=5, context=8, n_layer=1, n_head=1, n_embd=4))
    policy = freeze(reference).requires_grad_(True)
    examples = [
        EncodedPair(Encoded([0, 1], [2, 3, 4]), Encoded([0, 1], [3, 4])),
        EncodedPair(Encoded([1], [1, 4]), Encoded([1], [2, 2, 4])),
    ]
    batch = collate_for(loss, context=8)(examples if loss.paired else split_pairs(examples))
    objective = preference_objective(
        loss, hyper, freeze(reference) if loss.reference else None, sft_weight=1.0
    )
    objective(policy, batch).loss.backward()
    for name, weight in policy.named_parameters():
        if weight.grad is None or not weight.grad.isfinite().all():
            raise Broken(
                f"{settings_shown(hyper)}\nthe gradient of {name} is "
                f"{'missing' if weight.grad is None else 'not finite'}"
            )
