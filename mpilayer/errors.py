"""The one exception that is shown without a traceback."""


class UserError(Exception):
    """Something the user can mend. The message says what was wrong, where, what was expected and what to try."""
