"""The output of a batch: appended line by line, so that a kill at any instant can be resumed.

Each line reaches the operating system in one write before the next begins. What was written is
never written again: at the start the `custom_id`s of the answered lines are read back. Lines that
failed before are taken out and tried again, in a new file that replaces the old one at once, so
that at no instant an answer is missing or stands there twice.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

from ..errors import ConfigError
from ._lines import Digests

try:
    import fcntl
except ImportError:  # Windows: nothing keeps two batches from one file
    fcntl = None  # type: ignore[assignment]

_HEAD: Final = b'{"id": "batch_req_'


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchAnswer:
    """What the provider answered, whether or not it was a success."""

    status_code: int
    request_id: str
    body: object

    @property
    def ok(self) -> bool:
        """Whether the line needs no further attempt."""
        return 200 <= self.status_code < 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why there is no answer.

    Args:
        code: a short name, such as ``"wait_timeout"``.
        message: one sentence.
        is_final: no other line could be answered either; this one is left for a later run.
    """

    code: str
    message: str
    is_final: bool = False
    ok: bool = False


class BatchOutput:
    """A batch's output file, held by this process alone.

    Args:
        path: made if it isn't there.
        retry_failed: take lines that failed out, so that they are sent again.

    Raises:
        ConfigError: it is something else's file, or another batch writes to it.
        OSError: it can't be read or written.
    """

    def __init__(self, path: Path, *, retry_failed: bool = True) -> None:
        self._path = Path(os.path.realpath(path))
        #: The lines that need not be sent, and how many of them failed.
        self.done = Digests()
        self.failed = 0
        #: Bytes of a torn last line that were taken off.
        self.torn = 0
        self._fd = _opened(self._path)
        try:
            self._repair()
            if self._take_stock(retry_failed=retry_failed):
                self._drop_failed()
        except BaseException:  # whatever ends it, the file is let go of
            os.close(self._fd)
            raise

    def __enter__(self) -> BatchOutput:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Bring it to the disk and let go of it."""
        try:
            os.fsync(self._fd)
        finally:
            os.close(self._fd)

    def write(self, custom_id: str, result: BatchAnswer | Failure) -> None:
        """Append the line of a request, at once.

        Raises:
            OSError: it can't be written.
        """
        line = _line(custom_id, result)
        while line:
            line = line[os.write(self._fd, line) :]

    def _repair(self) -> None:
        """Take a torn last line off; end one that lacks only its line end."""
        size = os.fstat(self._fd).st_size
        start = _last_line(self._fd, size)
        fragment = os.pread(self._fd, size - start, start) if start < size else b""
        if not fragment:
            return
        if _read_back(fragment) is not None:
            os.write(self._fd, b"\n")
        elif fragment.startswith(_HEAD[: len(fragment)]):
            os.ftruncate(self._fd, start)
            self.torn = len(fragment)
        else:
            raise self._foreign("its last line")

    def _take_stock(self, *, retry_failed: bool) -> int:
        """Read back what is done; return how many lines are to be taken out."""
        failed = 0
        for number, raw in enumerate(self._lines(), start=1):
            found = _read_back(raw)
            if found is None:
                raise self._foreign(f"line {number}")
            custom_id, ok = found
            if not ok and retry_failed:
                failed += 1
                continue
            self.failed += not ok
            if not self.done.add(custom_id):
                raise ConfigError(
                    f"line {number} is a second one of custom_id {custom_id!r}",
                    cure="Write to another file",
                    source=str(self._path),
                )
        return failed

    def _drop_failed(self) -> None:
        beside = self._path.with_name(self._path.name + ".quotafleet-tmp")
        beside.unlink(missing_ok=True)
        fd = _opened(beside)
        try:
            with os.fdopen(os.dup(fd), "wb") as copy:
                copy.writelines(raw for raw in self._lines() if _succeeded(raw))
            os.fsync(fd)
            shutil.copymode(self._path, beside)
            beside.replace(self._path)
        except BaseException:  # whatever ends it, the old file stays as it is
            os.close(fd)
            beside.unlink(missing_ok=True)
            raise
        os.close(self._fd)
        self._fd = fd

    def _lines(self) -> Iterator[bytes]:
        with self._path.open("rb") as file:
            yield from file

    def _foreign(self, what: str) -> ConfigError:
        return ConfigError(
            f"{what} is not the output of a batch; nothing was changed",
            cure="Write to another file",
            source=str(self._path),
        )


def _opened(path: Path) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o644)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ConfigError(
                "is not a regular file, so a batch can't be resumed from it",
                cure="Write to a file",
                source=str(path),
            )
        if fcntl is not None:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise ConfigError(
            "another batch writes to it", cure="Wait for it, or write elsewhere", source=str(path)
        ) from None
    except BaseException:  # whatever ends it, the file is let go of
        os.close(fd)
        raise
    return fd


def _last_line(fd: int, size: int) -> int:
    """Return where the last line begins: behind the last line end."""
    end = size
    while end > 0:
        start = max(0, end - 65_536)
        found = os.pread(fd, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def _line(custom_id: str, result: BatchAnswer | Failure) -> bytes:
    response = error = None
    if isinstance(result, BatchAnswer):
        response = {
            "status_code": result.status_code,
            "request_id": result.request_id,
            "body": result.body,
        }
    else:
        error = {"code": result.code, "message": result.message}
    line = {
        "id": f"batch_req_{os.urandom(16).hex()}",
        "custom_id": custom_id,
        "response": response,
        "error": error,
    }
    try:
        return json.dumps(line, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # half a character, which only an escape can write
        return json.dumps(line).encode() + b"\n"


def _read_back(raw: bytes) -> tuple[str, bool] | None:
    """Return an output line's `custom_id` and whether it was answered; ``None``: it is none."""
    with contextlib.suppress(ValueError, RecursionError):
        given = json.loads(raw)
        if isinstance(given, dict) and isinstance(given.get("custom_id"), str):
            response, error = given.get("response"), given.get("error")
            if isinstance(response, dict) and isinstance(response.get("status_code"), int):
                return given["custom_id"], error is None and 200 <= response["status_code"] < 300
            if response is None and isinstance(error, dict):
                return given["custom_id"], False
    return None


def _succeeded(raw: bytes) -> bool:
    found = _read_back(raw)
    return found is not None and found[1]
