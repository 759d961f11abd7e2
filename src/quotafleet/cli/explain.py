"""``quotafleet explain``: what would be concluded from an answer, as the pool reads it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ..errors import ConfigError
from ..explain import Explanation, explain
from ._console import errors_told, out


def explain_command(
    body: Annotated[
        Path | None, typer.Argument(help="A file with the body; standard input when left out.")
    ] = None,
    provider: Annotated[str, typer.Option(help="Whose rules apply.")] = "generic",
    status: Annotated[int | None, typer.Option(help="The answer's HTTP status.")] = None,
    header: Annotated[
        list[str] | None, typer.Option(help="A header, as 'name: value'; repeat for more.")
    ] = None,
    stream: Annotated[bool, typer.Option(help="The body is one event of a stream.")] = False,
    answers: Annotated[
        Path | None,
        typer.Option(help="A file of answers, one JSON object a line, instead of one answer."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
) -> None:
    """Show what quotafleet concludes from an answer: what it means, whom it concerns, what follows.

    A line of --answers has `status`, and may have `headers`, `body`, `stream` and `dialect` (whose
    rules apply). Exit code 2: the input is wrong.
    """
    with errors_told():
        if answers is not None:
            found = _of_file(answers, provider)
        elif status is None:
            raise ConfigError(
                "the answer's status is missing",
                cure="Give --status 429, or a file of answers with --answers",
            )
        else:
            text = sys.stdin.buffer.read() if body is None else body.read_bytes()
            headers = _headers(header or [])
            found = iter([explain(status, headers, text, provider=provider, stream=stream)])
        for number, explanation in enumerate(found):
            if as_json:
                typer.echo(json.dumps(asdict(explanation), ensure_ascii=False))
                continue
            if number:
                typer.echo()
            out().print(_drawn(explanation), markup=False)


def _headers(given: list[str]) -> dict[str, str]:
    headers = {}
    for line in given:
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            raise ConfigError(
                f"the header {name.strip()!r} has no value", cure="Write --header 'name: value'"
            )
        headers[name.strip()] = value.strip()
    return headers


def _of_file(file: Path, provider: str) -> Iterator[Explanation]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield _of_line(line, f"{file}, line {number}", provider)


def _of_line(line: bytes, place: str, provider: str) -> Explanation:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise ConfigError(
            "is not JSON", cure="Write one JSON object a line", source=place
        ) from error
    fields: Mapping[str, object] = value if isinstance(value, dict) else {}
    status, headers, body = fields.get("status"), fields.get("headers", {}), fields.get("body", "")
    if type(status) is not int or not isinstance(headers, dict):
        raise ConfigError(
            "has no status, or headers that are no object",
            cure='Write {"status": 429, "headers": {}, "body": "..."}',
            source=place,
        )
    text = body if isinstance(body, str) else json.dumps(body)
    return explain(
        status,
        {str(name): str(held) for name, held in headers.items()},
        text.encode(),
        provider=str(fields.get("dialect") or provider),
        stream=fields.get("stream") is True,
    )


def _drawn(found: Explanation) -> str:
    rows = [
        ("kind", found.kind),
        ("concerns", found.subject),
        ("what follows", found.action),
        ("decided by", found.rule),
        ("passes after", None if found.seconds is None else f"{found.seconds:g} s"),
        ("limit", _limit(found)),
        ("charged", "yes" if found.charged else "no"),
    ]
    rows += [
        (
            "header",
            f"{metric.lower()}: {remaining:g} of {limit:g} left"
            + ("" if period is None else f", per {period:g} s"),
        )
        for metric, period, limit, remaining in found.limits
    ]
    return "\n".join(f"{name:<13}{value}" for name, value in rows if value is not None)


def _limit(found: Explanation) -> str | None:
    if found.metric is None and found.limit is None and found.period is None:
        return None
    amount = "unknown" if found.limit is None else f"{found.limit:g}"
    what = "" if found.metric is None else f" {found.metric.lower()}"
    return f"{amount}{what}" + ("" if found.period is None else f" per {found.period:g} s")
