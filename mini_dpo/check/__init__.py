"""What every loss is held to, and the search for the smallest example that breaks it: `python -m mini_dpo.check NAME`.

    required.py   what holds for every loss: what it gives, and in which direction it pulls
    numerics.py   what holds of its numbers
    usable.py     what the trainer and the command line need
    declared.py   the facts that a loss declares, held to be true
    formula.py    the docstring's formula, read
    decimals.py   and computed
    examples.py   what is drawn, and how it is written down
    judge.py      a property, the search, the verdict
"""

from mini_dpo.check import required as _required, numerics as _numerics, usable as _usable, declared as _declared  # noqa: F401, I001: they register, in the page's order
from mini_dpo.check.judge import EXAMPLES, PROPERTIES, Property, Verdict, examine

__all__ = ["EXAMPLES", "PROPERTIES", "Property", "Verdict", "examine"]
