"""What processes tell each other of health: who is ill, who may probe, which owners are one.

Theory of operation. What is known stands in one hash of the server, a record for each subject, with
the version of its last change. Each *exchange* runs one script there: it brings what this process
has to tell, and fetches the records that are newer than what it knows. A process exchanges at its
first claim, so that it begins with what the others know; then whenever it has something to tell, or
is told on a channel that another one had; and every few seconds in any case: messages get lost.

Who finds that a subject's rest is over asks for the *claim* on its probe. The server gives it to
one process, for a few seconds; as long as the probe is in flight it is held on. The others keep the
subject resting until they are told what came of it, or until the claim ends: so a process that dies
with a probe in flight delays the next one by that much.

Subjects are named by what they are; a key by a fingerprint (`Secret.fingerprint`).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from struct import Struct
from threading import Event, Lock, Thread, current_thread
from typing import Any, Final
from weakref import WeakKeyDictionary

from ..._clock import Clock
from ..._core.health.circuit_breaker import CircuitState, HealthChange
from ..._core.quota.reservations import Claim
from ...errors import StoreError
from ...protocols import FleetMember
from . import _codec as wire
from ._connection import HEALTH, Part, RedisConnection, Replies
from ._members import ALIVE_FOR, about
from ._process import pid

#: Seconds between exchanges where no messages come, and while a claim on a probe is held on.
ASKS_EVERY: Final = 1.0
#: The same where they do: some words before a process is taken for dead, and within them is made up
#: for a message that was lost on a connection of which nobody said that it was cut.
EXCHANGES_EVERY: Final = 3.0
#: Seconds that a claim on a probe lasts, unless it is held on.
CLAIM_FOR: Final = 5.0
#: Seconds of them in which a probe may begin: well before another process may claim it.
USED_WITHIN: Final = 3.0
#: Seconds for which it is remembered that a subject was ill, after that has ended. A key that is
#: dead is asked again by processes that start a day later.
KEPT_FOR: Final = 86_400.0
#: The same of owners that are one: as long as of their buckets.
MERGED_FOR: Final = 60 * 86_400.0
#: Seconds between attempts to reach a server that does not answer.
TRY_AGAIN_AFTER: Final = 0.2
#: Things told in one exchange: each holds the server up for some microseconds.
AT_MOST: Final = 200
#: What the state of an organization that was merged is called in the server.
MERGED: Final = "merged"

_NUMBERS: Final = Struct(">6d")
_RECORD: Final = Struct(">4d")
#: A provider's code. What looks otherwise is not stored: nobody knows what is in it.
_CODE: Final = re.compile(r"[a-z0-9_. -]{1,48}")


@dataclass(frozen=True, slots=True)
class Record:
    """What the server holds of a subject. `after` is in seconds, infinite = it doesn't end."""

    version: int
    after: float
    consecutive_opens: int
    state: str
    by: str
    reason: str


def read_record(packed: bytes) -> Record | None:
    """Read a record as the script shows it; ``None`` = there is none."""
    if not packed:
        return None
    after, consecutive_opens, version, _ = _RECORD.unpack_from(packed)
    state, by, reason, _ = packed[_RECORD.size :].decode().split("\0")
    return Record(
        version=int(version),
        after=after / 1e6 if after >= 0 else inf,
        consecutive_opens=int(consecutive_opens),
        state=state,
        by=by,
        reason=reason,
    )


@dataclass(frozen=True, slots=True)
class HealthMessage:
    """One thing on its way to the server: what (``tell`` or ``claim``), and of whom."""

    what: str
    subject: str
    change: HealthChange

    def parts(self, now: float) -> list[Part]:
        """Return it as the script reads it."""
        after = self.change.until - now
        lasts = -1.0 if after == inf else wire.microseconds(max(0.0, after))
        state = MERGED if self.what == MERGED else self.change.state.value
        what = "tell" if self.what == MERGED else self.what
        return [
            what,
            self.subject,
            state,
            f"{lasts:.0f}",
            str(self.change.consecutive_opens),
            self._reason,
        ]

    @property
    def _reason(self) -> str:
        known = self.what == MERGED or _CODE.fullmatch(self.change.reason)
        return self.change.reason if known else "other" if self.change.reason else ""


def numbers_of(known: int, runs_for: float) -> bytes:
    """Return the numbers of an exchange, of who knows a version and runs for so many seconds."""
    spans = (CLAIM_FOR, KEPT_FOR, MERGED_FOR, runs_for, ALIVE_FOR)
    return _NUMBERS.pack(known, *map(wire.microseconds, spans))


def prefix(namespace: str) -> str:
    """Return what the keys of a fleet itself begin with: one slot of a cluster, no owner's."""
    return f"{wire.fleet(namespace)}{{!}}:"


class HealthSync:
    """One process's part in what the fleet knows.

    Args:
        server: where it is kept.
        namespace: of which fleet.
        process: returns this process's name.
        clock: what tells this process's time.
        merged: is told of two organizations that other processes found to be one, before the pool.
        in_flight: returns how many reservations this process holds.
    """

    def __init__(
        self,
        server: RedisConnection,
        namespace: str,
        *,
        process: Callable[[], str],
        clock: Clock,
        merged: Callable[[str, str], None],
        in_flight: Callable[[], int],
    ) -> None:
        self._server = server
        self._namespace = namespace
        self._process = process
        self._clock = clock
        self._on_merged = merged
        self._in_flight = in_flight
        self._began_at = clock.now()
        self._prefix = prefix(namespace)
        self._channel = f"{self._prefix}changed"
        self._member: FleetMember | None = None
        self._lock = Lock()  # guards what follows; held for arithmetic only
        self._fingerprints: dict[str, str] = {}
        self._key_ids: dict[str, str] = {}
        self._outgoing: list[HealthMessage] = []
        self._known = -1
        self._members: int | None = None
        self._fewer_since: float | None = None
        self._versions: dict[str, int] = {}
        self._probing: dict[str, HealthChange] = {}
        self._pid: int | None = None
        #: Whether the first exchange told anything.
        self._found = False
        #: Held by who makes it, in threads (of which process), and in each event loop.
        self._reading = (pid(), Lock())
        self._reading_in: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock]
        self._reading_in = WeakKeyDictionary()
        self._threads: list[Thread] = []
        self._some = Event()
        self._closed = Event()
        self._hears = Event()

    def join(self, member: FleetMember) -> None:
        """Serve a pool."""
        for key in member.keys:
            name = key.secret.fingerprint(self._namespace, key.provider, key.base_url)
            if name is not None:
                self._fingerprints[f"key {key.key_id}"] = f"key {name}"
                self._key_ids[f"key {name}"] = f"key {key.key_id}"
        self._member = member

    @property
    def size(self) -> int | None:
        """How many processes the fleet has, as of the last exchange; ``None`` = there was none."""
        return self._members if self._pid == pid() else None

    def is_new(self, claim: Claim) -> bool:
        """Whether there is a pool, and this process hasn't read yet what the others know.

        A claim with a future goes on: it was made before the process was forked.
        """
        if self._member is None or self._pid == pid():
            return False
        return claim.held is None and claim.dropped is None

    # From this process

    def publish(self, changes: Sequence[HealthChange]) -> None:
        """Put changes on their way, and ask for leave to probe. Never blocks."""
        with self._lock:
            for one in changes:
                self._put(one)
        self._some.set()

    def _put(self, change: HealthChange) -> None:
        name = change.name
        if name.startswith("key ") and name not in self._fingerprints:
            return
        subject = self._fingerprints.get(name, name)
        if change.state is CircuitState.HALF_OPEN:  # nobody answered: this process is on its own
            return
        if change.state is CircuitState.PROBING:
            self._probing[subject] = change
        else:
            self._probing.pop(subject, None)
        what = "claim" if change.state is CircuitState.CLAIMING_PROBE else "tell"
        self._outgoing.append(HealthMessage(what, subject, change))

    def merged(self, organization: str, into: str) -> None:
        """Tell that two organizations are one."""
        if self._member is None:
            return
        changes = HealthChange(f"merged {organization}", CircuitState.CLOSED, reason=into)
        with self._lock:
            self._outgoing.append(HealthMessage(MERGED, changes.name, changes))
        self._some.set()

    # Exchanges

    def read(self) -> bool:
        """Learn what the others know; return whether that was anything. Begins to listen.

        Of threads that come at the same time one asks for all.
        """
        with self._readers():
            if self._pid == pid():
                return self._found
            step, sent = self._begin()
            try:
                raw = self._server.step(*step, HEALTH)
            except StoreError:  # the claim that follows says so
                self._failed(sent)
                return False
            finally:
                self._start()
            self._found = self._end(raw, sent)
            return self._found

    async def aread(self) -> bool:
        """Do as `read`, without blocking the event loop."""
        async with self._readers_in(asyncio.get_running_loop()):
            if self._pid == pid():
                return self._found
            step, sent = self._begin()
            try:
                raw = await self._server.astep(*step, HEALTH)
            except BaseException as error:  # also cancellation: what was to be told is told later
                self._failed(sent)
                if isinstance(error, StoreError):
                    return False
                raise
            finally:
                self._start()
            self._found = self._end(raw, sent)
            return self._found

    def _readers(self) -> Lock:
        with self._lock:
            if self._reading[0] != pid():  # forked: perhaps while it was held
                self._reading = pid(), Lock()
            return self._reading[1]

    def _readers_in(self, loop: asyncio.AbstractEventLoop) -> asyncio.Lock:
        with self._lock:
            return self._reading_in.setdefault(loop, asyncio.Lock())

    def _exchange(self) -> None:
        step, sent = self._begin()
        try:
            raw = self._server.step(*step, HEALTH)
        except StoreError:
            self._failed(sent)
            raise
        self._end(raw, sent)

    def _begin(self) -> tuple[tuple[list[str], list[Part]], list[HealthMessage]]:
        with self._lock:
            sent, self._outgoing = self._outgoing[:AT_MOST], self._outgoing[AT_MOST:]
            told = {one.subject for one in sent}
            sent += [
                HealthMessage("tell", subject, changes)
                for subject, changes in self._probing.items()
                if subject not in told
            ]
            known, member = self._known, self._member
        now = self._clock.now()
        leaves = self._closed.is_set()
        runs_for = -1e-6 if leaves else now - self._began_at
        says = about(self._in_flight(), 0 if member is None else member.waiting)
        parts: list[Part] = [numbers_of(known, runs_for), self._process(), self._channel, says]
        for one in sent:
            parts += one.parts(now)
        return ([self._prefix], parts), sent

    def _failed(self, sent: list[HealthMessage]) -> None:
        """Let what was perhaps not told be told again, unless something newer is to be told.

        Who asked for leave to probe and heard nothing has begun by then.
        """
        with self._lock:
            self._fewer_since = None
            newer = {one.subject for one in self._outgoing}
            self._outgoing[:0] = [
                one
                for one in sent
                if one.subject not in newer
                and one.change.state not in (CircuitState.PROBING, CircuitState.CLAIMING_PROBE)
            ]

    def _end(self, raw: Replies, sent: list[HealthMessage]) -> bool:
        """Take in an answer; return whether there was any changes."""
        process = self._process()
        version, members, count = int(raw[0]), int(raw[1]), int(raw[2])
        stands = [read_record(packed) for packed in raw[3 : 3 + count]]
        rest = raw[3 + count :]
        records: list[tuple[str, Record | None]] = [
            (name.decode(), read_record(packed))
            for name, packed in zip(rest[::2], rest[1::2], strict=True)
        ]
        answers = [
            (one.subject, record)
            for one, record in zip(sent, stands, strict=True)
            if one.what == "claim"
        ]
        changes: list[HealthChange] = []
        merges: list[tuple[str, str]] = []
        with self._lock:
            pending = {one.subject for one in self._outgoing}
            self._known = version
            self._count(members)
            for subject, record in sorted(records, key=lambda one: one[1].version if one[1] else 0):
                if record is None or record.by == process:
                    continue
                if subject in pending:
                    self._known = -1  # what is on its way may be newer; look at it again
                elif record.version > self._versions.get(subject, -1):
                    self._versions[subject] = record.version
                    self._take_in(subject, record, changes, merges)
            for subject, record in answers:
                if record is not None and subject not in pending:
                    self._take_in(subject, record, changes, merges, mine=record.by == process)
        self._hand_over(changes, merges)
        return bool(changes or merges)

    def _count(self, members: int) -> None:
        """Take in how many processes there are; fewer only once they have been so for a while.

        Those that could not reach the server for a while are missing there at first.
        """
        now = self._clock.now()
        if self._members is not None and members < self._members:
            if self._fewer_since is None:
                self._fewer_since = now
            if now - self._fewer_since < ALIVE_FOR:
                return
        self._members, self._fewer_since = members, None

    def _take_in(
        self,
        subject: str,
        record: Record,
        changes: list[HealthChange],
        merges: list[tuple[str, str]],
        *,
        mine: bool = False,
    ) -> None:
        if record.state == MERGED:
            merges.append((subject.removeprefix("merged "), record.reason))
            return
        name = self._key_ids.get(subject, subject)
        if name.startswith("key ") and name not in self._fingerprints:
            return  # of a key that this process doesn't have
        state, after = CircuitState(record.state), record.after
        if mine and state is CircuitState.PROBING:
            state, after = CircuitState.HALF_OPEN, min(after, USED_WITHIN)
        until = self._clock.now() + after
        changes.append(HealthChange(name, state, until, record.reason, record.consecutive_opens))

    def _hand_over(self, changes: list[HealthChange], merges: list[tuple[str, str]]) -> None:
        member = self._member
        if member is None:
            return
        for organization, into in merges:
            self._on_merged(organization, into)
            member.merged(organization, into)
        if changes:
            member.apply_remote(changes)

    # Threads: they tell no time, they sleep on events and messages

    def _start(self) -> None:
        with self._lock:
            if self._pid == pid() or self._closed.is_set():
                return
            if self._pid is not None:  # forked: the threads, and what they sleep on, stayed behind
                self._some, self._closed, self._hears = Event(), Event(), Event()
            self._pid = pid()
            self._threads = [
                Thread(target=one, name=f"quotafleet-health{one.__name__}", daemon=True)
                for one in (self._tell_on, self._listen)
            ]
            for thread in self._threads:
                thread.start()

    def _tell_on(self) -> None:
        while not self._closed.is_set():
            is_calm = self._hears.is_set() and not self._probing
            self._some.wait(EXCHANGES_EVERY if is_calm else ASKS_EVERY)
            self._some.clear()
            if self._closed.is_set():  # read after clearing: `close` writes them the other way
                return
            try:
                self._exchange()
            except Exception:  # the server has gone, or what it holds is not ours: try again
                self._closed.wait(TRY_AGAIN_AFTER)

    @property
    def _own_channel(self) -> str:
        return f"{self._channel}:{self._process()}"

    def _listen(self) -> None:
        while not self._closed.is_set():
            subscription: Any = None
            try:
                subscription = self._server.subscription(self._channel, self._own_channel)
                while not self._closed.is_set():
                    message = subscription.get_message(timeout=1.0)
                    if message is None:
                        continue
                    if message["type"] == "subscribe":
                        self._hears.set()
                    if message["data"] != self._process().encode():
                        self._some.set()
            except Exception:  # the server has gone, whatever redis-py calls it: try again
                self._closed.wait(TRY_AGAIN_AFTER)
            finally:
                self._hears.clear()
                if subscription is not None:
                    subscription.close()

    def close(self) -> None:
        """Tell what is left to tell, as far as the server answers, and stop."""
        self._closed.set()
        self._some.set()
        threads, self._threads = self._threads, []
        if not threads:
            return
        _ended(threads[0])  # so that the exchange that says farewell is the last
        try:
            self._exchange()
            self._server.publish(self._own_channel, "closed")  # the listener need not sleep on
        except StoreError:
            pass  # what was not told the others find out themselves
        for thread in threads[1:]:
            _ended(thread)


def _ended(thread: Thread) -> None:
    if thread is not current_thread():
        thread.join(timeout=3.0)
