"""The drawings of the chapters' pictures, by chapter.

slide.py   the list of all drawings, boxes and arrows
first.py   chapters 1 to 6
second.py  chapters 7 to 11
third.py   chapters 12 to 17
fourth.py  chapters 18 to 22
"""

from tutorials.drawings import first, fourth, second, third
from tutorials.drawings.slide import DRAWINGS

__all__ = ["DRAWINGS", "first", "fourth", "second", "third"]
