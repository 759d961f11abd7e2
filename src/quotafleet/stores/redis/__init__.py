"""Buckets in Redis or Valkey: one quota for all processes and machines.

Theory of operation. The state is in the server, and each claim is one run of one script there: it
takes in what calls of this process used, then reserves on the first account that fits, on all its
buckets or none. Time is the server's own; what it answers are durations, placed on this process's
monotonic clock when they arrive.

What a process holds is a *view*: the accounts and buckets that strategies compare, as of the last
answer. It decides nothing. Settlements lie in a *buffer* until the next claim takes them along, or
the companion thread brings them over. Each batch has a number, so a batch that is sent again, since
its answer was lost, counts once; a claim has an id for the same reason.

Where no account fits, the head of a lane *books*: the costs are taken at once, to be used from the
instant when there will have been enough. Heads of all processes so come in the order in which they
asked, and each asks once. See `docs/architecture.md`.
"""

from ._report import FleetReport, read_fleet
from ._revive import revive_fleet
from .store import RedisStore

__all__ = ["FleetReport", "RedisStore", "read_fleet", "revive_fleet"]
