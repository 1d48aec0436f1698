"""Pictures, of losses and of runs: `python -m mini_dpo.plot`."""
