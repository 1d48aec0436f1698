"""The page of a run, `runs/1/report.html`: one file without scripts, made from the run's files alone.

In reading order: HTML in which no text can be taken for markup (`markup`); the run's files (`reading`); what
came out (`outcome`); the curves as SVG (`curves`); the answers (`answers`); each token coloured by its part
of the reward (`words`); the whole page (`page`, with its colours and widths in `page.css`).
"""
