"""The 27 losses once more, as the papers write them: in plain notation, in decimal arithmetic of 40 digits
with exponents to 10^18, and by nothing but the chain rule. No torch, and no stable forms: e^10000 is a number
here like any other. (Only `log_sigma` looks at its argument, and where it does so nothing changes in 40
digits.)

A Number knows three things: its value, its slopes along the policy's log-probs, and how wrong a type of float
could have made it. That last one is the tolerance that the package is granted: the error that is left if each
input, each hyperparameter and each intermediate result of the formula is wrong by one `eps` of the type. What
40 digits lose is bounded by the same sum with 10^-40 for eps, so it is never in question.
"""

from __future__ import annotations

from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, localcontext

DIGITS = Context(prec=40, Emax=MAX_EMAX, Emin=MIN_EMIN)
ROUGHLY = Context(prec=3, Emax=MAX_EMAX, Emin=MIN_EMIN)  # for the size of an error
FAR = Decimal(10**6)  # nats: sigma(-FAR) is less than any type can hold


class Number:
    eps = Decimal(0)  # of the type that is being judged: float32's or float64's

    def __init__(self, value, error=0, slopes=None) -> None:
        """error: how wrong the value was before it was rounded. slopes: by variable, Numbers without slopes
        of their own.
        """
        self.value = Decimal(value)
        self.error = error + self.eps * abs(self.value)
        self.slopes = slopes or {}

    def __neg__(self):
        return self * -1

    def __add__(self, other):
        other = number(other)
        return Number(self.value + other.value, self.error + other.error, chain((1, self), (1, other)))

    def __sub__(self, other):
        other = number(other)
        return Number(self.value - other.value, self.error + other.error, chain((1, self), (-1, other)))

    def __mul__(self, other):
        other = number(other)
        error = abs(self.value) * other.error + abs(other.value) * self.error
        return Number(self.value * other.value, error, chain((other, self), (self, other)))

    def __truediv__(self, other):
        return self * number(other) ** -1

    def __pow__(self, power):
        if power == 2:
            return self * self
        if power == -1:
            y = Number(1 / self.value, self.error / self.value**2)
            y.slopes = chain((-(y * y), self))
            return y
        return exp(power * log(self))

    __radd__, __rmul__ = __add__, __mul__

    def __rsub__(self, other):
        return number(other) - self

    def __rtruediv__(self, other):
        return number(other) / self


def number(x) -> Number:
    return x if isinstance(x, Number) else Number(x)


def bare(x: Number) -> Number:
    """The number without its slopes."""
    return Number(x.value, x.error)


def chain(*parts) -> dict:
    """The slopes of a function of several numbers, from (its partial derivative, the number) each."""
    slopes = {}
    for partial, x in parts:
        if x.slopes and isinstance(partial, Number):
            partial = bare(partial)
        for variable, slope in x.slopes.items():
            step = slope if partial == 1 else slope * partial
            slopes[variable] = slopes[variable] + step if variable in slopes else step
    return slopes


def exp(x: Number) -> Number:
    value = x.value.exp()
    y = Number(value, value * x.error)
    y.slopes = chain((y, x))
    return y


def log(x: Number) -> Number:
    return Number(x.value.ln(), x.error / x.value, chain((bare(x) ** -1, x)))


def reach(nearest: Decimal, error: Decimal) -> Decimal:
    """How far an error carries along a function whose slope is at most 1, and at most e^-nearest within the
    error.
    """
    return error * ROUGHLY.exp(-nearest) if nearest > 0 else error


def sigma(x: Number) -> Number:
    """1 / (1 + e^-x). Its slope sigma (1 - sigma) is right to an eps of 1 only: who has 1 - sigma(x) may have
    written sigma(-x).
    """
    value = 1 / (1 + (-max(x.value, -FAR)).exp())
    error = reach(abs(x.value) - x.error, x.error)
    return Number(value, error, chain((Number(value * (1 - value), error + Number.eps), x)))


def log_sigma(x: Number) -> Number:
    """log(1 / (1 + e^-x)), and its slope e^-x / (1 + e^-x). Beyond 100 nats that is -e^-x or x, to 43
    digits.
    """
    if x.value < -100:
        value, slope = x.value, Decimal(1)
    elif x.value > 100:
        value, slope = -(-x.value).exp(), (-x.value).exp()
    else:
        with localcontext() as context:
            context.prec += max(0, int(x.value)) // 2  # more than are lost where 1 is added to e^-x
            odds = (-x.value).exp()
            value, slope = -(1 + odds).ln(), odds / (1 + odds)
    error = reach(abs(x.value) - x.error, x.error)  # of the slope, which hardly changes at either end
    return Number(value, reach(x.value - x.error, x.error), chain((Number(slope, error), x)))


def maximum(a, b) -> Number:
    a, b = number(a), number(b)
    return one_of(a, b, chosen=a if a.value >= b.value else b)


def minimum(a, b) -> Number:
    a, b = number(a), number(b)
    return one_of(a, b, chosen=b if a.value >= b.value else a)


def one_of(a: Number, b: Number, chosen: Number) -> Number:
    """The chosen one. Where the type cannot tell which is larger, any slope between those of the two is
    right.
    """
    if abs(a.value - b.value) > a.error + b.error:
        return chosen
    slopes, none = {}, Number(0)
    for variable in a.slopes.keys() | b.slopes.keys():
        one, other = a.slopes.get(variable, none), b.slopes.get(variable, none)
        middle, half = (one.value + other.value) / 2, abs(one.value - other.value) / 2
        slopes[variable] = Number(middle, half + max(one.error, other.error))
    return Number(chosen.value, max(a.error, b.error), slopes)


def ascending(numbers: list[Number]) -> list[Number]:
    """Sorted, by exchanging neighbours, so that ties are judged by `maximum`."""
    numbers = list(numbers)
    for end in range(len(numbers) - 1, 0, -1):
        for i in range(end):
            numbers[i : i + 2] = minimum(*numbers[i : i + 2]), maximum(*numbers[i : i + 2])
    return numbers


# --- what the package says it does not do

NO_LIMITS = {"power": Decimal("inf"), "probability": Decimal("inf")}  # their logarithms
limits = dict(NO_LIMITS)


def held(x: Number, kind: str = "power") -> Number:
    """x, as the papers have it; only for a second look at what then differs, x or the documented limit."""
    limit = exp(Number(limits[kind]))
    return x if x.value <= limit.value else limit


# --- the losses


class Response:
    """What is known of a response y: s and s_ref, the sums of its log-probs under the two models, and its n
    tokens.
    """

    def __init__(self, s: Number, ref: Number, n: Number) -> None:
        self.s, self.ref, self.n = s, ref, n
        self.r, self.average = s - ref, s / n

    @property
    def u(self) -> Number:
        """pi / pi_ref."""
        return exp(self.r)

    @property
    def P(self) -> Number:
        """The geometric mean of its tokens' probabilities."""
        return exp(self.average)


def h(w, l):
    return w.r - l.r


def smoothed(m, epsilon):
    return -(1 - epsilon) * log_sigma(m) - epsilon * log_sigma(-m)


F_PRIME = {  # f'(u)
    "reverse_kl": lambda u, alpha: log(u) + 1,
    "forward_kl": lambda u, alpha: -held(1 / u),
    "jensen_shannon": lambda u, alpha: log(2 * u / (1 + u)),
    "alpha": lambda u, alpha: (1 - held(u**-alpha)) / alpha,
}


def chi_squared(u):
    return held(u) + log(u)


def clip(x, low, high):
    return minimum(maximum(x, low), high)


def bent(P, alpha):
    return (1 - held(P**-alpha)) / alpha


def odds(P):
    P = held(P, "probability")
    return P / (1 - P)


def exo(m, epsilon):
    """KL(model || labels): what the model gives to the two responses against the labels' 1 - epsilon and
    epsilon.
    """
    p_w, p_l = sigma(m), sigma(-m)
    return p_w * log(p_w / (1 - epsilon)) + p_l * log(p_l / epsilon)


def discopop(m, tau):
    share = sigma(m / tau)
    # share e^-m; e^-m would magnify the eps that `sigma` is granted
    exponential = exp(-m) / (1 + exp(-m / tau))
    return (1 - share) * -log_sigma(m) + exponential


PAIRS = {  # of a chosen response w and a rejected response l
    "dpo": lambda w, l, beta: -log_sigma(beta * h(w, l)),
    "cdpo": lambda w, l, beta, label_smoothing: smoothed(beta * h(w, l), label_smoothing),
    "rdpo": lambda w, l, beta, label_smoothing: (
        (-(1 - label_smoothing) * log_sigma(beta * h(w, l)) + label_smoothing * log_sigma(-beta * h(w, l)))
        / (1 - 2 * label_smoothing)
    ),
    "dpo_norm": lambda w, l, beta: -log_sigma(beta * (w.r / w.n) - beta * (l.r / l.n)),
    "r_dpo": lambda w, l, beta, alpha: -log_sigma(beta * h(w, l) + alpha * w.n - alpha * l.n),
    "dpop": lambda w, l, beta, penalty: -log_sigma(beta * (h(w, l) - penalty * maximum(0, w.ref - w.s))),
    "f_dpo": lambda w, l, beta, divergence, alpha: (
        -log_sigma(beta * F_PRIME[divergence](w.u, alpha) - beta * F_PRIME[divergence](l.u, alpha))
    ),
    "chipo": lambda w, l, beta, r_max: (
        -log_sigma(clip(beta * chi_squared(w.u) - beta * chi_squared(l.u), -2 * r_max, 2 * r_max))
    ),
    "ipo": lambda w, l, beta, reduction: (
        ((h(w, l) if reduction == "sum" else w.r / w.n - l.r / l.n) - 1 / (2 * beta)) ** 2
    ),
    "hinge": lambda w, l, beta: maximum(0, 1 - beta * h(w, l)),
    "exo": lambda w, l, beta, label_smoothing: exo(beta * h(w, l), label_smoothing),
    "discopop": lambda w, l, beta, tau: discopop(beta * h(w, l), tau),
    "nca": lambda w, l, beta: (
        -log_sigma(beta * w.r) - log_sigma(-beta * w.r) / 2 - log_sigma(-beta * l.r) / 2
    ),
    "bco": lambda w, l, beta, shift: -log_sigma(beta * w.r - shift) - log_sigma(-(beta * l.r - shift)),
    "sppo": lambda w, l, beta: (w.r - 1 / (2 * beta)) ** 2 + (l.r + 1 / (2 * beta)) ** 2,
    "cal_dpo": lambda w, l, beta: (
        -log_sigma(h(w, l)) + (w.r - 1 / (2 * beta)) ** 2 + (l.r + 1 / (2 * beta)) ** 2
    ),
    "apo_zero": lambda w, l, beta: (1 - sigma(beta * w.r)) + sigma(beta * l.r),
    "apo_down": lambda w, l, beta: sigma(beta * w.r) + (1 - sigma(beta * h(w, l))),
    "cpo": lambda w, l, beta, nll_weight: -log_sigma(beta * w.s - beta * l.s) - nll_weight * w.s,
    "simpo": lambda w, l, beta, gamma: -log_sigma(beta * w.average - beta * l.average - gamma),
    "alphapo": lambda w, l, beta, gamma, alpha: (
        -log_sigma(beta * bent(w.P, alpha) - beta * bent(l.P, alpha) - gamma)
    ),
    "orpo": lambda w, l, odds_weight: -w.average - odds_weight * log_sigma(log(odds(w.P) / odds(l.P))),
}

BATCHES = {  # of all chosen and all rejected responses, by rank
    "aot": lambda ws, ls, beta, label_smoothing: [
        smoothed(beta * (u - v), label_smoothing)
        for u, v in zip(
            ascending([w.s - l.s for w, l in zip(ws, ls, strict=True)]),
            ascending([w.ref - l.ref for w, l in zip(ws, ls, strict=True)]),
            strict=True,
        )
    ],
    "aot_unpaired": lambda ws, ls, beta, label_smoothing: [
        smoothed(beta * (r_w - r_l), label_smoothing)
        for r_w, r_l in zip(ascending([w.r for w in ws]), ascending([l.r for l in ls]), strict=True)
    ],
}


def kto(y, liked, mismatched, beta, desirable_weight, undesirable_weight):
    z = maximum(0, sum(mismatched) / len(mismatched))  # a constant: the mismatched log-ratios have no slopes
    value = (
        desirable_weight * sigma(beta * (y.r - z)) if liked else undesirable_weight * sigma(beta * (z - y.r))
    )
    return (desirable_weight if liked else undesirable_weight) - value


# of a response that is liked or not, and the log-ratios of other responses to the batch's prompts
SINGLES = {
    "kto": kto,
    "apo_zero_unpaired": lambda y, liked, mismatched, beta, desirable_weight, undesirable_weight: (
        desirable_weight * (1 - sigma(beta * y.r)) if liked else undesirable_weight * sigma(beta * y.r)
    ),
}

CONTRASTS = {  # of a pair, and of the chosen response to another prompt
    "mdpo": lambda w, l, o, beta, anchor, pair_weight: (
        -pair_weight * log_sigma(beta * h(w, l)) - log_sigma(beta * h(w, o)) - log_sigma(beta * w.r - anchor)
    )
}

LOSSES = PAIRS | BATCHES | SINGLES | CONTRASTS


def answer(
    name: str,
    responses: list[tuple],
    liked: list[bool],
    mismatched: list[float],
    hyper: dict,
    eps: float,
    **documented: Decimal,
) -> list[Number]:
    """The values of the loss for a batch, and then the slopes of their sum along each response's s.

    responses: (s, s_ref, n) each; if the loss compares pairs, all that are chosen and then all that are
        rejected, and for mDPO then all that are chosen, to other prompts.
    liked, mismatched: for losses of single responses. eps: of the type that is judged. documented: the
        `limits` to be kept.
    """
    limits.update(NO_LIMITS | documented)
    Number.eps = Decimal(eps)
    with localcontext(DIGITS):
        hyper = {key: x if isinstance(x, str) else Number(x) for key, x in hyper.items()}
        ys = [
            Response(Number(s, slopes={i: Number(1)}), Number(ref), Number(n))
            for i, (s, ref, n) in enumerate(responses)
        ]
        ws, ls = ys[: len(ys) // 2], ys[len(ys) // 2 :]
        if name in SINGLES:
            values = [
                SINGLES[name](y, like, [Number(r) for r in mismatched], **hyper)
                for y, like in zip(ys, liked, strict=True)
            ]
        elif name in CONTRASTS:
            thirds = [ys[i * len(ys) // 3 : (i + 1) * len(ys) // 3] for i in range(3)]
            values = [CONTRASTS[name](*ys, **hyper) for ys in zip(*thirds, strict=True)]
        elif name in BATCHES:
            values = BATCHES[name](ws, ls, **hyper)
        else:
            values = [PAIRS[name](w, l, **hyper) for w, l in zip(ws, ls, strict=True)]
        slopes = sum(values).slopes
        return values + [slopes.get(i, Number(0)) for i in range(len(ys))]
