"""The exceptions that are shown without a traceback."""


class UserError(Exception):
    """Something that the user can mend; the command line shows it without a traceback.

    The message reads `where | what is wrong | expected ... | try: ...`, as far as these are known. It is one line: what
    cannot be printed in what the user has given is escaped.
    """

    def __init__(self, message=""):
        super().__init__("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(message)))


class AgreedError(UserError):
    """A UserError that every rank raises at the same point, so that all can leave in good order."""


class HangError(UserError):
    """Nothing has moved on any rank for too long; the message names those that the others wait for."""
