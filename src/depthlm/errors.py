"""The one exception for bad input.

Raised anywhere in the library, caught once in `cli/__init__.py`: one line on stderr, exit status 2. The message says
what is wrong, where, and what would mend it; it never contains a newline.
"""


class InputError(ValueError):
    """The user's input cannot be used as it is."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class StoppedError(Exception):
    """Work was told to stop and has saved what it did; the message says where and how to go on. No failure."""


class NothingToAskError(InputError):
    """The data holds nothing that a task asks about; of several tasks the others can still be asked."""


class BackendError(Exception):
    """A server does not answer; nothing is wrong with the input. The message says what is kept and how to go on."""
