"""What a connection reports of a server that refuses: which line of which file, in whose words."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from shutil import copytree
from threading import Thread

import pytest
from tests.stores.redis_kit import TestServer

from quotafleet.errors import StoreError
from quotafleet.stores.redis import _connection
from quotafleet.stores.redis._connection import (
    HEALTH,
    MERGE,
    STEP,
    ConnectionLost,
    LuaScript,
    RedisConnection,
)


def broken(folder: Path, file: str, line: str) -> tuple[LuaScript, int]:
    """Return the claims' script with one more line at the end of a file, and its number there."""
    copytree(str(files(_connection.__package__).joinpath("_lua")), folder, dirs_exist_ok=True)
    path = folder / f"{file}.lua"
    number = len(path.read_text("utf-8").splitlines()) + 1
    path.write_text(path.read_text("utf-8") + line + "\n", "utf-8")
    return LuaScript("bucket", "limits", "accounts", folder=folder), number


@pytest.mark.parametrize("file", ["bucket", "limits", "accounts"])
@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("local nothing = nil; local broken = nothing.field", "attempt to index"),
        ("local broken = = 1", "unexpected symbol"),
    ],
    ids=["while it runs", "while it is read"],
)
def test_an_error_in_lua_names_the_file_and_its_line(
    server: TestServer, tmp_path: Path, file: str, line: str, problem: str
) -> None:
    script, number = broken(tmp_path, file, line)
    connection = RedisConnection(server.url, timeout=1.0)
    numbers = b"\xbf\xf0" + bytes(22)  # the time is the server's

    async def asked() -> None:
        try:
            await connection.astep(["a:"], [numbers], script)
        finally:
            await connection.aclose()

    for ask in (
        lambda: connection.step(["a:"], [numbers], script),
        lambda: asyncio.run(asked()),
    ):
        with pytest.raises(StoreError) as caught:
            ask()
        assert f"{file}.lua:{number}: " in str(caught.value)
        assert problem in str(caught.value)
        assert "user_script" not in str(caught.value)
    connection.close()


def test_an_older_server_names_lines_in_another_way() -> None:
    name, line = STEP.located("@user_script: 1: -OOM").split(": ", 1)[0].split(":")
    assert (name.lstrip("@"), line) == ("bucket.lua", "1")
    assert STEP.located("user_script:99999: what") == "user_script:99999: what"


@pytest.mark.parametrize("script", [STEP, MERGE, HEALTH], ids=["step", "merge", "health"])
def test_each_line_of_a_script_is_a_line_of_a_file_that_ships(script: LuaScript) -> None:
    folder = files(_connection.__package__).joinpath("_lua")
    for number, text in enumerate(script.text.split("\n"), 1):
        name, line = script.located(f"user_script:{number}").split(":")
        assert folder.joinpath(name).read_text("utf-8").splitlines()[int(line) - 1] == text


@contextmanager
def speaking(reply: bytes) -> Iterator[int]:
    """Answer whatever comes with these bytes; yield the port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    peer, _ = listening.accept()
                except OSError:
                    return
                with peer:
                    peer.recv(4096)
                    peer.sendall(reply)

        thread = Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
    thread.join(5)


def test_a_server_of_another_protocol_is_named_as_such() -> None:
    with speaking(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        connection = RedisConnection(f"redis://127.0.0.1:{port}/0", timeout=1.0)
        with pytest.raises(ConnectionLost, match="does not speak the Redis protocol"):
            connection.turn(["a:"], b"", 0.0)
        connection.close()
