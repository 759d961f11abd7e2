"""The control API, under `/_mock/`: what a test does to the provider over HTTP.

GET    /_mock/state                  levels and counters
POST   /_mock/reset                  as if it had just started
POST   /_mock/advance   {"s": 1.5}   move the clock, if it is a FakeClock
POST   /_mock/faults    [{...}]      order faults; DELETE forgets them
POST   /_mock/script    [{...}]      fix answers; DELETE forgets them
POST   /_mock/keys/{name}/revoke     and /restore
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from ..clock import FakeClock
from ._json import JsonObject, number, obj, parse
from .call import MockRequest
from .faults import read_faults
from .provider import MockProvider
from .scripts import read_scripts

ControlReply: TypeAlias = tuple[int, JsonObject]


def answer_control(provider: MockProvider, request: MockRequest) -> ControlReply:
    """Do what a control request asks; what is wrong with it is told with a 400 or 404."""
    name = request.path.removeprefix("/_mock/")
    try:
        if name.startswith("keys/"):
            return _turn_key(provider, request.method, name)
        action = _ACTIONS.get((request.method, name))
        if action is None:
            known = ", ".join(f"{method} /_mock/{path}" for method, path in _ACTIONS)
            return _wrong(404, f"no {request.method} /_mock/{name}; there are: {known}")
        return action(provider, request.body)
    except ValueError as error:
        return _wrong(400, str(error))


def _state(provider: MockProvider, _body: bytes) -> ControlReply:
    return 200, provider.state()


def _reset(provider: MockProvider, _body: bytes) -> ControlReply:
    provider.reset()
    return 200, {"reset": True}


def _advance(provider: MockProvider, body: bytes) -> ControlReply:
    clock = provider.clock
    if not isinstance(clock, FakeClock):
        raise ValueError("this provider runs on real time, which cannot be advanced")
    seconds = number(obj(parse(body)).get("s"))
    if seconds is None:
        raise ValueError('say how far: {"s": 1.5}')
    clock.advance(seconds)
    return 200, {"now_s": clock.now() - provider.accounts.started_at}


def _add_faults(provider: MockProvider, body: bytes) -> ControlReply:
    faults = read_faults(parse(body))
    provider.inject(*faults)
    return 200, {"faults": len(faults)}


def _add_scripts(provider: MockProvider, body: bytes) -> ControlReply:
    scripts = read_scripts(parse(body))
    provider.add_scripts(scripts)
    return 200, {"scripts": len(scripts)}


def _clear_faults(provider: MockProvider, _body: bytes) -> ControlReply:
    provider.clear_faults()
    return 200, {"faults": 0}


def _clear_scripts(provider: MockProvider, _body: bytes) -> ControlReply:
    provider.clear_scripts()
    return 200, {"scripts": 0}


_ACTIONS: Final[Mapping[tuple[str, str], Callable[[MockProvider, bytes], ControlReply]]] = {
    ("GET", "state"): _state,
    ("POST", "reset"): _reset,
    ("POST", "advance"): _advance,
    ("POST", "faults"): _add_faults,
    ("DELETE", "faults"): _clear_faults,
    ("POST", "script"): _add_scripts,
    ("DELETE", "script"): _clear_scripts,
}


def _turn_key(provider: MockProvider, method: str, path: str) -> ControlReply:
    name, _, action = path.removeprefix("keys/").rpartition("/")
    if method != "POST" or action not in ("revoke", "restore"):
        return _wrong(404, "keys: POST /_mock/keys/{name}/revoke or /restore")
    try:
        provider.revoke(name, revoked=action == "revoke")
    except KeyError as error:
        return _wrong(404, str(error.args[0]))
    return 200, {"revoked": action == "revoke"}


def _wrong(status: int, message: str) -> ControlReply:
    return status, {"error": {"message": message, "type": "mock_control_error"}}
