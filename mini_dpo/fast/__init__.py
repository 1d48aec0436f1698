"""What only makes training faster: the same numbers without it, more slowly.

A fast way is taken after a trial against the plain one (`trial`): attention over a packed row in one kernel
(`flex`), and the blocks as torch.compile makes them (`compiled`).
"""
