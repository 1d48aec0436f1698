"""What is said of DPO, and what is true of it: a number for each claim, and a verdict.

claim.py        a claim, and how a verdict comes of numbers
worlds.py       tables, log-linear policies, the tea house
optimum.py      what DPO's minimum is
rivals.py       DPO against RLHF
likelihood.py   what becomes of the chosen, the rejected and all other responses
labels.py       labels that are wrong, few, or fond of length
relatives.py    IPO, KTO, ORPO, and fifteen relatives at equal KL divergence
cost.py         operations and memory, counted
shop.py         what takes training on the toy shop
shop_rivals.py  DPO and RLHF there and in the world of programs: at equal KL divergence
shop_costs.py   what both cost there, and what each has at equal cost
shop_memory.py  the memory of both, in bytes
shop_judges.py  both as judges of answers
shop_labels.py  wrong labels there
shop_tuning.py  random settings of both
shop_runs.py    the training runs behind them
kept.py         what was measured, in one file
"""

from mini_dpo.claims import (
    cost,
    labels,
    likelihood,
    optimum,
    relatives,
    rivals,
    shop,
    shop_costs,
    shop_judges,
    shop_labels,
    shop_memory,
    shop_rivals,
    shop_tuning,
)
from mini_dpo.claims.claim import Claim

QUICK: list[Claim] = [
    claim for file in (optimum, rivals, cost, likelihood, labels, relatives) for claim in file.CLAIMS
]
FULL: list[Claim] = [
    claim
    for file in (shop, shop_rivals, shop_costs, shop_memory, shop_judges, shop_labels, shop_tuning)
    for claim in file.CLAIMS
]
