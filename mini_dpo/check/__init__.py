"""What every loss is held to, and the search for the smallest example that breaks it: `python -m
mini_dpo.check NAME`.

    required.py   what holds for every loss: what it gives, and in which direction it pulls
    numerics.py   what holds of its numbers
    usable.py     what the trainer and the command line need
    declared.py   the facts that a loss declares, held to be true
    formula.py    the docstring's formula, read
    places.py     what its symbols mean at an example
    decimals.py   and computed
    examples.py   what is drawn, and how it is written down
    judge.py      a property, the search, the verdict
"""

from mini_dpo.check import declared, numerics, required, usable
from mini_dpo.check.judge import EXAMPLES, PROPERTIES, Property, Verdict, examine

__all__ = ["EXAMPLES", "PROPERTIES", "Property", "Verdict", "examine"]

PARTS = (required, numerics, usable, declared)  # in this order the properties are asked
PROPERTIES.update(
    {p.name: PROPERTIES.pop(p.name) for part in PARTS for p in vars(part).values() if isinstance(p, Property)}
)
