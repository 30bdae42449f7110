"""The errors a user can mend: one line that says what was wrong and what to do."""

LONGEST = 300  # characters of a word in a message; most file systems end names at 255


class UserError(ValueError):
    """Bad input from outside (a file, a row, a folder, a flag). The command line prints it and exits with code 2.

    What a message quotes may be of any length: an endless word is cut in its middle.

    >>> len(str(UserError("unknown name " + "x" * 10**6)))
    313
    """

    def __init__(self, message: str) -> None:
        half = (LONGEST - 1) // 2
        words = (
            word if len(word) <= LONGEST else f"{word[: LONGEST - 1 - half]}…{word[-half:]}" for word in message.split()
        )
        super().__init__(" ".join(words))


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory has ended, the machine's or its accelerator's.

    >>> out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"))
    True
    """
    said = ("not enough memory", "can't allocate memory", "cannot allocate memory", "out of memory")
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in said)


class NotFinite(UserError):
    """A model's output is not a number: its scores would look like perfect forgetting."""


class MissingExtra(UserError):
    """A library of an optional extra is not installed.

    >>> str(MissingExtra("ray", "ray"))
    "ray is not installed: run pip install 'palimpsest[ray]'"
    """

    def __init__(self, library: str, extra: str) -> None:
        super().__init__(f"{library} is not installed: run pip install 'palimpsest[{extra}]'")
