"""Where the time of a DPO step goes, measured: `python -m mini_dpo.bench`.

workload.py   what all rows measure
steps.py      slow steps, as a naive program has them
rows.py       the rows of the table, and how one is measured
trl.py        TRL's trainer on the same batches
tables.py     all rows as a table
growth.py     how the cost grows
"""
