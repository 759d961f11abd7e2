"""Owners as their user states them: keys that bring their own name and rules."""

from __future__ import annotations

import pytest

from quotafleet import ApiKey, ConfigError, Demand, KeyPool, Organization, Project, Secret


def key(key_id: str, secret: str = "", **fields: object) -> ApiKey:
    return ApiKey(
        key_id=key_id,
        secret=Secret(secret or f"sk-{key_id}-0123456789"),
        organization="",
        **fields,  # type: ignore[arg-type]
    )


def test_an_api_key_keeps_its_name_and_rules_and_gets_its_owner() -> None:
    pool = KeyPool(
        [
            Organization(
                name="acme",
                keys=(key("x", provider="generic", base_url="https://a.test/v1"), "sk-plain-01234"),
                projects=(Project(name="research", keys=(key("y", only_models=("m",)),)),),
            )
        ]
    )
    found = {one.key_id: one for one in pool.keys}
    assert sorted(found) == ["acme#2", "x", "y"]
    assert (found["x"].organization, found["x"].provider) == ("acme", "generic")
    assert found["x"].base_url == "https://a.test/v1"
    assert (found["y"].organization, found["y"].project) == ("acme", "research")
    assert found["y"].only_models == ("m",)
    with pool.lease(Demand(model="m")) as lease:
        assert lease.owner in ("acme", "acme/research")


def test_a_name_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="two keys are named 'x'"):
        KeyPool(
            [
                Organization(name="a", keys=(key("x", "sk-one-0123456789"),)),
                Organization(name="b", keys=(key("x", "sk-two-0123456789"),)),
            ]
        )


@pytest.mark.parametrize("of", [Organization, Project])
def test_limits_of_another_type_are_refused_where_they_are_given(
    of: type[Organization] | type[Project],
) -> None:
    with pytest.raises(ConfigError, match="the limits of 'acme' are a dict"):
        of(name="acme", limits={"rpm": 60})  # type: ignore[arg-type]


def test_models_are_a_mapping_to_limits() -> None:
    with pytest.raises(ConfigError, match="only_models"):
        Organization(name="a", keys=("sk-1",), models=("gpt-4o*",))  # type: ignore[arg-type]
