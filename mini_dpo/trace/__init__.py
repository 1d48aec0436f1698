"""Which pairs of the training data moved the model on one answer: the mathematics (`influence`), a run's way
from its SFT model to its last one (`path`), and a world where every pair's part is known (`laboratory`).
"""
