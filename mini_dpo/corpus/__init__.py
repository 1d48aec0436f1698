"""The examples of a run: which fit the context (`fitting`), what a user should know about a file (`remarks`),
which are trained on and which are held out (`splits`), and which are made shorter (`shortening`).
"""
