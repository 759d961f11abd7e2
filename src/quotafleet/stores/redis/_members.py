"""Which processes of a fleet are there: each says so with every exchange, and is forgotten else.

What one says of itself travels as JSON; since when it runs, and until when it is taken for alive,
the server notes on its own clock.
"""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass
from struct import Struct
from typing import Final

#: Seconds after its last word for which a process is taken for alive: some lost exchanges.
ALIVE_FOR: Final = 10.0

_SINCE: Final = Struct(">d")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessReport:
    """One process of a fleet, as of its last word.

    Args:
        process: its name in the store.
        host: the machine's name.
        pid: the process id there.
        runs_for: seconds since its store was made.
        in_flight: calls that hold a reservation, or have one booked.
        waiting: calls that wait for headroom.
    """

    process: str
    host: str
    pid: int
    runs_for: float
    in_flight: int
    waiting: int


def about(in_flight: int, waiting: int) -> str:
    """Return what this process says of itself."""
    said = {"host": socket.gethostname(), "pid": os.getpid()}
    return json.dumps({**said, "in_flight": in_flight, "waiting": waiting})


def read_process(name: str, said: bytes, now: float) -> ProcessReport:
    """Read what a process said; `now` is in seconds of the server's clock."""
    (since,) = _SINCE.unpack_from(said)
    told = json.loads(said[_SINCE.size :])
    return ProcessReport(
        process=name,
        host=told["host"],
        pid=told["pid"],
        runs_for=max(0.0, now - since / 1e6),
        in_flight=told["in_flight"],
        waiting=told["waiting"],
    )
