"""The main command, `python -m mini_dpo.train`: SFT, then preference training, then both measured.

Its flags (`settings`), what contradicts what (`problems`), the command line and config.json (`parsing`); then
what a run needs before its first step (`preparing`), its two stages (`stages`), its end (`closing`), and the
whole of it (`running`).
"""
