"""The errors a user can mend: one line that says what was wrong and what to do."""


class UserError(ValueError):
    """Bad input from outside (a file, a row, a folder, a flag). The command line prints it and exits with code 2."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class NotFinite(UserError):
    """A model's output is not a number: its scores would look like perfect forgetting."""


class MissingExtra(UserError):
    """A library of an optional extra is not installed.

    >>> str(MissingExtra("ray", "ray"))
    "ray is not installed: run pip install 'palimpsest[ray]'"
    """

    def __init__(self, library: str, extra: str) -> None:
        super().__init__(f"{library} is not installed: run pip install 'palimpsest[{extra}]'")
