"""Pictures, of losses and of runs: `python -m mini_dpo.plot`.

numbers.py      what is drawn of a loss: its value along the margin
paper.py        what all pictures share
losses.py       value and slope of every loss
runs.py         the curves of a run, and of several side by side
comparison.py   the picture of `compare`
"""
