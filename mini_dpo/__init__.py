"""mini_dpo: Direct Preference Optimization from scratch, small enough to read in an evening."""

import signal
import sys

__version__ = "0.4.0"

# a command is loading, `python -m mini_dpo.X`: until it can answer, Ctrl-C ends it without a traceback
if sys.argv[:1] == ["-m"]:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
