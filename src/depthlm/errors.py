"""The one exception for bad input.

Raised anywhere in the library, caught once in `cli/__init__.py`: one line on stderr, exit status 2. The message says
what is wrong, where, and what would mend it; it never contains a newline.
"""

_LONGEST = 1000  # characters; what quotes more than that of its input hides what is wrong with it


class InputError(ValueError):
    """The user's input cannot be used as it is.

    The message becomes one line of bounded length without control characters: names and values in it are the
    input's, and a terminal would obey them. `whole` is what it was made of.
    """

    def __init__(self, message: str) -> None:
        self.whole = message
        line = "".join(c if c.isprintable() else "?" for c in " ".join(message.split()))
        if len(line) > _LONGEST:
            line = f"{line[: _LONGEST * 2 // 3]} ... {line[-_LONGEST // 3 :]}"
        super().__init__(line)


class StoppedError(Exception):
    """Work was told to stop and has saved what it did; the message says where and how to go on. No failure."""


class NothingToAskError(InputError):
    """The data holds nothing that a task asks about; of several tasks the others can still be asked."""


class BackendError(Exception):
    """A server does not answer; nothing is wrong with the input. The message says what is kept and how to go on."""
