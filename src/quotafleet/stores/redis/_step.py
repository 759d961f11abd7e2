"""One step: what it asks of the script, and what that answers. Bytes, and nothing else.

`_lua/request.lua` and `_lua/step.lua` tell the same from their side.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import inf
from struct import Struct, pack
from typing import Final

from ..._core.quota.account import Account
from ..._core.quota.reservations import Reservation
from ...limits import Costs
from ._buffer import Batch
from ._codec import FOREVER, UNUSED
from ._replica import Known

#: What the script answers to a claim.
GRANTED, SHORT, OVERSIZE, MISSING, MOVED = 0, 1, 2, 3, 5

_HEADER: Final = Struct(">3d2B4HI")
_CLAIM: Final = Struct(">H3B8d")
_PLACE: Final = Struct(">H")
_LENGTH: Final = Struct(">I")
_WANT: Final = Struct(">7d")
_REPLY: Final = Struct(">d5H")
_ANSWER: Final = Struct(">BH3dH")
_VIEW: Final = Struct(">3H")
#: What a claim wants of its accounts to be lent, in each metric; nothing = no share.
Wants = dict[Account, list[float]]


@dataclass(slots=True, eq=False)
class ClaimRequest:
    """What one claim says in a step; without accounts it is none, and a batch goes, or nothing.

    Args:
        group: the step that it may go with: in a cluster, its owner's.
        accounts: the candidates, the best first.
        number: what its reservation is to be called.
        create: the server is told how to make what it lacks.
        again: it was asked before, and no answer came.
        waits: it stands in the row for slots, if it is short of one.
        horizon: microseconds up to which it may be booked; -1 = it may not.
        held: a future that it is to be exchanged for.
        wants: the shares that are wanted along with it.
        tells: who waits is told of what came free by its step, if it leads.
        sent_at: when it left; ``None`` = it hasn't yet.
    """

    group: str
    accounts: Sequence[Account] = ()
    number: int = 0
    costs: Costs = UNUSED
    create: bool = False
    again: bool = False
    waits: bool = False
    horizon: float = -1
    held: Reservation | None = None
    wants: Wants = field(default_factory=dict)
    tells: bool = True
    sent_at: float | None = None


@dataclass(slots=True, eq=False)
class Round:
    """What goes to the server in one step of a group, and in which words."""

    group: str
    asks: Sequence[ClaimRequest]
    batch: Batch | None
    keys: list[str]
    text: bytes
    #: Whose account stands at which place, from 1 on, as far as claims are concerned.
    accounts: dict[int, Account]
    sent_at: float


class Places:
    """The accounts that a step speaks of: each stands in it once, and is told by its place."""

    __slots__ = ("_places", "accounts", "keys", "parts")

    def __init__(self) -> None:
        self._places: dict[tuple[str, bytes], int] = {}
        self.keys: list[str] = []
        self.parts: list[bytes] = []
        self.accounts: dict[int, Account] = {}

    def of(self, prefix: str, blob: bytes) -> int:
        """Return the place of an account by its keys' prefix and by what is configured of it."""
        place = self._places.get((prefix, blob))
        if place is None:
            self.keys.append(prefix)
            self.parts.append(_LENGTH.pack(len(blob)) + blob + b"\0\0\0\0")
            place = self._places[prefix, blob] = len(self.keys)
        return place

    def candidate(self, account: Account, known: Known, levels: bytes | None) -> int:
        """Return the place of a claim's candidate; what it lacks is made at `levels`, if given."""
        blob = known.blob
        place = self.of(known.prefix, blob)
        self.accounts[place] = account
        if levels is not None:
            told = (_LENGTH.pack(len(blob)), blob, _LENGTH.pack(len(levels)), levels)
            self.parts[place - 1] = b"".join(told)
        return place


def claim(ask: ClaimRequest, name: str, places: Sequence[int], holder: int, held: str) -> bytes:
    """Return a claim as the script reads it.

    Args:
        ask: what it says.
        name: what its reservation is called.
        places: of its candidates.
        holder: the place of the account whose future it holds; 0 = it holds none.
        held: what that future is called.
    """
    lends = any(ask.wants.values())
    numbers = _CLAIM.pack(
        *(len(places), ask.again, ask.waits, lends, ask.horizon),
        *ask.costs,
    )
    said = [numbers, name.encode(), b"\0", _PLACE.pack(holder), held.encode(), b"\0"]
    said.append(pack(f">{len(places)}H", *places))
    if lends:
        said += [_WANT.pack(*(ask.wants.get(account) or UNUSED)) for account in ask.accounts]
    return b"".join(said)


def settlement(place: int, name: str, said: bytes) -> bytes:
    """Return a settlement as the script reads it."""
    return b"".join((_PLACE.pack(place), name.encode(), b"\0", _LENGTH.pack(len(said)), said))


@dataclass(frozen=True, slots=True)
class Heading:
    """The numbers at the beginning of a step, without those that count what follows.

    Args:
        clock: what bucket.lua reads first, packed.
        process: who asks.
        clustered: the server is a node of a cluster.
        waits: it stands in a row for slots.
        lends_for: microseconds for which shares are lent; 0 = none is wanted.
        fraction: which part of what is there they may be.
    """

    clock: bytes
    process: str
    clustered: bool
    waits: bool = False
    lends_for: float = 0.0
    fraction: float = 0.0


def text_of(
    heading: Heading,
    batch: Batch | None,
    settlements: Sequence[bytes],
    claims: Sequence[bytes],
    places: Places,
    leaves: int = 0,
) -> bytes:
    """Return a step as the script reads it; `leaves`: in whose row this process waits no more."""
    process = heading.process.encode() + b"\0"
    said = b"".join((*settlements, *claims))
    numbers = _HEADER.pack(
        -1 if batch is None else batch.number,
        heading.lends_for,
        heading.fraction,
        heading.clustered,
        heading.waits,
        leaves,
        len(places.parts),
        len(settlements),
        len(claims),
        len(heading.clock) + _HEADER.size + len(process) + len(said) + 1,
    )
    return b"".join((heading.clock, numbers, process, said, *places.parts))


@dataclass(slots=True)
class StepAnswer:
    """What came of one claim. `which` is 0-based; durations in seconds, infinite = never.

    `part`: which part of the wanted share is lent, 0 = none; `lent_at`: when, in microseconds of
    the server's clock. `text`: names of buckets and their marks; the owner that it was merged into;
    the limit that is too small.
    """

    what: int
    which: int
    after: float
    expires_after: float
    part: float
    text: bytes
    lent_at: float


@dataclass(slots=True)
class StepReply:
    """What a step answered.

    `freed`, `moved`: settlements of the batch, the former from 1 on. `views`: of each account that
    was looked at its place, the names of its buckets and their numbers. `repaired`: how many keys
    and rows were damaged, and were made again.
    """

    freed: bytes
    moved: Iterable[tuple[int, str]]
    answers: list[StepAnswer]
    views: list[tuple[int, bytes, bytes]]
    repaired: int


def read(answer: bytes) -> StepReply:
    """Read the script's answer: one string, since redis-py takes long over each part of a list."""
    told_at, freed, moved, claims, views, repaired = _REPLY.unpack_from(answer)
    at = _REPLY.size + freed
    reply = StepReply(answer[_REPLY.size : at], (), [], [], repaired)
    if moved:
        pairs = [part.partition("=") for part in answer[at : at + moved].decode().split(";")]
        reply.moved = [(int(index) - 1, target) for index, _, target in pairs]
        at += moved
    for _ in range(claims):
        what, which, after, expires_after, part, size = _ANSWER.unpack_from(answer, at)
        begin, at = at + _ANSWER.size, at + _ANSWER.size + size
        reply.answers.append(
            StepAnswer(
                what,
                which - 1,
                after / 1e6 if after < FOREVER else inf,
                expires_after / 1e6 if expires_after < FOREVER else inf,
                part,
                answer[begin:at],
                told_at,
            )
        )
    for _ in range(views):
        place, names, numbers = _VIEW.unpack_from(answer, at)
        begin = at + _VIEW.size
        at = begin + names + numbers
        reply.views.append((place, answer[begin : begin + names], answer[begin + names : at]))
    return reply
