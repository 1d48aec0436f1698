"""The examples of a run: which fit the context (`fitting`), what a user should know about a file (`remarks`),
and which are trained on and which are held out (`splits`).
"""
