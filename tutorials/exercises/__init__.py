"""Exercises: fill in the functions in chapter_01.py to chapter_10.py, then `python -m tutorials.exercises 1`.

The checks are in checks/. One way to solve each is in solutions/; have a look when you are done, or stuck.
"""
