"""How long steps tell how far they are."""

from typing import Protocol


class Progress(Protocol):
    """Called as a long step goes on; `total` 0 means that nobody knows how much there is.

    unit   "bytes" where that is what is counted, so that a rate can be shown
    """

    def __call__(self, step: str, done: int = 0, total: int = 0, unit: str = "") -> None: ...


def silent(step: str, done: int = 0, total: int = 0, unit: str = "") -> None:
    """No progress is shown."""
