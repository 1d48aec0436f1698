"""Closed forms, policies as tables, and asking a loss about pairs: what everything else is held to."""
