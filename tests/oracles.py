"""The same things the slow way, in NumPy and plain loops that anyone can check by eye. No torch, no batching, no mask
tricks: what the package computes is held against these."""

from __future__ import annotations

import math

import numpy as np


def weights(model) -> dict[str, np.ndarray]:
    """A model's parameters as float64 arrays."""
    return {name: parameter.detach().double().numpy() for name, parameter in model.named_parameters()}


def layer_norm(x, gain, bias):
    return (x - x.mean()) / np.sqrt(x.var() + 1e-5) * gain + bias


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def gpt2_logits(model, ids: list[int]) -> np.ndarray:
    """GPT-2's forward pass on one sequence, position by position, head by head: (T, V)."""
    w, config = weights(model), model.config
    D = config.n_embd // config.n_head
    stream = [w["wte.weight"][token] + w["wpe.weight"][t] for t, token in enumerate(ids)]
    for i in range(config.n_layer):
        b = f"h.{i}."
        queries, keys, values = [], [], []
        for x in stream:
            x = layer_norm(x, w[b + "ln_1.weight"], w[b + "ln_1.bias"])
            q, k, v = np.split(w[b + "attn.c_attn.weight"] @ x + w[b + "attn.c_attn.bias"], 3)
            queries.append(q), keys.append(k), values.append(v)
        for t in range(len(ids)):
            heads = []
            for h in range(config.n_head):
                s = slice(h * D, (h + 1) * D)
                attention = softmax(np.array([queries[t][s] @ keys[u][s] / math.sqrt(D) for u in range(t + 1)]))
                heads.append(sum(a * values[u][s] for u, a in enumerate(attention)))
            stream[t] = stream[t] + w[b + "attn.c_proj.weight"] @ np.concatenate(heads) + w[b + "attn.c_proj.bias"]
        for t, x in enumerate(stream):
            y = layer_norm(x, w[b + "ln_2.weight"], w[b + "ln_2.bias"])
            y = gelu(w[b + "mlp.c_fc.weight"] @ y + w[b + "mlp.c_fc.bias"])
            stream[t] = x + w[b + "mlp.c_proj.weight"] @ y + w[b + "mlp.c_proj.bias"]
    return np.array([w["wte.weight"] @ layer_norm(x, w["ln_f.weight"], w["ln_f.bias"]) for x in stream])


def response_logp(model, prompt: list[int], response: list[int]) -> float:
    """log pi(response | prompt): read what stands so far, look at the last position's prediction, add up."""
    total, seen = 0.0, list(prompt)
    for token in response:
        total += math.log(softmax(gpt2_logits(model, seen)[-1])[token])
        seen.append(token)
    return total


# ------------------------------------------------------------------- the losses, pair by pair, with Python's own floats
# w and l are what is known of the chosen and the rejected response.


class Known:
    """One response: s under the policy, s under the reference, tokens."""

    def __init__(self, s: float, ref: float, n: float) -> None:
        self.s, self.ref, self.n = s, ref, n
        self.r, self.average = s - ref, s / n


def nll(m: float) -> float:
    """-log sigma(m)."""
    return math.log1p(math.exp(-m)) if m > 0 else -m + math.log1p(math.exp(m))


def sigma(m: float) -> float:
    return math.exp(-nll(m))


def h(w: Known, l: Known) -> float:
    return w.r - l.r


def smoothed(m: float, e: float) -> float:
    return (1 - e) * nll(m) + e * nll(-m)


def exo(q: float, e: float) -> float:
    """KL of a coin of probability q from one of 1 - e."""
    return sum(a * math.log(a / b) if a else 0.0 for a, b in ((q, 1 - e), (1 - q, e)))


def discopop(m: float, tau: float) -> float:
    w = sigma(m / tau)
    return (1 - w) * nll(m) + (w * math.exp(-m) if w else 0.0)


F_PRIME = {
    "reverse_kl": lambda u, alpha: math.log(u) + 1,
    "forward_kl": lambda u, alpha: -1 / u,
    "jensen_shannon": lambda u, alpha: math.log(2 * u / (1 + u)),
    "alpha": lambda u, alpha: (1 - u**-alpha) / alpha,
}


def log_odds(average: float) -> float:
    return math.log(math.exp(average) / (1 - math.exp(average)))


LOSSES = {
    "dpo": lambda w, l, beta: nll(beta * h(w, l)),
    "cdpo": lambda w, l, beta, label_smoothing: smoothed(beta * h(w, l), label_smoothing),
    "rdpo": lambda w, l, beta, label_smoothing: ((1 - label_smoothing) * nll(beta * h(w, l)) - label_smoothing * nll(beta * h(l, w))) / (1 - 2 * label_smoothing),
    "dpo_norm": lambda w, l, beta: nll(beta * (w.r / w.n - l.r / l.n)),
    "r_dpo": lambda w, l, beta, alpha: nll(beta * h(w, l) + alpha * w.n - alpha * l.n),
    "dpop": lambda w, l, beta, penalty: nll(beta * (h(w, l) - penalty * max(0.0, w.ref - w.s))),
    "f_dpo": lambda w, l, beta, divergence, alpha: nll(beta * F_PRIME[divergence](math.exp(w.r), alpha) - beta * F_PRIME[divergence](math.exp(l.r), alpha)),
    "chipo": lambda w, l, beta, r_max: nll(min(2 * r_max, max(-2 * r_max, beta * (math.exp(w.r) + w.r) - beta * (math.exp(l.r) + l.r)))),
    "ipo": lambda w, l, beta, reduction: ((h(w, l) if reduction == "sum" else w.r / w.n - l.r / l.n) - 1 / (2 * beta)) ** 2,
    "hinge": lambda w, l, beta: max(0.0, 1 - beta * h(w, l)),
    "exo": lambda w, l, beta, label_smoothing: exo(sigma(beta * h(w, l)), label_smoothing),
    "discopop": lambda w, l, beta, tau: discopop(beta * h(w, l), tau),
    "nca": lambda w, l, beta: nll(beta * w.r) + 0.5 * nll(-beta * w.r) + 0.5 * nll(-beta * l.r),
    "bco": lambda w, l, beta, shift: nll(beta * w.r - shift) + nll(-(beta * l.r - shift)),
    "sppo": lambda w, l, beta: (w.r - 0.5 / beta) ** 2 + (l.r + 0.5 / beta) ** 2,
    "cal_dpo": lambda w, l, beta: nll(h(w, l)) + (w.r - 0.5 / beta) ** 2 + (l.r + 0.5 / beta) ** 2,
    "apo_zero": lambda w, l, beta: (1 - sigma(beta * w.r)) + sigma(beta * l.r),
    "apo_down": lambda w, l, beta: sigma(beta * w.r) + (1 - sigma(beta * h(w, l))),
    "cpo": lambda w, l, beta, nll_weight: nll(beta * (w.s - l.s)) - nll_weight * w.s,
    "simpo": lambda w, l, beta, gamma: nll(beta * w.average - beta * l.average - gamma),
    "alphapo": lambda w, l, beta, gamma, alpha: nll(beta * (1 - math.exp(w.average) ** -alpha) / alpha - beta * (1 - math.exp(l.average) ** -alpha) / alpha - gamma),
    "orpo": lambda w, l, odds_weight: -w.average + odds_weight * nll(log_odds(w.average) - log_odds(l.average)),
    # for batches of one pair, and for the sum over a liked and a disliked response where z is 0
    "aot": lambda w, l, beta, label_smoothing: smoothed(beta * h(w, l), label_smoothing),
    "aot_unpaired": lambda w, l, beta, label_smoothing: smoothed(beta * h(w, l), label_smoothing),
    "kto": lambda w, l, beta, desirable_weight, undesirable_weight: desirable_weight * (1 - sigma(beta * w.r)) + undesirable_weight * (1 - sigma(-beta * l.r)),
    "apo_zero_unpaired": lambda w, l, beta, desirable_weight, undesirable_weight: desirable_weight * (1 - sigma(beta * w.r)) + undesirable_weight * sigma(beta * l.r),
}  # fmt: skip
