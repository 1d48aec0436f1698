"""What everything else is held to.

bradley_terry.py   the closed forms: partition function, optimum, implicit reward, gradient
tabular.py         policies as tables: the laboratory of the chapters
probe.py           asking a loss about pairs, or along the margin
"""
