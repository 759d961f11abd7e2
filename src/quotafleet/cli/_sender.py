"""Sends one line of a batch through the OpenAI SDK, over the pool."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from openai import APIStatusError, HttpxBinaryResponseContent, OpenAIError

from ..errors import CannotServe
from ..openai import AsyncOpenAI
from ..pool import KeyPool
from ._engine import Sender
from ._lines import BatchRequest
from ._output import BatchAnswer, Failure

#: Whatever else uses the same quota goes first.
_HEADERS: Final = {"x-quotafleet-priority": "batch"}


@asynccontextmanager
async def sender(pool: KeyPool) -> AsyncIterator[Sender]:
    """Give a function that makes one request with a pool's keys, and doesn't raise."""
    async with AsyncOpenAI(pool=pool, default_headers=_HEADERS) as client:

        async def send(request: BatchRequest) -> BatchAnswer | Failure:
            try:
                # Cast to the raw answer: it goes to the output as it came, known to the SDK or not.
                content = await client.post(
                    request.url, body=request.body, cast_to=HttpxBinaryResponseContent
                )
            except APIStatusError as error:
                refusal = error.response.extensions.get("quotafleet")
                if isinstance(refusal, CannotServe):
                    return _unserved(pool, refusal)
                return _answer(error.response.status_code, error.request_id, error.response.text)
            except (OpenAIError, ValueError) as error:  # no answer came; or it can't be written
                return Failure(code=type(error).__name__, message=str(error))
            response = content.response
            return _answer(
                response.status_code, response.headers.get("x-request-id"), response.text
            )

        yield send


def _answer(status_code: int, request_id: str | None, text: str) -> BatchAnswer:
    body: object
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):  # audio, a proxy's page
        body = text
    return BatchAnswer(status_code=status_code, request_id=request_id or "", body=body)


def _unserved(pool: KeyPool, refusal: CannotServe) -> Failure:
    """Say why the pool sent nothing; and whether it will send nothing ever more."""
    dead = refusal.code == "no_usable_key" and all(
        key.health == "dead" for key in pool.status().keys
    )
    return Failure(code=refusal.code, message=refusal.why, is_final=dead)
