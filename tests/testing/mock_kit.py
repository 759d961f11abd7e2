"""What the tests of the mock provider share: a provider on a clock that stands still."""

import json
from typing import Any

from quotafleet.testing import (
    Exchange,
    FakeClock,
    MockFleet,
    MockKey,
    MockModelLimits,
    MockOrganization,
    MockProject,
    MockProvider,
    MockRequest,
    MockSettings,
    ModelSpec,
)

SECRET = "sk-mock-acme-1"


def provider(
    limits: dict[str, int] | None = None, *, settings: MockSettings | None = None, seed: int = 0
) -> MockProvider:
    """Return a provider with one organisation, acme, and these limits for every model."""
    fleet = MockFleet.simple({"acme": limits or {"rpm": 500, "tpm": 200_000}})
    return made(fleet, settings=settings, seed=seed)


def made(fleet: MockFleet, *, settings: MockSettings | None = None, seed: int = 0) -> MockProvider:
    """Return a provider of that fleet on a `FakeClock`."""
    return MockProvider(fleet, clock=FakeClock(), settings=settings or MockSettings(), seed=seed)


def one_org(
    *models: ModelSpec,
    org: MockOrganization | None = None,
    projects: tuple[MockProject, ...] = (),
    keys: tuple[MockKey, ...] = (),
) -> MockFleet:
    """Return a fleet of organisation org-acme; with project proj_acme and `SECRET` by default."""
    return MockFleet(
        models=models or (ModelSpec(name="gpt-4o", limits=MockModelLimits(rpm=500, tpm=30_000)),),
        orgs=(org or MockOrganization(id="org-acme"),),
        projects=projects or (MockProject(id="proj_acme", org="org-acme"),),
        keys=keys or (MockKey(name="acme-1", secret=SECRET, project="proj_acme"),),
    )


def clock(of: MockProvider) -> FakeClock:
    assert isinstance(of.clock, FakeClock)
    return of.clock


def post(
    to: MockProvider,
    body: object,
    path: str = "/v1/chat/completions",
    *,
    secret: str | None = SECRET,
    method: str = "POST",
    client_ip: str | None = None,
) -> Exchange:
    """Send a request and return its exchange, not yet finished."""
    headers = {} if secret is None else {"authorization": f"Bearer {secret}"}
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return to.begin(
        MockRequest(method=method, path=path, headers=headers, body=data, client_ip=client_ip)
    )


def chat(to: MockProvider, content: object = "hello", **fields: Any) -> Exchange:
    """Send a chat of one message; `secret` and `model` may be given, the rest is the body."""
    secret = fields.pop("secret", SECRET)
    model = fields.pop("model", "gpt-4o-mini")
    messages = [{"role": "user", "content": content}]
    return post(to, {"model": model, "messages": messages, **fields}, secret=secret)


def words_of(tokens: int) -> str:
    """Return a text that a chat of one message and one answer is charged `tokens` for."""
    return "x" * (4 * (tokens - 2))


def told(exchange: Exchange) -> dict[str, Any]:
    """Return the parsed body."""
    parsed: dict[str, Any] = json.loads(exchange.body().data)
    return parsed


def error(exchange: Exchange) -> dict[str, Any]:
    """Return the error object of an answer."""
    found: dict[str, Any] = told(exchange)["error"]
    return found


def headers(exchange: Exchange) -> dict[str, str]:
    return dict(exchange.headers())


def used(of: MockProvider, bucket: str) -> int:
    """Return the units used of a bucket, such as `org-acme/gpt-4o/tpm`."""
    state: Any = of.state()
    found: int = state["buckets"][bucket]["used"]
    return found
