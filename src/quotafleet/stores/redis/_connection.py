"""The way to a server: addresses, connections for threads and event loops, errors.

The one module that names redis-py.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncGenerator, Callable, Sequence
from importlib.resources import files
from math import inf
from threading import Lock
from typing import Any, Final, TypeVar
from urllib.parse import unquote, urlsplit
from weakref import WeakKeyDictionary

import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    ClusterDownError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import TimeoutError as TimedOut
from redis.retry import Retry

from ...errors import ConfigError, StoreError
from ._process import pid

_LUA: Final = files("quotafleet.stores").joinpath("_lua")


#: A line of constants: ``local OPEN, BOOKED = 0, 1 -- what they are``. So are functions of the
#: server's libraries: ``local floor, ceil = math.floor, math.ceil``.
_CONSTANTS: Final = re.compile(
    r"^local ([A-Z][A-Z_, ]*) = ([^{]*?)(?: --.*)?$|"
    r"^local ([a-z, ]+) = ((?:[a-z]+\.[a-z]+(?:, )?)+)$"
)
#: What is left alone (a string, a comment), or a name that belongs to nothing else.
_WORD: Final = re.compile(r"'[^']*'|--.*|(?<![.\w])[A-Za-z][A-Za-z_]+\b")


class LuaScript:
    """A script as the server keeps it: its text, and the digest by which it is called.

    It is joined from files. The server makes all functions of a script anew whenever it runs it,
    and each takes time for each name that it uses from outside. So constants, and functions of the
    server's libraries, are written in where they are used; and a module becomes a function of its
    name, which makes what the file holds once that is needed.
    """

    def __init__(self, *files: str) -> None:
        constants: dict[str, str] = {}
        self.text = "\n".join(_prepared(file, constants) for file in files)
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


def _prepared(file: str, constants: dict[str, str]) -> str:
    """Return a file's text, with what is constant written in; adds its own constants."""
    lines = []
    text = _LUA.joinpath(f"{file}.lua").read_text("utf-8")
    for line in text.splitlines():
        found = _CONSTANTS.match(line)
        if found is None:
            lines.append(_WORD.sub(lambda word: constants.get(word[0], word[0]), line))
        elif found[1]:
            values = [f"({value})" for value in found[2].split(", ")]
            constants.update(zip(found[1].split(", "), values, strict=True))
        else:
            constants.update(zip(found[3].split(", "), found[4].split(", "), strict=True))
    body = "\n".join(lines)
    return f"local function {file}()\n{body}\nend" if file in _MODULES else body


#: Files that hold what is seldom needed.
_MODULES: Final = ("limits", "lost", "slots", "shares", "due", "answers", "alone")
_BUCKETS: Final = ("bucket", "limits", "accounts")
STEP: Final = LuaScript(
    *(*_BUCKETS, "records", "lost", "request", "slots", "shares", "due", "answers", "alone"),
    *("settle", "claim", "step"),
)
MERGE: Final = LuaScript(*_BUCKETS, "merge")
HEALTH: Final = LuaScript("health")
#: Seconds after which a connection that is kept is looked at before it is used.
LOOKS_AFTER: Final = 1.0
#: Connections of one process, and of each event loop: a step takes well under a millisecond.
CONNECTIONS: Final = 32

_SCHEMES: Final = ("redis", "rediss", "unix", "redis+sentinel", "redis+cluster")

T = TypeVar("T")
#: What a step answers, and what other scripts do, as they say themselves.
Reply = bytes
Replies = list[bytes]
Part = str | bytes


class Unready(StoreError):
    """The server can't do the step now: waiting may help."""


class ConnectionLost(Unready):
    """No answer came: whether the step was done is not known."""


class Cut(ConnectionLost):
    """A connection that was kept turned out to be cut."""


#: Refusals that pass: a replica before it is the master, a slot on its way, a server that is full.
_PASSES: Final = (
    *(ReadOnlyError, ClusterDownError, TryAgainError, OutOfMemoryError, RedisClusterException),
)
#: The same as they read where redis-py has no name for them. Before Redis 7 so do all those that a
#: script met: "Error running script (...): @user_script: 419: -OOM command not allowed".
_PASSES_TOO: Final = re.compile(r"(?:^|-)(OOM|READONLY|MISCONF|MASTERDOWN|NOREPLICAS|BUSY) ")


class ConnectionState:
    """A connection that steps go over, one after the other.

    It is kept, since to check one out and back in for each takes as long as the rest of its way.
    One that wasn't used for a while is checked out anew, which looks whether it still stands.
    """

    __slots__ = ("_pid", "_used_at", "connection")

    def __init__(self) -> None:
        self.connection: Any = None
        self._pid = pid()
        self._used_at = -inf

    def is_stale(self, now: float) -> bool:
        """Whether it must be checked out anew; else it is in use from now on."""
        if self._pid != pid():  # forked: the connection is the parent's
            self._pid, self.connection = pid(), None
        stale = self.connection is None or now - self._used_at > LOOKS_AFTER
        self._used_at = now
        return stale

    def drop(self) -> Any:
        """Return the connection, and keep it no more."""
        connection, self.connection = self.connection, None
        return connection

    def spoil(self) -> None:
        """Take in that it is cut."""
        self._used_at = -inf


class RedisConnection:
    """A Redis or Valkey server, the master that sentinels know, or a cluster.

    Args:
        url: ``redis://[[user]:password@]host[:port][/db]``, ``rediss://`` over TLS, ``unix://path``,
            ``redis+sentinel://host:port,host:port/service[/db]``, ``redis+cluster://host:port,...``.
        timeout: seconds to wait for a connection or an answer.

    Raises:
        ConfigError: the URL has another form. It is not shown, since it may hold a password.
    """

    def __init__(self, url: str, *, timeout: float) -> None:
        scheme = url.partition("://")[0]
        if scheme not in _SCHEMES or "://" not in url:
            raise ConfigError(
                "the store's URL has no scheme that is known",
                cure=f"Known: {', '.join(one + '://' for one in _SCHEMES)}",
            )
        self.is_cluster = scheme == "redis+cluster"
        self._scheme = scheme
        self._url = url
        self._timeout = timeout
        self._options: dict[str, Any] = {
            "socket_timeout": timeout,
            "socket_connect_timeout": timeout,
        }
        self._lock = Lock()  # guards the clients
        self._client: Any = None
        self._line = ConnectionState()
        #: For each loop its client, what closes that with the loop, and its line.
        self._aclients: WeakKeyDictionary[
            asyncio.AbstractEventLoop, tuple[Any, Any, ConnectionState]
        ]
        self._aclients = WeakKeyDictionary()
        try:
            self._addresses()
        except ValueError as error:
            raise ConfigError(
                f"the store's URL can't be read ({type(error).__name__})",
                cure="Write it like redis://host:6379/0, redis+sentinel://host:26379/service",
            ) from None

    def __repr__(self) -> str:
        return f"<Server {self._scheme}://...>"

    # Clients

    def _addresses(self) -> tuple[list[tuple[str, int]], dict[str, Any], str]:
        """Return hosts, what to log in with, and the service of sentinels."""
        parts = urlsplit(self._url)
        hosts = []
        default = 26379 if self._scheme == "redis+sentinel" else 6379
        for address in parts.netloc.rpartition("@")[2].split(","):
            one = urlsplit(f"//{address}")
            hosts.append((one.hostname or "localhost", one.port or default))
        service, _, db = parts.path.strip("/").partition("/")
        options: dict[str, Any] = {}
        user, colon, password = parts.netloc.rpartition("@")[0].partition(":")
        if colon:
            options["password"] = unquote(password)
        if user:
            options["username"] = unquote(user)
        if self._scheme == "redis+sentinel":
            if not service:
                raise ValueError("no service")
            if db:
                options["db"] = int(db)
        return hosts, options, service

    def _make(self, of: Any, nothing: Any) -> Any:
        """Return a client of `redis` or of `redis.asyncio`: they have the same names."""
        options = {**self._options, "retry": nothing}
        if self._scheme == "redis+sentinel":
            hosts, login, service = self._addresses()
            sentinel = of.sentinel.Sentinel(hosts, sentinel_kwargs=self._options, **options)
            return sentinel.master_for(service, **login)
        if self._scheme == "redis+cluster":
            hosts, login, _ = self._addresses()
            nodes = [of.cluster.ClusterNode(host, port) for host, port in hosts]
            return of.cluster.RedisCluster(startup_nodes=nodes, **self._options, **login)
        pool = of.BlockingConnectionPool.from_url(
            self._url, max_connections=CONNECTIONS, timeout=self._timeout, **options
        )
        return of.Redis.from_pool(pool)

    def client(self) -> Any:
        """Return the client for threads."""
        with self._lock:
            if self._client is None:
                self._client = self._make(redis, Retry(NoBackoff(), 0))
            return self._client

    async def aclient(self) -> Any:
        """Return the client of the running event loop: connections belong to one."""
        loop = asyncio.get_running_loop()
        found = self._aclients.get(loop)
        if found is not None:
            return found[0]
        nothing = redis.asyncio.retry.Retry(NoBackoff(), 0)
        client = self._make(redis.asyncio, nothing)
        guard = self._closed_with(loop, client)
        with self._lock:
            for other in [other for other in self._aclients if other.is_closed()]:
                del self._aclients[other]
            self._aclients[loop] = client, guard, ConnectionState()
        await anext(guard)
        return client

    async def _closed_with(
        self, loop: asyncio.AbstractEventLoop, client: Any
    ) -> AsyncGenerator[None]:
        """Wait suspended until the loop ends, which shuts its generators down; then close."""
        try:
            yield
        finally:
            self._aclients.pop(loop, None)
            await client.aclose()

    # Steps

    def turn(self, keys: Sequence[str], text: bytes, now: float) -> Any:
        """Do as `step`, over the connection that is kept for this: for one thread at a time."""
        if self.is_cluster:
            return self.step(keys, [text])
        line, pool = self._line, self.client().connection_pool
        with _ours():
            stale = line.is_stale(now)
            if stale:
                if line.connection is not None:
                    pool.release(line.drop())
                line.connection = pool.get_connection()
            connection = line.connection
            try:
                try:
                    connection.send_command("EVALSHA", STEP.sha, len(keys), *keys, text)
                    return connection.read_response()
                except NoScriptError:
                    connection.send_command("EVAL", STEP.text, len(keys), *keys, text)
                    return connection.read_response()
            except ResponseError:
                raise
            except BaseException as error:  # an interrupt: what it would read next is of this step
                line.spoil()
                connection.disconnect()
                if isinstance(error, Disconnected) and not stale:
                    raise Cut(_told(error)) from error
                raise

    async def aturn(self, keys: Sequence[str], text: bytes, now: float) -> Any:
        """Do as `turn`, for one task of an event loop at a time."""
        if self.is_cluster:
            return await self.astep(keys, [text])
        pool = (await self.aclient()).connection_pool
        line = self._aclients[asyncio.get_running_loop()][2]
        with _ours():
            stale = line.is_stale(now)
            if stale:
                if line.connection is not None:
                    await pool.release(line.drop())
                line.connection = await pool.get_connection()
            connection = line.connection
            try:
                try:
                    await connection.send_command("EVALSHA", STEP.sha, len(keys), *keys, text)
                    return await connection.read_response()
                except NoScriptError:
                    await connection.send_command("EVAL", STEP.text, len(keys), *keys, text)
                    return await connection.read_response()
            except ResponseError:
                raise
            except BaseException as error:  # also cancellation
                line.spoil()
                await connection.disconnect(nowait=True)
                if isinstance(error, Disconnected) and not stale:
                    raise Cut(_told(error)) from error
                raise

    def step(self, keys: Sequence[str], parts: Sequence[Part], script: LuaScript = STEP) -> Any:
        """Run a script; return its answer, a `Reply` or `Replies`.

        Raises:
            Lost: no answer came.
            Unready: the server refused, and may do it later.
            StoreError: the server refused.
        """
        ask = self.client().execute_command
        with _ours():
            try:
                return ask("EVALSHA", script.sha, len(keys), *keys, *parts)
            except NoScriptError:  # a fresh server, or SCRIPT FLUSH: this brings it there again
                return ask("EVAL", script.text, len(keys), *keys, *parts)

    async def astep(
        self, keys: Sequence[str], parts: Sequence[Part], script: LuaScript = STEP
    ) -> Any:
        """Do as `step`, without blocking the event loop."""
        ask = (await self.aclient()).execute_command
        with _ours():
            try:
                return await ask("EVALSHA", script.sha, len(keys), *keys, *parts)
            except NoScriptError:
                return await ask("EVAL", script.text, len(keys), *keys, *parts)

    def subscription(self, *channels: str) -> Any:
        """Return a subscription to channels: it has `get_message(timeout)` and `close()`."""
        found = self.client().pubsub()
        with _ours():
            found.subscribe(*channels)
        return found

    def publish(self, channel: str, message: str) -> None:
        """Send a message to who listens to a channel.

        Raises:
            Lost: no answer came.
            StoreError: the server refused.
        """
        with _ours():
            self.client().publish(channel, message)

    def ask(self, work: Callable[[Any], T]) -> T:
        """Let `work` with the client for threads, and turn its errors into ours.

        Raises:
            Lost: no answer came.
            StoreError: the server refused.
        """
        with _ours():
            return work(self.client())

    # Closing

    def close(self) -> None:
        """Close the connections of threads; those of an event loop are closed with it."""
        with self._lock:
            client, self._client = self._client, None
            self._line = ConnectionState()
        if client is not None:
            client.close()

    async def aclose(self) -> None:
        """Close the connections of this event loop, then do as `close`."""
        found = self._aclients.pop(asyncio.get_running_loop(), None)
        if found is not None:
            await found[1].aclose()
        self.close()


class _Ours:
    """Turns what redis-py raises into ours."""

    __slots__ = ()

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, RedisError | OSError):
            raise _our(error) from error


_ours: Final = _Ours


def _our(error: RedisError | OSError) -> StoreError:
    if isinstance(error, AuthenticationError | AuthorizationError):  # redis-py: disconnected
        return StoreError(_told(error))
    if isinstance(error, _PASSES):
        return Unready(_told(error))
    if isinstance(error, Disconnected | TimedOut | OSError):
        return ConnectionLost(_told(error))
    return (Unready if _PASSES_TOO.search(str(error)) else StoreError)(_told(error))


def _told(error: Exception) -> str:
    return f"Redis could not answer: {type(error).__name__}: {str(error)[:200]}"
