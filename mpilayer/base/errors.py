"""The exceptions that are shown without a traceback."""


class UserError(Exception):
    """Something the user can mend. The message says what was wrong, where, what was expected and what to try."""


class AgreedError(UserError):
    """A UserError that every rank raises at the same point, so that all can leave in good order."""
