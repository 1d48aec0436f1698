"""The same things the slow way, in NumPy and plain loops that anyone can check by eye. No torch, no batching,
no mask
tricks: what the package computes is held against these. The losses are in papers.py.
"""

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
                attention = softmax(
                    np.array([queries[t][s] @ keys[u][s] / math.sqrt(D) for u in range(t + 1)])
                )
                heads.append(sum(a * values[u][s] for u, a in enumerate(attention)))
            stream[t] = (
                stream[t] + w[b + "attn.c_proj.weight"] @ np.concatenate(heads) + w[b + "attn.c_proj.bias"]
            )
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
