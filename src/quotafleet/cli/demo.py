"""``quotafleet demo``: what a fleet of keys does that one key can't, shown on this machine."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from ._console import SOME_FAILED, errors_told, out

#: A mock fleet of 420 requests a minute is full at the start; what exceeds that takes 1/7 s each,
#: twice over: the whole stays well under a minute.
REQUESTS: Final = 560


def demo(
    requests: Annotated[int, typer.Option(min=1, help="Requests to send.", hidden=True)] = REQUESTS,
) -> None:
    """Run a batch over a mock provider: a fleet of keys, then one key alone. Under a minute.

    Exit code 0: the fleet answered every request; 1: it did not.
    """
    from ._demo import show  # noqa: PLC0415 - the SDK and the mock take a second to import

    with errors_told():
        fleet, _ = show(out(), requests)
    if fleet.answered < requests or fleet.lost:
        raise typer.Exit(SOME_FAILED)
