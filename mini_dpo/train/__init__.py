"""The main command, `python -m mini_dpo.train`: SFT, then preference training, then both models measured.

In reading order: the flags (`settings`); which flags contradict each other (`problems`); the command line and
config.json (`parsing`); the two stages of training (`stages`); what a run needs before its first step
(`preparing`); the measuring at the end (`closing`); a whole run (`running`).
"""
