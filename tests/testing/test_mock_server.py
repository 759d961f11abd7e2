"""The server starts and stops without a trace; the control API reaches what is behind it."""

import asyncio
import json
import socket
import threading
import time
from http.client import HTTPConnection
from typing import Any

import pytest

from quotafleet.testing import (
    FakeClock,
    MockFault,
    MockFleet,
    MockProvider,
    MockServer,
    MockSettings,
    default_fleet,
    serve,
    serve_process,
)
from quotafleet.testing.mock.asgi import MockApp

from .mock_kit import SECRET

CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}


def fake(**limits: int) -> MockProvider:
    return MockProvider(MockFleet.simple({"acme": limits or {"rpm": 1}}), clock=FakeClock())


def call(url: Any, method: str, path: str, body: object = None) -> tuple[int, Any]:
    connection = HTTPConnection(url.host, url.port, timeout=5)
    try:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, path, data, {"Authorization": f"Bearer {SECRET}"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def chat(server: Any) -> int:
    return call(server, "POST", "/v1/chat/completions", CHAT)[0]


def test_it_starts_and_stops_twice_in_a_row_on_one_port() -> None:
    threads = threading.active_count()
    mock = fake(rpm=100)
    with serve(mock) as server:
        assert chat(server) == 200
        assert repr(server) == f"<MockServer at http://127.0.0.1:{server.port}>"
    with serve(mock, port=server.port) as again:
        assert chat(again) == 200
    assert threading.active_count() == threads
    with pytest.raises(ConnectionRefusedError):
        chat(again)


def test_stopping_twice_is_stopping_once() -> None:
    server = serve(fake())
    server.stop()
    server.stop()


def test_it_stops_quickly_with_a_client_connected_and_a_call_in_flight() -> None:
    with serve(default_fleet(), settings=MockSettings(ttft_s=60)) as server:
        idle = socket.create_connection((server.host, server.port))
        busy = HTTPConnection(server.host, server.port)
        headers = {"Authorization": f"Bearer {SECRET}"}
        busy.request("POST", "/v1/chat/completions", json.dumps(CHAT), headers)
        while server.provider.admitted == 0:
            time.sleep(0.002)
        began = time.monotonic()
        server.stop()
        assert time.monotonic() - began < 20
        busy.close()
        idle.close()
    assert server.provider.aborted == 1


def test_a_port_that_is_taken_is_told_at_once() -> None:
    with serve(fake()) as server:
        with pytest.raises(OSError, match="in use"):
            serve(fake(), port=server.port)
        with pytest.raises(OSError, match="in use"):
            serve_process(default_fleet(), port=server.port)


def test_a_fleet_is_served_in_real_time_and_a_provider_as_it_is() -> None:
    with serve(default_fleet(), seed=3) as server:
        assert server.provider.seed == 3
        assert chat(server) == 200
    with pytest.raises(ValueError, match="settings belong to a provider"):
        serve(fake(), settings=MockSettings())


def test_the_clock_is_advanced_over_http() -> None:
    with serve(fake(rpm=1)) as server:
        assert [chat(server), chat(server)] == [200, 429]
        assert call(server, "POST", "/_mock/advance", {"s": 60}) == (200, {"now_s": 60.0})
        assert chat(server) == 200
        status, told = call(server, "POST", "/_mock/advance", {"s": -1})
        assert status == 400
        assert "only moves forward" in told["error"]["message"]
        status, told = call(server, "POST", "/_mock/advance", {})
        assert status == 400
        assert '{"s": 1.5}' in told["error"]["message"]


def test_real_time_is_not_advanced() -> None:
    with serve(default_fleet()) as server:
        status, told = call(server, "POST", "/_mock/advance", {"s": 60})
    assert status == 400
    assert told["error"]["message"] == ("this provider runs on real time, which cannot be advanced")


def test_faults_and_scripts_over_http() -> None:
    with serve(fake(rpm=100)) as server:
        assert call(server, "POST", "/_mock/faults", [{"action": "500"}] * 2) == (
            200,
            {"faults": 2},
        )
        assert chat(server) == 500
        assert call(server, "DELETE", "/_mock/faults") == (200, {"faults": 0})
        assert call(server, "POST", "/_mock/script", {"text": "hi"}) == (200, {"scripts": 1})
        _, told = call(server, "POST", "/v1/chat/completions", CHAT)
        assert told["choices"][0]["message"]["content"] == "hi"
        assert call(server, "DELETE", "/_mock/script") == (200, {"scripts": 0})
        status, told = call(server, "POST", "/_mock/faults", {"action": "explode"})
        assert status == 400
        assert "action" in told["error"]["message"]
        assert call(server, "POST", "/_mock/script", b"{")[0] == 400


def test_keys_are_revoked_and_restored_over_http() -> None:
    with serve(fake(rpm=100)) as server:
        assert call(server, "POST", "/_mock/keys/acme-1/revoke")[0] == 200
        assert chat(server) == 401
        assert call(server, "POST", "/_mock/keys/acme-1/restore")[0] == 200
        assert chat(server) == 200
        assert call(server, "POST", "/_mock/keys/nobody/revoke")[0] == 404
        assert call(server, "POST", "/_mock/keys/acme-1/explode")[0] == 404


def test_state_and_reset_over_http() -> None:
    with serve(fake(rpm=1)) as server:
        chat(server)
        chat(server)
        _, state = call(server, "GET", "/_mock/state")
        assert (state["admitted"], state["refused"], state["rejected"]) == (1, 1, {"rpm": 1})
        assert call(server, "POST", "/_mock/reset") == (200, {"reset": True})
        assert call(server, "GET", "/_mock/state")[1]["received"] == 0
        status, told = call(server, "GET", "/_mock/nothing")
        assert status == 404
        assert "GET /_mock/state" in told["error"]["message"]


def test_a_process_of_its_own() -> None:
    with serve_process(
        MockFleet.simple({"acme": {"rpm": 1}}), MockSettings(ttft_s=0.001)
    ) as server:
        assert [chat(server), chat(server)] == [200, 429]
        assert server.refused() == 1
        assert server.state()["admitted"] == 1
        server.control("POST", "faults", {"action": "500"})
        assert chat(server) == 500
        with pytest.raises(ValueError, match="no GET /_mock/nothing"):
            server.control("GET", "nothing")
        server.reset()
        assert server.refused() == 0
    server.stop()
    with pytest.raises(ConnectionRefusedError):
        chat(server)


def test_ipv6() -> None:
    try:
        probe = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    probe.close()
    with serve(fake(), host="::1") as server:
        assert server.url == f"http://[::1]:{server.port}"
        assert chat(server) == 200


def test_another_asgi_server_cannot_cut() -> None:
    """An application that is mounted elsewhere says so, instead of pretending."""
    mock = fake()
    app = MockApp(mock)
    sent: list[dict[str, object]] = []

    async def drive() -> None:
        async def receive() -> dict[str, object]:
            return {"type": "http.request", "body": json.dumps(CHAT).encode()}

        async def send(message: dict[str, object]) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/chat/completions",
            "headers": [(b"authorization", f"Bearer {SECRET}".encode())],
        }
        await app(scope, receive, send)
        await app({"type": "lifespan"}, receive, send)
        mock.inject(MockFault(action="reset_conn"))
        with pytest.raises(ConnectionAbortedError, match="use serve"):
            await app(scope, receive, send)

    asyncio.run(drive())
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]


def test_a_server_is_what_serve_returns() -> None:
    with serve(fake()) as server:
        assert isinstance(server, MockServer)
        assert server.base_url == f"{server.url}/v1"
