"""The id of this process, known without asking the system: some take microseconds to answer."""

from __future__ import annotations

import os


class _Process:
    """Knows the id, also after a fork."""

    __slots__ = ("pid",)

    def __init__(self) -> None:
        self.look()
        if hasattr(os, "register_at_fork"):  # where there are no forks, it stays what it is
            os.register_at_fork(after_in_child=self.look)

    def look(self) -> None:
        self.pid = os.getpid()


_process = _Process()


def pid() -> int:
    """Return the id of this process."""
    return _process.pid
