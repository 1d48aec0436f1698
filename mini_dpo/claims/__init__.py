"""What is said of DPO, and what is true of it: a number for each claim, and a verdict.

claim.py        a claim, and how a verdict comes of numbers
worlds.py       tables, log-linear policies, the tea house
optimum.py      what DPO's minimum is
rivals.py       DPO against RLHF
likelihood.py   what becomes of the chosen, the rejected and all other responses
labels.py       labels that are wrong, few, or fond of length
relatives.py    IPO, KTO, ORPO, and sixteen losses at equal KL divergence
kept.py         what was measured, in one file
"""

from mini_dpo.claims import labels, likelihood, optimum, relatives, rivals
from mini_dpo.claims.claim import Claim

QUICK: list[Claim] = [*optimum.CLAIMS, *rivals.CLAIMS, *likelihood.CLAIMS, *labels.CLAIMS, *relatives.CLAIMS]
FULL: list[Claim] = []
