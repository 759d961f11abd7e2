"""The way to a server: addresses, connections for threads and event loops, errors.

The one module that names redis-py.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncGenerator, Callable, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
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
    InvalidResponse,
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

_LUA: Final = files(__package__).joinpath("_lua")
#: A line of a script as a server's error names it: "user_script:419", before Redis 7 also with "@".
_LINE: Final = re.compile(r"@?user_script: ?(\d+)")


class LuaScript:
    """A script as the server keeps it: plain files, one after the other, and the digest of that.

    A server numbers the lines of the whole; `located` names the file and the line in it. A file
    whose content a step seldom needs declares one function that makes it, see `bucket.lua`.
    """

    def __init__(self, *names: str, folder: Traversable = _LUA) -> None:
        self._lines: list[tuple[str, int]] = []  # of each line the file, and the line there
        texts = []
        for name in names:
            lines = folder.joinpath(f"{name}.lua").read_text("utf-8").splitlines()
            self._lines += [(f"{name}.lua", number) for number in range(1, len(lines) + 1)]
            texts += lines
        self.text = "\n".join(texts)
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()
        self.errors = _Translated(self)

    def located(self, message: str) -> str:
        """Return a server's message with files and their lines in place of the script's lines."""

        def place(found: re.Match[str]) -> str:
            number = int(found[1])
            if not 0 < number <= len(self._lines):
                return found[0]
            file, line = self._lines[number - 1]
            return f"{file}:{line}"

        return _LINE.sub(place, message)


class _Translated:
    """Raises what redis-py raises as an error of this package; names a script's files and lines."""

    __slots__ = ("_script",)

    def __init__(self, script: LuaScript | None = None) -> None:
        self._script = script

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, RedisError | OSError):
            raise _translated(error, self._script) from error


_errors: Final = _Translated()
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


class WrongProtocol(ConnectionLost):
    """What answers at the store's address is no Redis server."""


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
        with STEP.errors:
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
                    raise Cut(_message(error)) from error
                raise

    async def aturn(self, keys: Sequence[str], text: bytes, now: float) -> Any:
        """Do as `turn`, for one task of an event loop at a time."""
        if self.is_cluster:
            return await self.astep(keys, [text])
        pool = (await self.aclient()).connection_pool
        line = self._aclients[asyncio.get_running_loop()][2]
        with STEP.errors:
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
                    raise Cut(_message(error)) from error
                raise

    def step(self, keys: Sequence[str], parts: Sequence[Part], script: LuaScript = STEP) -> Any:
        """Run a script; return its answer, a `Reply` or `Replies`.

        Raises:
            Lost: no answer came.
            Unready: the server refused, and may do it later.
            StoreError: the server refused.
        """
        ask = self.client().execute_command
        with script.errors:
            try:
                return ask("EVALSHA", script.sha, len(keys), *keys, *parts)
            except NoScriptError:  # a fresh server, or SCRIPT FLUSH: this brings it there again
                return ask("EVAL", script.text, len(keys), *keys, *parts)

    async def astep(
        self, keys: Sequence[str], parts: Sequence[Part], script: LuaScript = STEP
    ) -> Any:
        """Do as `step`, without blocking the event loop."""
        ask = (await self.aclient()).execute_command
        with script.errors:
            try:
                return await ask("EVALSHA", script.sha, len(keys), *keys, *parts)
            except NoScriptError:
                return await ask("EVAL", script.text, len(keys), *keys, *parts)

    def subscription(self, *channels: str) -> Any:
        """Return a subscription to channels: it has `get_message(timeout)` and `close()`."""
        found = self.client().pubsub()
        with _errors:
            found.subscribe(*channels)
        return found

    def publish(self, channel: str, message: str) -> None:
        """Send a message to who listens to a channel.

        Raises:
            Lost: no answer came.
            StoreError: the server refused.
        """
        with _errors:
            self.client().publish(channel, message)

    def ask(self, work: Callable[[Any], T]) -> T:
        """Let `work` with the client for threads, and turn its errors into ours.

        Raises:
            Lost: no answer came.
            StoreError: the server refused.
        """
        with _errors:
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


def _translated(error: RedisError | OSError, script: LuaScript | None) -> StoreError:
    message = _message(error, script)
    if isinstance(error, AuthenticationError | AuthorizationError):  # redis-py: disconnected
        return StoreError(message)
    if isinstance(error, _PASSES):
        return Unready(message)
    if isinstance(error, InvalidResponse):
        return WrongProtocol(
            f"{message}; what answers at the store's address does not speak the Redis protocol"
        )
    if isinstance(error, Disconnected | TimedOut | OSError):
        return ConnectionLost(message)
    return (Unready if _PASSES_TOO.search(str(error)) else StoreError)(message)


def _message(error: Exception, script: LuaScript | None = None) -> str:
    text = str(error) if script is None else script.located(str(error))
    return f"Redis could not answer: {type(error).__name__}: {text[:300]}"
