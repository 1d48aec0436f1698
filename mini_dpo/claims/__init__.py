"""What is said of DPO, and what is true of it: a number for each claim, and a verdict.

claim.py        a claim, and how a verdict comes of numbers
worlds.py       tables, log-linear policies, the tea house
optimum.py      what DPO's minimum is
kept.py         what was measured, in one file
"""

from mini_dpo.claims import optimum
from mini_dpo.claims.claim import Claim

QUICK: list[Claim] = [*optimum.CLAIMS]
FULL: list[Claim] = []
