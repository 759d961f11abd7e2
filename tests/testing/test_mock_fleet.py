"""A fleet is checked when it is made, and says what is wrong with it."""

import pickle
import tomllib
from typing import Any

import pytest

from quotafleet.testing import (
    MockFleet,
    MockKey,
    MockModelLimits,
    MockOrganization,
    MockProject,
    ModelSpec,
    default_fleet,
)
from quotafleet.testing.mock.catalog import STANDARD_MODELS

FILE = """
[orgs.acme]
tier = "free"
limits = { "*" = { rpm = 500, tpm = 200000 }, gpt-4o = { rpm = 100 } }
credits_usd = "12.50"
keys = { acme-1 = "sk-mock-acme-1", acme-2 = { secret = "sk-mock-acme-2", revoked = true } }

[orgs.birch.projects.research]
overrides = { gpt-4o = { tpm = 30000 } }
allowed_models = ["gpt-4o"]
keys = { birch-research = "sk-mock-birch-research" }

[models.gpt-4o]
limits = { rpm = 500, tpm = 30000 }
profiles = { chat = "chat_2024" }
long_context = { threshold = 1000, limits = { rpm = 3 } }
"""


def test_a_simple_fleet_in_one_line() -> None:
    fleet = MockFleet.simple({"acme": {"rpm": 500, "keys": 2}, "birch": {"rpm": 60, "tpm": 9}})
    assert fleet.secrets() == ("sk-mock-acme-1", "sk-mock-acme-2", "sk-mock-birch-1")
    assert [key.project for key in fleet.keys] == ["proj_acme", "proj_acme", "proj_birch"]
    assert fleet.orgs[1].limits["*"] == MockModelLimits(rpm=60, tpm=9)
    assert fleet.key("acme-2").secret == "sk-mock-acme-2"
    with pytest.raises(KeyError, match="acme-1, acme-2, birch-1"):
        fleet.key("cedar-1")


def test_the_default_fleet_has_three_owners_and_four_keys() -> None:
    fleet = default_fleet()
    assert len(fleet.orgs) == 3
    assert len(fleet.keys) == 4


def test_a_fleet_from_a_file() -> None:
    fleet = MockFleet.from_dict(tomllib.loads(FILE))
    acme, birch = fleet.orgs
    assert acme.limits["gpt-4o"] == MockModelLimits(rpm=100)
    assert str(acme.credits_usd) == "12.50"
    assert birch.limits == {}
    assert [project.id for project in fleet.projects] == ["proj_acme", "proj_research"]
    assert fleet.projects[1].overrides == {"gpt-4o": MockModelLimits(tpm=30_000)}
    assert fleet.key("acme-2").revoked
    (model,) = (one for one in fleet.models if one.name == "gpt-4o")
    assert model.profiles == {"chat": "chat_2024"}
    assert model.long_context is not None
    assert len(fleet.models) == len(STANDARD_MODELS)


def test_a_fleet_can_be_sent_to_a_process() -> None:
    fleet = MockFleet.from_dict(tomllib.loads(FILE))
    assert pickle.loads(pickle.dumps(fleet)) == fleet


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({}, "orgs: Field required"),
        ({"orgs": {}}, "orgs: Dictionary should have at least 1 item"),
        ({"orgs": {"a": {"limit": 5}}}, "orgs.a.limit: Extra inputs are not permitted"),
        (
            {"orgs": {"a": {"limits": {"*": {"rpm": 0}}}}},
            "limit rpm must be above 0",
        ),
        ({"orgs": {"a": {"limits": {"*": {"rps": 1}}}}}, r"orgs.a.limits.\*.rps: Unexpected"),
        ({"orgs": {"a": {"tier": "gold"}}}, "orgs.a.tier: Input should be 'free'"),
        ({"orgs": {"a": {"keys": {"k": 5}}}}, "orgs.a.keys.k"),
        ({"orgs": {"a": {}}, "models": {"m": {"profiles": {"chat": "x"}}}}, "no cost profile 'x'"),
    ],
)
def test_a_wrong_file_is_told_with_its_place(data: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        MockFleet.from_dict(data)


def test_no_secret_is_in_a_message_or_a_repr() -> None:
    secret = "sk-proj-hidden"
    with pytest.raises(ValueError, match="limits") as caught:
        MockFleet.from_dict({"orgs": {"a": {"keys": {"k": secret}, "limits": 5}}})
    assert secret not in str(caught.value)
    with pytest.raises(ValueError, match="key secret given twice") as caught:
        MockFleet.from_dict({"orgs": {"a": {"keys": {"k": secret, "l": secret}}}})
    assert secret not in str(caught.value)
    assert secret not in repr(MockKey(name="k", secret=secret, project="p"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"models": (ModelSpec(name="m"), ModelSpec(name="m"))}, "model given twice: m"),
        (
            {"models": (ModelSpec(name="m"), ModelSpec(name="n", aliases=("m",)))},
            "model given twice: m",
        ),
        (
            {"orgs": (MockOrganization(id="o"), MockOrganization(id="o"))},
            "organization given twice: o",
        ),
        (
            {"orgs": (MockOrganization(id="x"),)},
            "project p belongs to organization o, which does not exist",
        ),
        ({"projects": ()}, "key k belongs to project p, which does not exist"),
        (
            {"projects": (MockProject(id="p", org="o"), MockProject(id="p", org="o"))},
            "project given twice: p",
        ),
        (
            {
                "keys": (
                    MockKey(name="k", secret="1", project="p"),
                    MockKey(name="k", secret="2", project="p"),
                )
            },
            "key name given twice: k",
        ),
    ],
)
def test_a_fleet_that_contradicts_itself(changes: dict[str, Any], said: str) -> None:
    parts: dict[str, Any] = {
        "models": (ModelSpec(name="m"),),
        "orgs": (MockOrganization(id="o"),),
        "projects": (MockProject(id="p", org="o"),),
        "keys": (MockKey(name="k", secret="s", project="p"),),
    }
    MockFleet(**parts)
    with pytest.raises(ValueError, match=said):
        MockFleet(**{**parts, **changes})


def test_limits_of_unknown_name_or_no_size() -> None:
    with pytest.raises(ValueError, match=r"acme: no limit rps; there are: .*rpm"):
        MockFleet.simple({"acme": {"rps": 5}})
    with pytest.raises(ValueError, match="limit rpm must be above 0"):
        MockFleet.simple({"acme": {"rpm": 0}})
