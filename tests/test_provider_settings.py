"""A provider is given by object, by settings in a file, by entry point or by import path."""

from __future__ import annotations

import sys
import types
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from quotafleet import ConfigError, Demand, KeyPool, Organization
from quotafleet.protocols import Provider
from quotafleet.providers import Generic, OpenAI, provider
from quotafleet.tokens import bytes4, cautious, token_counter

CHAT = b'{"model":"gpt-4o","max_tokens":9000,"messages":[{"role":"user","content":"hi"}]}'


def tokens_of(rules: Provider) -> int:
    demand = rules.plan("POST", "/chat/completions", "application/json", CHAT).demand
    return demand.input_tokens + demand.output_tokens


def rules_of(pool: KeyPool) -> Provider:
    with pool:
        return pool.provider(pool.keys[0])


def test_an_organization_takes_a_provider_as_an_object() -> None:
    strict = OpenAI(reserve="max_tokens")
    pool = KeyPool([Organization(name="acme", keys=("sk-1",), provider=strict)])
    assert rules_of(pool) is strict
    assert tokens_of(strict) >= 9000 > tokens_of(OpenAI())


def test_a_pool_takes_the_providers_of_its_organizations_by_name() -> None:
    strict = OpenAI(reserve="max_tokens")
    pool = KeyPool([Organization(name="acme", keys=("sk-1",))], providers={"openai": strict})
    assert rules_of(pool) is strict


def test_two_providers_of_one_name_with_other_settings_are_refused() -> None:
    one = Organization(name="acme", keys=("sk-1",), provider=OpenAI(reserve="max_tokens"))
    two = Organization(name="beta", keys=("sk-2",), provider=OpenAI())
    with pytest.raises(ConfigError, match=r"'openai' of 'beta' has other settings.*openai-2"):
        KeyPool([one, two])
    named = Organization(name="beta", keys=("sk-2",), provider=OpenAI(name="openai-2"))
    with KeyPool([one, named]) as pool:
        assert [pool.provider(key).name for key in pool.keys] == ["openai", "openai-2"]


def test_an_object_that_is_no_provider_is_refused_by_what_it_lacks() -> None:
    with pytest.raises(ConfigError, match="object is no provider: it lacks family"):
        KeyPool([Organization(name="acme", keys=("sk-1",))], providers={"openai": object()})  # type: ignore[dict-item]


def test_families_of_a_provider_share_a_bucket() -> None:
    rules = OpenAI(families={"gpt-4o-mini": "small", "gpt-4.1-nano": "small"})
    with KeyPool([Organization(name="acme", keys=("sk-1",), provider=rules)]) as pool:
        with pool.lease(Demand(model="gpt-4o-mini")), pool.lease(Demand(model="gpt-4.1-nano")):
            pass
        assert {scope.family for scope in pool.status().scopes} == {"small"}


FILE = """
[providers.openai]
reserve = "max_tokens"
count_tokens = "cautious"
families = { "gpt-4o-mini" = "small" }

[providers.gateway]
type = "generic"
base_url = "https://llm.example.com/v1"

[[organizations]]
name = "acme"
keys = ["sk-1"]

[[organizations]]
name = "beta"
provider = "gateway"
keys = ["sk-2"]
"""


@pytest.mark.filterwarnings("ignore::quotafleet.config.ReadableSecretWarning")
def test_a_file_gives_a_provider_its_settings(tmp_path: Path) -> None:
    file = tmp_path / "fleet.toml"
    file.write_text(FILE)
    with KeyPool.from_config(file) as pool:
        acme, beta = pool.keys
        rules = pool.provider(acme)
        assert isinstance(rules, OpenAI)
        assert (rules.reserve, rules.count_tokens) == ("max_tokens", cautious)
        assert rules.family("gpt-4o-mini") == "small"
        assert isinstance(pool.provider(beta), Generic)
        assert pool.base_url(beta) == "https://llm.example.com/v1"


@pytest.mark.parametrize(
    ("table", "place", "problem"),
    [
        ({"reserve": "all"}, "providers.openai.reserve", "'auto' or 'max_tokens'"),
        ({"count_tokens": "tiktokn"}, "providers.openai", "unknown token counter 'tiktokn'"),
        ({"reserv": "max_tokens"}, "providers.openai", "reserv"),
        ({"type": "opnai"}, "providers.openai", "unknown provider 'opnai'.*Did you mean 'openai'"),
    ],
)
def test_wrong_settings_name_their_place(table: dict[str, str], place: str, problem: str) -> None:
    config = {
        "providers": {"openai": table},
        "organizations": [{"name": "acme", "keys": ["sk-1"]}],
    }
    with pytest.raises(ConfigError, match=problem) as caught:
        KeyPool.from_config(config)
    assert caught.value.place == place


def offer(monkeypatch: pytest.MonkeyPatch, group: str, value: str) -> None:
    points = EntryPoints([EntryPoint(name="house", value=value, group=group)])
    monkeypatch.setattr(
        "quotafleet._plugins.entry_points", lambda group: points.select(group=group)
    )


class House(Generic):
    """A provider that another package offers."""


def test_an_entry_point_offers_a_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("house_rules")
    module.House = House  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "house_rules", module)
    offer(monkeypatch, "quotafleet.providers", "house_rules:House")
    assert isinstance(provider("house", name="house"), House)
    assert isinstance(provider("house_rules:House"), House)
    with pytest.raises(ConfigError, match="can't be imported: ModuleNotFoundError"):
        provider("nowhere_at_all:House")
    with pytest.raises(ConfigError, match="can't be imported: AttributeError"):
        provider("house_rules:Missing")
    with pytest.raises(ConfigError, match="can't be made"):
        provider("house", colour="red")


def test_token_counters_are_found_by_name() -> None:
    assert token_counter("bytes4") is bytes4
    assert token_counter("quotafleet.tokens:cautious") is cautious
    with pytest.raises(ConfigError, match="not a function"):
        token_counter("quotafleet.tokens:O200K")


def test_tiktoken_without_a_vocabulary_is_refused_not_replaced(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("quotafleet.tokens.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="no vocabulary on this machine"):
        token_counter("tiktoken")
