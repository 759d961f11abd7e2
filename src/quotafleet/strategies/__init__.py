"""Strategies rank the owners that may serve a call; they never reserve.

All of them yield lazily, so a call costs the same however many owners there are.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final

from .._plugins import find
from ..errors import ConfigError
from ..protocols import Strategy
from .headroom import HeadroomWeighted
from .rotation import RoundRobin
from .usage import LeastUsed

__all__ = ["STRATEGIES", "HeadroomWeighted", "LeastUsed", "RoundRobin", "strategy"]

#: The strategies that come with quotafleet, by the name in a configuration.
STRATEGIES: Final[dict[str, Callable[[Random], Strategy]]] = {
    "round-robin": lambda random: RoundRobin(),
    "least-used": LeastUsed,
    "headroom-weighted": HeadroomWeighted,
}

#: The group of entry points under which a package offers strategies: classes that are made
#: without arguments.
ENTRY_POINTS: Final = "quotafleet.strategies"


def strategy(name: str, random: Random) -> Strategy:
    """Return a new strategy: by its name, an entry point's name, or ``"package.module:Class"``.

    Raises:
        ConfigError: there is none of that name, or it can't be made.
    """
    if name in STRATEGIES:
        return STRATEGIES[name](random)
    found = find(name, kind="strategy", builtin=STRATEGIES, group=ENTRY_POINTS)
    try:
        made = found()  # type: ignore[operator]  # checked by calling it
    except Exception as error:  # a user's code may raise anything
        raise ConfigError(
            f"strategy {name!r} can't be made: {type(error).__name__}: {error}",
            cure="It must be a class that is made without arguments",
            place="strategy",
        ) from error
    if not callable(getattr(made, "rank", None)):
        raise ConfigError(
            f"strategy {name!r} has no method `rank`",
            cure="See quotafleet.testing.StrategyContract",
            place="strategy",
        )
    return made  # type: ignore[no-any-return]  # it has the method that the protocol asks for
