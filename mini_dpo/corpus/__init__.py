"""Which examples a run trains on and which are held out (`splits`), which of them fit (`fitting`), and what
is remarkable about a file (`remarks`).
"""
