"""Where the time of a DPO step goes, measured: `python -m mini_dpo.bench`."""
