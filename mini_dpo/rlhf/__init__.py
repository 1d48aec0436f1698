"""The opponent: RLHF as DPO's authors meant it. A reward model is fitted to the preferences (`reward`), the
policy writes answers (`rollout`), and learns from their scores (`algorithms`, `loop`).

DPO is supervised learning, and shares SFT's loop. This needs a loop of its own, because its data are what the
policy itself writes, and change with each step.
"""
