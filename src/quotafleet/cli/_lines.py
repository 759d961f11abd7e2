"""The lines of a batch file: what OpenAI's Batch API reads, checked one by one.

A file may have millions of lines, so none is held: it is read once to find what is wrong with it,
and once more to send it. Of each line only a digest of its `custom_id` stays, 16 bytes or so.
"""

from __future__ import annotations

import json
import os
import re
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Final, NoReturn

#: Below the provider's version, and nothing that could lead to another place.
_URL: Final = re.compile(r"/v1(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)+")

#: Told of each broken line: its number, and what is wrong.
Report = Callable[[int, str], None]


class LineError(ValueError):
    """A line can't be sent; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRequest:
    """One line to be sent: `url` is below ``/v1``, such as ``/chat/completions``."""

    line: int
    custom_id: str
    url: str
    body: dict[str, object]


def parse(raw: bytes, line: int) -> BatchRequest:
    """Return the request of a line.

    Raises:
        LineError: it is not one.
    """
    try:
        given = json.loads(raw, parse_constant=_no_constant)
    except UnicodeDecodeError:
        raise LineError("is not UTF-8 text") from None
    except (ValueError, RecursionError) as error:
        raise LineError(f"is not JSON: {error}") from None
    if not isinstance(given, dict):
        raise LineError("is not a JSON object")
    custom_id, url, body = given.get("custom_id"), given.get("url"), given.get("body")
    if not isinstance(custom_id, str) or not custom_id:
        raise LineError("has no custom_id: give each line its own, as text")
    if given.get("method") != "POST":
        raise LineError(f'has method {given.get("method")!r}: only "POST" can be sent')
    if not isinstance(url, str) or not _URL.fullmatch(url):
        raise LineError(f'has url {url!r}: write it like "/v1/chat/completions"')
    if not isinstance(body, dict):
        raise LineError("has no body: a JSON object")
    if body.get("stream"):
        raise LineError('has "stream": true: a batch has nobody to stream to')
    return BatchRequest(line=line, custom_id=custom_id, url=url.removeprefix("/v1"), body=body)


def read(source: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the number and text of each line that is not blank."""
    with source.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            text = raw.strip()
            if text:
                yield number, text


class Digests:
    """A set of texts, 11 to 22 bytes each: an open-addressed table of keyed 64-bit digests.

    Two different texts are taken for one with a probability of n / 2**64 for each of n. The key
    is new in each process, so that such a pair is not one for ever.
    """

    def __init__(self) -> None:
        self._key = os.urandom(16)
        self._slots = array("Q", bytes(8 * 1024))
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, text: str) -> bool:
        return self._slots[self._slot(self._digest(text))] != 0

    def add(self, text: str) -> bool:
        """Add a text; return whether it is new."""
        if 4 * self._count >= 3 * len(self._slots):
            self._grow()
        digest = self._digest(text)
        slot = self._slot(digest)
        if self._slots[slot]:
            return False
        self._slots[slot] = digest
        self._count += 1
        return True

    def _digest(self, text: str) -> int:
        data = text.encode("utf-8", "surrogatepass")
        return int.from_bytes(blake2b(data, digest_size=8, key=self._key).digest()) or 1

    def _slot(self, digest: int) -> int:
        """Return where a digest is, or would be."""
        slots = self._slots
        mask = len(slots) - 1
        slot = digest & mask
        while slots[slot] and slots[slot] != digest:
            slot = (slot + 1) & mask
        return slot

    def _grow(self) -> None:
        old, self._slots = self._slots, array("Q", bytes(16 * len(self._slots)))
        for digest in old:
            if digest:
                self._slots[self._slot(digest)] = digest


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPlan:
    """What is in an input file.

    Args:
        source: the file.
        done: the `custom_id`s that an earlier run did.
        valid: lines that can be sent, whether or not they were before.
        before: those of them that an earlier run did.
        broken: lines that can't.
        skipped: numbers of valid lines whose `custom_id` stands on an earlier one; they count as
            broken.
    """

    source: Path
    done: Digests
    valid: int
    before: int
    broken: int
    skipped: frozenset[int]

    def requests(self) -> Iterator[BatchRequest]:
        """Yield the requests that are still to be sent."""
        for number, raw in read(self.source):
            try:
                request = parse(raw, number)
            except LineError:
                continue
            if number not in self.skipped and request.custom_id not in self.done:
                yield request


def survey(source: Path, done: Digests, report: Report) -> BatchPlan:
    """Read a file through, and report each line that can't be sent.

    Args:
        source: the file.
        done: the `custom_id`s that an earlier run did.
        report: told of each broken line.

    Raises:
        OSError: it can't be read.
    """
    seen, again = Digests(), dict[str, int]()
    valid = before = broken = 0
    for number, raw in read(source):
        try:
            request = parse(raw, number)
        except LineError as error:
            report(number, str(error))
            broken += 1
            continue
        valid += 1
        if seen.add(request.custom_id):
            before += request.custom_id in done
        else:
            again[request.custom_id] = number
    skipped = _twins(source, again, report) if again else frozenset()
    return BatchPlan(
        source=source,
        done=done,
        valid=valid - len(skipped),
        before=before,
        broken=broken + len(skipped),
        skipped=skipped,
    )


def _twins(source: Path, again: dict[str, int], report: Report) -> frozenset[int]:
    """Find the lines whose `custom_id` really stands on an earlier line."""
    first: dict[str, int] = {}
    twins = set()
    for number, raw in read(source):
        try:
            custom_id = parse(raw, number).custom_id
        except LineError:
            continue
        if custom_id not in again:
            continue
        before = first.setdefault(custom_id, number)
        if before != number:
            twins.add(number)
            report(number, f"has the custom_id {custom_id!r} of line {before}: only that is sent")
    return frozenset(twins)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
