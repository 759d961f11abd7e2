"""The drop-in clients take what the installed SDK's clients take, by name: drift is seen here."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import openai
import pytest

import quotafleet.openai
from quotafleet.httpx import HttpClientOptions, family
from quotafleet.openai import ClientOptions, CopyOptions

#: What a pool decides, so that a drop-in's signature leaves it out.
DECIDED = {
    "api_key",
    "base_url",
    "websocket_base_url",
    "workload_identity",
    "provider",
    "data_residency",  # of openai 3.x
}
PAIRS = [
    (quotafleet.openai.OpenAI, openai.OpenAI),
    (quotafleet.openai.AsyncOpenAI, openai.AsyncOpenAI),
]


def names(function: Callable[..., object]) -> set[str]:
    parameters = inspect.signature(function).parameters.values()
    return {each.name for each in parameters if each.kind is each.KEYWORD_ONLY}


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_constructor_takes_what_the_sdk_takes_but_for_what_the_pool_decides(
    ours: type, theirs: type
) -> None:
    own = names(ours) | ClientOptions.__annotations__.keys()
    assert own - {"pool", "_attempts"} == names(theirs) - DECIDED


@pytest.mark.parametrize("theirs", [theirs for _, theirs in PAIRS])
def test_copy_takes_what_the_sdk_takes_but_for_what_the_pool_decides(
    theirs: type[openai.OpenAI],
) -> None:
    assert CopyOptions.__annotations__.keys() - {"pool"} == names(theirs.copy) - DECIDED


def test_what_the_pool_decides_is_refused_at_run_time_too() -> None:
    assert set(quotafleet.openai._REPLACED) == DECIDED


@pytest.mark.parametrize("name", ["Client", "AsyncClient"])
def test_http_client_takes_what_the_family_takes(name: str) -> None:
    assert HttpClientOptions.__annotations__.keys() == names(
        getattr(family().module, name).__init__
    )
