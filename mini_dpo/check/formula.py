"""Reading the formula in a loss's docstring. (decimals.py computes it.)

    L = -(1 - epsilon) log sigma(m) - epsilon log sigma(-m),   m = beta h

The first equation is the loss of one example, the others define what it uses; three blanks or a new line
stand between two equations. What can be written:

    + - / ^ and < >     a product is written side by side: beta h; brackets are ( ) or [ ]
    log exp sigma max min clip abs sqrt     log may go without brackets: log sigma(m)
    mean(...), sorted(...)                  over the batch
    h  r_w  r_l  r_o  r  s(y_w)  s_ref(y_w)  |y_w|     as in losses/; r' are the mismatched log-ratios, e
    is Euler's u = e^r             also defines u_w and u_l; so does anything else that is said of y or of r
    f(u) = log u        a function A if sum, B if mean                     by a hyperparameter's word; liked /
    not of a single response

Hyperparameters go by their names, or by the symbol that stands first in their line: `label_smoothing:
epsilon, ...`. Where a formula could be read in two ways (1 / 2 x), it is not read at all.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal

from mini_dpo.check.places import FUNCTIONS, Body, Incomplete, Place, Unreadable, power, quotient

TOKEN = re.compile(r"\s*(?:(\d+(?:\.\d+)?(?:e-?\d+)?)|([^\W\d]\w*'*)|([-+*/^()\[\]|,<>=]))")

GREEK = str.maketrans(
    {
        "σ": "sigma",
        "β": "beta",
        "γ": "gamma",
        "δ": "delta",
        "ε": "epsilon",
        "λ": "lambda",
        "τ": "tau",
        "α": "alpha",
        "·": "*",
        "−": "-",
    }
)


class Reader:
    """One equation's tokens, read from left to right; each method reads one kind of thing and leaves what
    follows.
    """

    def __init__(self, text: str, functions: set[str], words: set[str]) -> None:
        self.tokens, self.functions, self.words = list(split(text)), functions, words
        self.loose = ""  # the exponent that was just read, if it is not clear where it ends

    @property
    def next(self) -> str:
        return self.tokens[0] if self.tokens else ""

    def take(self, expected: str = "") -> str:
        if not self.tokens or (expected and self.next != expected):
            raise Unreadable(f"{expected or 'something'} is missing before {self.next or 'its end'!r}")
        return self.tokens.pop(0)

    def all(self) -> Body:
        body = self.cases()
        if self.tokens:
            raise Unreadable(f"{self.next!r} is not expected there")
        return body

    def cases(self) -> Body:
        """A if sum, B if mean."""
        cases = [self.case()]
        while cases[-1][1] and self.next == ",":
            self.take()
            cases.append(self.case())
        if not cases[0][1]:
            return cases[0][0]

        def choose(place: Place) -> Decimal:
            for body, word in cases:
                if word in place.words or (
                    word in ("liked", "not") and place.liked[place.i] == (word == "liked")
                ):
                    return body(place)
            raise Incomplete(f"none of its cases is {', '.join(place.words) or 'this one'}")

        return choose

    def case(self) -> tuple[Body, str]:
        body = self.comparison()
        if self.next != "if":
            return body, ""
        self.take()
        return body, self.take()

    def comparison(self) -> Body:
        left = self.sum()
        if self.next not in ("<", ">"):
            return left
        sign = self.take()
        return combined(operator.lt if sign == "<" else operator.gt, left, self.sum())

    def sum(self) -> Body:
        total = self.product()
        while self.next in ("+", "-"):
            sign = self.take()
            if self.next in ("+", "-"):
                raise Unreadable(f"{sign!r} before {self.next!r}: a positive part is max(0, x)")
            total = combined(operator.add if sign == "+" else operator.sub, total, self.product())
        return total

    def product(self) -> Body:
        """Factors side by side, or with / and * between them. 1/2 f(x) is a half of f(x); 1 / 2 x could be
        two things.
        """
        if self.next == "-":
            self.take()
            rest = self.product()
            return lambda place: -rest(place)
        plain = self.next[:1].isdecimal()  # so far, a number over a number
        value, divided = self.power(), False
        while self.next and (self.next in "*/([" or self.starts_factor()):
            sign = self.take() if self.next in ("*", "/") else ""
            if self.loose and sign != "*" and not (self.loose == "2" and not sign):
                raise Unreadable("it is not clear where an exponent ends: use brackets")
            if (
                not sign
                and self.next in "(["
                and self.tokens[2:]
                and self.tokens[1][0].isdecimal()
                and self.tokens[2] in ")]"
            ):
                raise Unreadable(f"({self.tokens[1]}) may be a number of the equation, not a factor")
            if divided and not sign and not (plain and (self.next in self.functions or self.next in "([")):
                raise Unreadable(
                    f"what stands before {self.next!r} could be divided by more than one thing: use brackets"
                )
            plain = plain and sign == "/" and self.next[:1].isdecimal()
            divided = sign == "/"
            value = combined(quotient if divided else operator.mul, value, self.power())
        return value

    def starts_factor(self) -> bool:
        return (self.next[0].isalnum() and self.next != "if") or (
            self.next == "|" and self.tokens[2:3] == ["|"]
        )

    def power(self) -> Body:
        base, self.loose = self.factor(), ""
        if self.next != "^":
            return base
        self.take()
        negative = self.next == "-" and self.take() == "-"
        bare = self.next
        exponent = self.factor()
        # after e^-x or e^x a further factor may belong to the exponent, after y^1 a /; y^2 is at an end
        self.loose = (
            ""
            if bare in "([" or (not negative and bare[0].isdecimal() and bare != "1")
            else "2"
            if bare == "1" and not negative
            else bare
        )
        sign = -1 if negative else 1
        return lambda place: power(base(place), sign * exponent(place))

    def factor(self) -> Body:
        token = self.take()
        if token in ("(", "["):
            inner = self.comparison()
            self.take({"(": ")", "[": "]"}[token])
            return inner
        if token == "|":
            name = self.take()
            self.take("|")
            if name not in ("y", "y_w", "y_l"):
                raise Unreadable(f"|{name}|: bars stand for the length of a response; write abs({name})")
            return lambda place: place.response(name).length
        if token[0].isdecimal():
            return lambda place: Decimal(token)
        if not token[0].isalpha():
            raise Unreadable(f"{token!r} is not expected there")
        if self.next == "(" and token in ("s", "s_ref", "r"):
            self.take()
            name = self.take()
            self.take(")")
            if name not in ("y", "y_w", "y_l"):
                raise Unreadable(f"{token}({name}): it is of y, y_w or y_l")
            return {
                "s": lambda place: place.response(name).s,
                "s_ref": lambda place: place.response(name).s - place.response(name).r,
                "r": lambda place: place.response(name).r,
            }[token]
        if token in self.functions:
            return self.call(token)
        return lambda place: place.number(token)

    def call(self, name: str) -> Body:
        if self.next == "(":
            self.take()
            arguments = [self.comparison()]
            while self.next == ",":
                self.take()
                arguments.append(self.comparison())
            self.take(")")
        else:  # log sigma(m), log u
            bare = self.next not in self.functions
            arguments = [self.factor()]
            if self.next in ("^", "(") or (
                bare and (self.next == "/" or (self.next and self.next[0].isalnum() and self.next != "if"))
            ):
                raise Unreadable(f"it is not clear where the argument of {name} ends: use brackets")
        if name in ("mean", "sorted"):
            if len(arguments) != 1:
                raise Unreadable(f"{name} is of one thing")
            return over_batch(name, arguments[0])

        def value(place: Place) -> Decimal:
            values = [argument(place) for argument in arguments]
            if name in place.formula:
                equation = place.formula[name]
                return equation.body(replace(place, local={**place.local, equation.parameter: values[0]}))
            return FUNCTIONS[name](*values)

        return value


def combined(operation: Callable, left: Body, right: Body) -> Body:
    return lambda place: operation(left(place), right(place))


def over_batch(name: str, argument: Body) -> Body:
    """mean(...) and sorted(...). A mean of r' is one over the mismatched log-ratios."""

    def values(place: Place) -> list[Decimal]:
        try:
            return [argument(replace(place, i=i)) for i in range(len(place.examples))]
        except Unreadable:
            if not place.mismatched:
                raise
            return [argument(replace(place, local={**place.local, "r'": r})) for r in place.mismatched]

    def value(place: Place) -> Decimal:
        if name == "sorted":
            return sorted(values(place))[place.i]
        found = values(place.constant or place)
        return sum(found, Decimal()) / len(found)

    return value


def split(text: str) -> Iterator[str]:
    """The tokens of a text."""
    at = 0
    text = text.translate(GREEK).rstrip()
    while at < len(text):
        match = TOKEN.match(text, at)
        if not match:
            raise Unreadable(f"{text[at:].split()[0]!r} is not a sign of a formula")
        yield match[match.lastindex or 0]
        at = match.end()
