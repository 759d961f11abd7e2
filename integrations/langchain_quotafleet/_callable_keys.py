"""A key that a function returns, such as a token that is refreshed, as a pool of one.

The function is asked before each request, as stock does, by a hook of the httpx client; the
transport then reads what it returned. In between lies a context variable: the hook and the
transport run in one task or thread. A key that was refused is tried again with the next request,
since the function may return another by then.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from functools import lru_cache
from types import BuiltinMethodType, MethodType
from typing import Any, Final

from quotafleet import ConfigError, KeyPool, Secret
from quotafleet.events import Event, Unavailable

from ._answer_metadata import failed
from ._api_keys import Endpoint, derived

_current: Final[ContextVar[Secret]] = ContextVar("langchain_quotafleet_key")


class ReturnedSecret(Secret):
    """What a function returned for the request that this task or thread is making."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__("returned-by-a-function")

    def reveal(self) -> str:
        """Return the credential of the request under way."""
        return _current.get().reveal()


class FunctionPool:
    """The pool of a function's key, and the hooks that ask the function.

    Args:
        function: returns the key, or an awaitable of it.
        place: where requests go.
    """

    def __init__(self, function: Callable[[], Any], place: Endpoint) -> None:
        self._function = function
        self._down = False
        owner = place.owner(ReturnedSecret())
        self.pool = derived(KeyPool([owner], listeners=[self._listen]))

    def _listen(self, event: Event) -> None:
        if isinstance(event, Unavailable):
            self._down = True

    def ask(self, request: object) -> None:
        """Ask the function; a request hook of `httpx.Client`."""
        try:
            self._take(self._function())
        except Exception as error:  # the SDK would hide it behind its own
            failed(error)
            raise

    async def aask(self, request: object) -> None:
        """Ask the function, in a thread if it may block; a request hook of `httpx.AsyncClient`."""
        try:
            self._take(await self._answer())
        except Exception as error:  # as in `ask`
            failed(error)
            raise

    async def _answer(self) -> object:
        if inspect.iscoroutinefunction(self._function):
            return await self._function()
        answer = await asyncio.get_running_loop().run_in_executor(None, self._function)
        return await answer if isinstance(answer, Awaitable) else answer

    def _take(self, key: object) -> None:
        if not isinstance(key, str):
            raise ConfigError(
                f"the function given as api_key returned a {type(key).__name__}",
                cure="Let it return a string",
            )
        _current.set(Secret(key))
        if self._down:
            self._down = False
            self.pool.revive()


def of_function(function: Callable[[], Any], place: Endpoint) -> FunctionPool:
    """Return the pool of a function's key: the same for all models that use the function."""
    return _of_function(_Same(function), place)


class _Same:
    """A function by identity: it may be an object that can't be hashed, or is equal to another.

    A bound method is made anew each time it is looked up: its object and its name are looked at.
    """

    __slots__ = ("_identity", "function")

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function  # kept alive, so that its id is no other's
        if isinstance(function, MethodType):
            self._identity: tuple[object, ...] = (id(function.__self__), id(function.__func__))
        elif isinstance(function, BuiltinMethodType):
            self._identity = (id(function.__self__), function.__name__)
        else:
            self._identity = (id(function),)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other._identity == self._identity

    def __hash__(self) -> int:
        return hash(self._identity)


@lru_cache(256)
def _of_function(same: _Same, place: Endpoint) -> FunctionPool:
    return FunctionPool(same.function, place)
