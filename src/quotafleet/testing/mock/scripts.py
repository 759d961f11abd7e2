"""What the model says: scripted by a test, forced by the request, or drawn from the seed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Final

from pydantic import ConfigDict, TypeAdapter, ValidationError

from ._json import items, obj, text, utf8_len
from .call import MockCall
from .faults import EVERY, RequestMatch, explain
from .schema import smallest

_SAYING: Final = (
    "the fleet keeps every key busy and no bucket dry so each call waits only as long as it must"
    " while quota belongs to owners not to keys one answer follows another in steady order"
)
_WORDS: Final = tuple(_SAYING.split())
_PIECE: Final = re.compile(r"\S+\s*|\s+")


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A function the model wants called, with its arguments."""

    name: str
    arguments: Mapping[str, object] = field(default_factory=dict)

    __pydantic_config__ = ConfigDict(extra="forbid")

    @property
    def arguments_json(self) -> str:
        """The arguments as the string that the API carries."""
        return json.dumps(self.arguments, separators=(",", ":"), ensure_ascii=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptedAnswer:
    """An answer fixed beforehand, for the requests that match.

    Attributes:
        text: what is said; None = drawn, `output_tokens` long.
        output_tokens: the length that is reported, charged and waited for; None = counted.
        times: how often it is used; None = always.
    """

    text: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    output_tokens: int | None = None
    match: RequestMatch = EVERY
    times: int | None = 1
    probability: float = 1.0

    __pydantic_config__ = ConfigDict(extra="forbid")

    def concerns(self, call: MockCall) -> bool:
        """Tell whether the call generates text at all."""
        return call.endpoint in ("chat", "completions", "responses", "transcriptions")


@dataclass(frozen=True, slots=True, kw_only=True)
class MockAnswer:
    """One answer: its text or its tool calls, and what it counts as."""

    text: str
    tokens: int
    tool_calls: tuple[ToolCall, ...] = ()
    capped: bool = False

    @property
    def pieces(self) -> list[str]:
        """The text as it is streamed, a word at a time."""
        return _PIECE.findall(self.text)


def compose(
    call: MockCall, tokens: int, script: ScriptedAnswer | None, random: Random
) -> MockAnswer:
    """Write the answer to a request with a body, `tokens` long if nothing else decides."""
    body = call.body or {}
    if script is not None and (script.tool_calls or script.text is not None):
        return _scripted(script)
    if call.ask.forced and (forced := _forced_call(body)):
        return MockAnswer(text="", tokens=_count(forced.arguments_json), tool_calls=(forced,))
    if (structured := _structured(body)) is not None:
        return MockAnswer(text=structured, tokens=_count(structured))
    start = random.randrange(len(_WORDS))
    said = " ".join(_WORDS[(start + i) % len(_WORDS)] for i in range(tokens))
    return MockAnswer(text=said, tokens=tokens, capped=tokens == call.ask.max_tokens)


def _scripted(script: ScriptedAnswer) -> MockAnswer:
    said = script.text or ""
    counted = _count(said) + sum(_count(one.arguments_json) for one in script.tool_calls)
    tokens = counted if script.output_tokens is None else script.output_tokens
    return MockAnswer(text=said, tokens=tokens, tool_calls=script.tool_calls)


def _count(said: str) -> int:
    return -(-utf8_len(said) // 4)


def _forced_call(body: Mapping[str, object]) -> ToolCall | None:
    """Call the tool that the request names, or its first one, with the least it accepts."""
    offered = [_function(tool) for tool in items(body.get("tools"))]
    offered = [tool for tool in offered if tool]
    choice = obj(body.get("tool_choice"))
    named = text(obj(choice.get("function")).get("name")) or text(choice.get("name"))
    for tool in offered:
        if not named or tool.get("name") == named:
            arguments = smallest(tool.get("parameters"))
            return ToolCall(name=text(tool.get("name")), arguments=dict(obj(arguments)))
    return None


def _function(tool: object) -> Mapping[str, object]:
    """Return the function's description: Chat Completions nests it, Responses does not."""
    one = obj(tool)
    if one.get("type") != "function":
        return {}
    return obj(one.get("function")) or one


def _structured(body: Mapping[str, object]) -> str | None:
    """Return the JSON that the asked-for format demands, or None if it demands none."""
    asked = obj(body.get("response_format")) or obj(obj(body.get("text")).get("format"))
    match asked.get("type"):
        case "json_schema":
            schema = obj(asked.get("json_schema")).get("schema", asked.get("schema"))
            return json.dumps(smallest(schema), ensure_ascii=False)
        case "json_object":
            return '{"answer": "mock"}'
        case _:
            return None


_SCRIPTS: Final = TypeAdapter(tuple[ScriptedAnswer, ...])


def read_scripts(data: object) -> tuple[ScriptedAnswer, ...]:
    """Read scripts from parsed JSON: one object, or an array of them.

    Raises:
        ValueError: one line for every wrong place.
    """
    try:
        return _SCRIPTS.validate_python([data] if isinstance(data, dict) else data)
    except ValidationError as error:
        raise ValueError(explain(error)) from None
