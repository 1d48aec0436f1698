"""The page of a run, `runs/1/report.html`: one file without scripts, made from the run's files alone.

In reading order: HTML in which no text can be taken for markup (`markup`); the run's files (`reading`); the
curves as SVG (`curves`); each token coloured by its part of the reward (`words`); the page (`page`, with its
colours and widths in `page.css`).
"""
