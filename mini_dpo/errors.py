"""The errors that are somebody's to mend, each one clear line. Anything else is a bug of ours and keeps its traceback."""


class UserError(Exception):
    """The input is wrong: the message names the place (file, line, flag) and the remedy. Exit status 2."""


class TrainingFailed(Exception):
    """The input was fine and the run still went wrong (a loss that is not a number). Exit status 1."""
