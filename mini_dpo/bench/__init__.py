"""Where the time of a DPO step goes, measured: `python -m mini_dpo.bench`.

workload.py   what all rows measure
steps.py      the steps that the ladder leaves behind
rows.py       the ladder's rows, and how one is measured
tables.py     all of them as a table
trl.py        TRL's trainer beside it
growth.py     how the cost grows
"""
