"""A configuration is understood as it stands, or refused with file, place, value and cure."""

import json
import os
import sys
import types
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from random import Random

import pytest

from quotafleet import ConfigError, KeyPool
from quotafleet.config import ReadableSecretWarning, json_schema, load, load_default
from quotafleet.limits import RULES, Limit

SECRET = "sk-test-0123456789-abcdefgh"
OTHER = "sk-test-9876543210-hgfedcba"


def organization(**changes: object) -> dict[str, object]:
    return {"name": "acme", "keys": [SECRET], **changes}


def config(*organizations: dict[str, object], **rest: object) -> dict[str, object]:
    return {"organizations": list(organizations or [organization()]), **rest}


def refused(given: Mapping[str, object] | Path) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(given)
    assert SECRET not in str(caught.value)
    assert OTHER not in str(caught.value)
    assert caught.value.cure
    return caught.value


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "quotafleet.toml"
    path.touch(mode=0o600)
    return path


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (
        *("QUOTAFLEET_CONFIG", "OPENAI_API_KEYS", "OPENAI_API_KEY_ACME_1"),
        *("OPENAI_BASE_URL", "OPENAI_API_BASE"),
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


# What is right

FACE = """
strategy = "least-used"
store = "memory"
[wait]
timeout = 60
max_waiting = 10
[retry]
attempts = 3
[[organizations]]
name = "acme"
provider = "openai"
base_url = "https://api.example.com/v1"
keys = ["env:OPENAI_API_KEY_ACME_1"]
limits = { rpm = 500, tpm = { amount = 200_000, burst = 20_000 }, spend = 100.10 }
[organizations.models."gpt-4o*"]
limits = { rpm = 100 }
shared = true
[[organizations.projects]]
name = "research"
keys = ["file:research.key"]
limits = { tpm = 50_000 }
"""


def test_the_face_of_a_file_is_understood(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY_ACME_1", SECRET)
    (tmp_path / "research.key").write_text(f"{OTHER}\n")
    file.write_text(FACE)
    found = load(file)
    assert found["strategy"] == "least-used"
    assert found["wait_timeout"] == 60
    assert found["max_waiting"] == 10
    (acme,) = found["organizations"]
    assert acme.base_url == "https://api.example.com/v1"
    assert acme.keys[0].reveal() == SECRET
    assert list(acme.limits) == [
        Limit(name="rpm", amount=500),
        Limit(name="tpm", amount=200_000, burst=20_000),
        Limit(name="spend", amount=100.10),
    ]
    assert list(acme.models["gpt-4o*"].limits) == [Limit(name="rpm", amount=100)]
    assert acme.models["gpt-4o*"].shared
    (research,) = acme.projects
    assert research.keys[0].reveal() == OTHER
    assert list(research.limits) == [Limit(name="tpm", amount=50_000)]


def test_a_pool_is_made_of_a_path_as_text_and_of_a_dict(file: Path) -> None:
    file.write_text(f'[[organizations]]\nname = "acme"\nkeys = ["{SECRET}"]\n')
    assert [key.key_id for key in KeyPool.from_config(str(file)).keys] == ["acme#1"]
    assert [key.key_id for key in KeyPool.from_config(config()).keys] == ["acme#1"]


def test_what_is_left_out_is_left_to_the_pool() -> None:
    assert set(load(config())) == {"organizations", "providers", "strategy", "retry"}


@pytest.mark.parametrize("name", sorted(RULES))
def test_every_limit_can_be_stated(name: str) -> None:
    (acme,) = load(config(organization(limits={name: 7})))["organizations"]
    assert list(acme.limits) == [Limit(name=name, amount=7)]


def test_attempts_and_delays_reach_the_policy() -> None:
    policy = load(config(retry={"attempts": 2, "first_delay": 2, "max_delay": 5}))["retry"]
    state = types.SimpleNamespace(attempt_number=1, seconds_since_start=0.0)
    assert policy.wait(state) == 2
    assert not policy.stop(state)
    state.attempt_number = 4
    assert policy.wait(state) == 5
    assert policy.stop(state)


def test_delays_get_full_jitter() -> None:
    jitter = load(config())["retry"].jitter
    drawn = [jitter(10.0) for _ in range(500)]
    assert 0 <= min(drawn) < 1
    assert 9 < max(drawn) <= 10


# What is wrong

WRONG = {
    "organizations[0].limits.rpm": [
        (organization(limits={"rpm": 0}), "0"),
        (organization(limits={"rpm": -5}), "-5"),
        (organization(limits={"rpm": float("nan")}), "nan"),
        (organization(limits={"rpm": float("inf")}), "inf"),
        (organization(limits={"rpm": 10**400}), "inf"),
        (organization(limits={"rpm": Decimal("1e-400")}), "0"),
        (organization(limits={"rpm": True}), "true"),
        (organization(limits={"rpm": "500"}), "'500'"),
        (organization(limits={"rpm": [500]}), "list"),
        (organization(limits={"rpm": 0.5}), "0.5"),
        (organization(limits={"rpm": {"amount": 60, "burst": 0.5}}), "0.5"),
    ],
    "organizations[0].limits.rpm.amount": [
        (organization(limits={"rpm": {"amount": 0}}), "0"),
        (organization(limits={"rpm": {"burst": 5}}), "amount"),
    ],
    "organizations[0].limits.tpm.burst": [
        (organization(limits={"tpm": {"amount": 10, "burst": -1}}), "-1"),
    ],
    'organizations[0].models."gpt-4o*".limits.rpm': [
        (organization(models={"gpt-4o*": {"limits": {"rpm": 0}}}), "0"),
    ],
    "organizations[0].projects[0].limits.tpm": [
        (organization(projects=[{"name": "research", "limits": {"tpm": 0}}]), "0"),
    ],
    "organizations[0].provider": [(organization(provider="opnai"), "openai")],
    "organizations[0].base_url": [
        (organization(base_url="api.example.com"), "api.example.com"),
        (organization(base_url="ftp://api.example.com"), "ftp"),
        (organization(base_url="https://me:word@api.example.com"), "password"),
    ],
    "organizations[0].name": [
        (organization(name=""), "''"),
        (organization(name="a/b"), "'a/b'"),
        (organization(name=5), "5"),
        ({"keys": [SECRET]}, "name"),
    ],
    "organizations[0].projects[0].name": [(organization(projects=[{}]), "name")],
    "organizations[0].projects[1].name": [
        (organization(projects=[{"name": "one"}, {"name": "one"}]), "'one'"),
    ],
    "organizations[0].keys": [(organization(keys=SECRET), "text")],
    "organizations[0].keys[0]": [
        (organization(keys=[5]), "5"),
        (organization(keys=[{"secret": SECRET}]), "table"),
        (organization(keys=[""]), "empty"),
        (organization(keys=["env:QUOTAFLEET_NO_SUCH"]), "QUOTAFLEET_NO_SUCH"),
        (organization(keys=[f"env:{SECRET}"]), "env:"),
        (organization(keys=["evn:NAME"]), "evn:"),
        (organization(keys=["file:no-such.key"]), "no-such.key"),
        (organization(keys=["file:."]), "irectory"),
        (organization(keys=["keyring:acme"]), "SERVICE/USER"),
    ],
    "organizations[0].keys[1]": [(organization(keys=[SECRET, SECRET]), "organizations[0].keys[0]")],
    "organizations[0].projects[0].keys[0]": [
        (organization(projects=[{"name": "one", "keys": [SECRET]}]), "organizations[0].keys[0]"),
    ],
    "organizations[0].limts": [(organization(limts={}), "'limits'")],
    "organizations[0].api_key": [(organization(api_key=SECRET), "api_key")],
    "organizations[0].limits.rmp": [(organization(limits={"rmp": 5}), "'rpm'")],
    "organizations[0].limits.rpm.bursts": [
        (organization(limits={"rpm": {"amount": 5, "bursts": 5}}), "'burst'"),
    ],
    "organizations[0]": [(SECRET, "text")],
    "organizations": [({"name": "acme"}, "no key"), (organization(keys=[]), "no key")],
}


@pytest.mark.parametrize(
    ("place", "wrong", "shown"),
    [(place, wrong, shown) for place, cases in WRONG.items() for wrong, shown in cases],
)
def test_a_wrong_organization_is_refused_at_its_place(
    place: str, wrong: dict[str, object], shown: str
) -> None:
    error = refused({"organizations": [wrong]})
    assert error.place == place
    assert shown in str(error)


@pytest.mark.parametrize(
    ("rest", "place", "shown"),
    [
        ({"strategy": "headroom-wieghted"}, "strategy", "'headroom-weighted'"),
        ({"strategy": "no.such.module:Class"}, "strategy", "no.such.module"),
        ({"strategy": 5}, "strategy", "5"),
        ({"store": "redsi://:word@localhost/0"}, "store", "redsi://..."),
        ({"store": "disk"}, "store", "'disk'"),
        ({"wait": {"timeout": -1}}, "wait.timeout", "-1"),
        ({"wait": {"timeout": float("nan")}}, "wait.timeout", "nan"),
        ({"wait": {"max_waiting": 0}}, "wait.max_waiting", "0"),
        ({"wait": {"max_waiting": 1.5}}, "wait.max_waiting", "1.5"),
        ({"retry": {"attempts": 0}}, "retry.attempts", "0"),
        ({"retry": {"attempts": True}}, "retry.attempts", "true"),
        ({"retries": {"attempts": 3}}, "retries", "'retry'"),
        ({"organisations": []}, "organisations", "'organizations'"),
        ({"wait": 5}, "wait", "5"),
    ],
)
def test_a_wrong_setting_is_refused_at_its_place(
    rest: dict[str, object], place: str, shown: str
) -> None:
    error = refused(config(**rest))
    assert error.place == place
    assert shown in str(error)
    assert "word" not in str(error)


def test_two_organizations_of_one_name_are_refused() -> None:
    error = refused(config(organization(), organization(keys=[OTHER])))
    assert error.place == "organizations[1].name"
    assert "'acme'" in str(error)


def test_one_secret_twice_is_refused_however_it_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY_ACME_1", f"{SECRET}\n")
    error = refused(
        config(organization(), organization(name="birch", keys=["env:OPENAI_API_KEY_ACME_1"]))
    )
    assert error.place == "organizations[1].keys[0]"
    assert "organizations[0].keys[0]" in str(error)


def test_an_empty_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY_ACME_1", " ")
    error = refused(config(organization(keys=["env:OPENAI_API_KEY_ACME_1"])))
    assert "OPENAI_API_KEY_ACME_1 is empty" in str(error)


def test_further_errors_are_counted() -> None:
    error = refused(config(wait={"timeout": -1}, retry={"attempts": 0}))
    assert "1 more to come" in str(error)


def test_pydantics_own_message_which_shows_values_is_not_in_the_traceback() -> None:
    error = refused(config(organization(keys=SECRET)))
    assert error.__cause__ is None
    assert error.__suppress_context__


# Files


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    error = refused(tmp_path / "none.toml")
    assert str(error).startswith(f"{tmp_path / 'none.toml'}: can't be read: No such file")


def test_broken_toml_is_refused_with_its_line(file: Path) -> None:
    file.write_text('strategy = "least-used"\nstore = \n')
    assert "line 2" in str(refused(file))
    assert refused(file).source == str(file)


@pytest.mark.parametrize("text", ["a = " + "9" * 5000, "a = " + "[" * 5000])
def test_absurd_toml_is_refused(file: Path, text: str) -> None:
    file.write_text(text)
    assert "is not TOML" in str(refused(file))


def test_a_file_that_is_not_utf8_is_refused(file: Path) -> None:
    file.write_bytes(b'strategy = "\xff"')
    assert "not UTF-8" in str(refused(file))


def test_an_error_in_a_file_names_file_place_and_value(file: Path) -> None:
    file.write_text('[[organizations]]\nname = "acme"\nlimits = { rpm = 0.0 }\n')
    assert str(refused(file)).startswith(f"{file}: organizations[0].limits.rpm: 0 is not")


def test_an_error_of_a_reference_in_a_file_names_the_file(file: Path) -> None:
    file.write_text('[[organizations]]\nname = "acme"\nkeys = ["env:QUOTAFLEET_NO_SUCH"]\n')
    assert str(refused(file)).startswith(f"{file}: organizations[0].keys[0]: the variable")


def test_money_is_exact(file: Path) -> None:
    from quotafleet.config import _read
    from quotafleet.config._schema import LimitsTable

    file.write_text("spend = 0.10000000000000000001")
    assert _read(file) == {"spend": Decimal("0.10000000000000000001")}
    limits = LimitsTable.model_validate({"spend": 0.1, "tpm": {"amount": Decimal("0.30")}})
    assert limits.spend == Decimal("0.1")
    assert limits.tpm is not None


@pytest.mark.skipif(os.name != "posix", reason="file modes")
@pytest.mark.parametrize(("mode", "warns"), [(0o600, False), (0o640, True), (0o604, True)])
def test_a_secret_in_a_file_that_others_can_read_is_warned_of(
    file: Path, mode: int, warns: bool, recwarn: pytest.WarningsRecorder
) -> None:
    file.write_text(f'[[organizations]]\nname = "acme"\nkeys = ["{SECRET}"]\n')
    file.chmod(mode)
    load(file)
    found = [str(one.message) for one in recwarn if one.category is ReadableSecretWarning]
    assert len(found) == warns
    assert SECRET not in "".join(found)
    if warns:
        assert "chmod 600" in found[0]


def test_a_reference_in_a_file_that_others_can_read_is_not_warned_of(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY_ACME_1", SECRET)
    file.write_text('[[organizations]]\nname = "acme"\nkeys = ["env:OPENAI_API_KEY_ACME_1"]\n')
    file.chmod(0o644)
    load(file)


def test_the_path_of_a_key_starts_at_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "acme.key").write_text(SECRET)
    inner = tmp_path / "deep" / "fleet.toml"
    inner.write_text('[[organizations]]\nname = "acme"\nkeys = ["file:acme.key"]\n')
    assert load(inner)["organizations"][0].keys[0].reveal() == SECRET


@pytest.mark.parametrize(
    ("content", "shown"), [(b" \n", "is empty"), (b"\xff", "not UTF-8"), (b"a b", "white space")]
)
def test_a_key_file_that_holds_no_key_is_refused(
    tmp_path: Path, content: bytes, shown: str
) -> None:
    (tmp_path / "acme.key").write_bytes(content)
    assert shown in str(refused(config(organization(keys=[f"file:{tmp_path / 'acme.key'}"]))))


# The keyring


class Ring(types.ModuleType):
    def get_password(self, service: str, user: str) -> str | None:
        if user == "locked":
            raise RuntimeError(SECRET)
        return SECRET if (service, user) == ("open/ai", "acme") else None


def test_a_key_comes_from_the_keyring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keyring", Ring("keyring"))
    (acme,) = load(config(organization(keys=["keyring:open/ai/acme"])))["organizations"]
    assert acme.keys[0].reveal() == SECRET


@pytest.mark.parametrize(("user", "shown"), [("nobody", "no password"), ("locked", "RuntimeError")])
def test_a_keyring_without_the_key_is_told(
    monkeypatch: pytest.MonkeyPatch, user: str, shown: str
) -> None:
    monkeypatch.setitem(sys.modules, "keyring", Ring("keyring"))
    assert shown in str(refused(config(organization(keys=[f"keyring:openai/{user}"]))))


def test_a_missing_keyring_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keyring", None)
    error = refused(config(organization(keys=["keyring:openai/acme"])))
    assert "pip install keyring" in str(error)


# The default pool


def test_the_variable_comes_before_the_file_before_the_keys(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEYS", SECRET)
    file.unlink()
    assert [one.name for one in load_default()["organizations"]] == ["key-1"]
    monkeypatch.setenv("OPENAI_API_KEY_ACME_1", SECRET)
    text = '[[organizations]]\nname = "{}"\nkeys = ["env:OPENAI_API_KEY_ACME_1"]\n'
    file.write_text(text.format("beside"))
    assert [one.name for one in load_default()["organizations"]] == ["beside"]
    (tmp_path / "named.toml").write_text(text.format("named"))
    monkeypatch.setenv("QUOTAFLEET_CONFIG", str(tmp_path / "named.toml"))
    assert [one.name for one in load_default()["organizations"]] == ["named"]


@pytest.mark.parametrize("place", ["OPENAI_BASE_URL", "OPENAI_API_BASE"])
def test_each_key_of_the_variable_is_an_organization(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEYS", f" {SECRET}, {OTHER},")
    monkeypatch.setenv(place, "http://127.0.0.1:8080/v1")
    pool = KeyPool.from_env()
    assert [key.key_id for key in pool.keys] == ["key-1#1", "key-2#1"]
    assert {pool.base_url(key) for key in pool.keys} == {"http://127.0.0.1:8080/v1"}


@pytest.mark.parametrize("keys", [None, "", " , "])
def test_no_configuration_names_all_three_ways(
    keys: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if keys is not None:
        monkeypatch.setenv("OPENAI_API_KEYS", keys)
    with pytest.raises(ConfigError) as caught:
        load_default()
    for way in ("QUOTAFLEET_CONFIG", "quotafleet.toml", "OPENAI_API_KEYS"):
        assert way in str(caught.value)


def test_one_key_twice_in_the_variable_is_refused_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEYS", f"{SECRET},{SECRET}")
    with pytest.raises(ConfigError, match="OPENAI_API_KEYS") as caught:
        load_default()
    assert SECRET not in str(caught.value)


# The schema


def test_the_shipped_schema_is_up_to_date() -> None:
    import quotafleet

    shipped = Path(quotafleet.__file__).with_name("quotafleet.schema.json")
    assert json.loads(shipped.read_text("utf-8")) == json_schema(), (
        "quotafleet check --schema > src/quotafleet/quotafleet.schema.json"
    )


def test_the_schema_knows_every_limit_and_forbids_the_unknown() -> None:
    tables = json_schema()["$defs"]
    assert isinstance(tables, dict)
    assert set(tables["LimitsTable"]["properties"]) == set(RULES)
    assert tables.pop("ProviderTable")["additionalProperties"] is True, "a provider of one's own"
    assert all(table["additionalProperties"] is False for table in tables.values())


@pytest.mark.parametrize("seed", range(50))
def test_rubbish_is_refused_and_never_crashes(seed: int) -> None:
    random = Random(seed)

    def rubbish(depth: int = 0) -> object:
        leaves = [None, True, -1, 0.5, "x", SECRET, float("nan"), b"x", Decimal(3)]
        if depth > 3 or random.random() < 0.4:
            return random.choice(leaves)
        if random.random() < 0.3:
            return [rubbish(depth + 1) for _ in range(2)]
        names = ["organizations", "name", "keys", "limits", "rpm", "models", "projects", "wait"]
        return {random.choice(names): rubbish(depth + 1) for _ in range(3)}

    refused({"organizations": [rubbish()], "wait": rubbish()})


# Stores

KEYED = {"organizations": [{"name": "acme", "keys": ["env:ACME_KEY"]}]}


@pytest.fixture
def _acme_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACME_KEY", "sk-acme-0123456789abcdef")


@pytest.mark.usefixtures("_acme_key")
def test_a_shared_store_is_named_by_its_url(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("redis")
    monkeypatch.setenv("FLEET_STORE", "redis://:word@localhost/0")
    for store in (
        "redis://:word@localhost/0",
        "env:FLEET_STORE",
        {"url": "redis://:word@localhost/0", "namespace": "n", "lifetime": 60, "timeout": 1.5},
        {"url": "redis://:word@localhost/0", "on_failure": "fail"},
        {"url": "redis://:word@localhost/0", "share_for": 0.5},
    ):
        made = load({**KEYED, "store": store})["store"]
        assert type(made).__name__ == "RedisStore"
        assert "word" not in repr(made)
    assert "store" not in load({**KEYED, "store": "memory"})


@pytest.mark.usefixtures("_acme_key")
@pytest.mark.parametrize(
    "store",
    [
        "env:NOT_SET_ANYWHERE",
        "redis+sentinel://:word@localhost",
        {"url": "redis://:word@localhost/x:y", "namespace": ""},
        {"namespace": "n"},
        {"url": "redis://:word@localhost", "colour": "red"},
        {"url": "redis://:word@localhost", "on_failure": "hope"},
        {"url": "redis://:word@localhost", "share_for": -1},
        {"url": "redis://:word@localhost", "share_for": 3600},
        5,
    ],
)
def test_a_store_that_is_none_is_told_without_its_password(store: object) -> None:
    pytest.importorskip("redis")
    with pytest.raises(ConfigError) as refused:
        load({**KEYED, "store": store})
    assert "store" in str(refused.value)
    assert "word" not in str(refused.value).replace("password", "")


@pytest.mark.usefixtures("_acme_key")
def test_a_shared_store_names_the_extra_that_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name in [name for name in sys.modules if name.startswith("quotafleet.stores.redis")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ConfigError, match=r"pip install redis"):
        load({**KEYED, "store": "redis://localhost/0"})
