"""`quotafleet check` says what a configuration means, shows no secret, exits with 2 if wrong."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from quotafleet.config import json_schema

SECRETS = [f"sk-proj-{letter * 40}{number}" for number, letter in enumerate("abc", start=1000)]

CONFIG = f"""
strategy = "least-used"
[[organizations]]
name = "acme [bold]"
keys = ["{SECRETS[0]}", "env:CHECK_KEY"]
limits = {{ rpm = 500, tpm = {{ amount = 200_000, burst = 20_000 }}, spend = 99.50 }}
only_models = ["gpt-*"]
[organizations.models."gpt-4o*"]
limits = {{ rpm = 100 }}
shared = true
[[organizations.projects]]
name = "research"
keys = ["file:research.key"]
"""


def check(*arguments: object) -> Result:
    from quotafleet.cli._app import app

    return CliRunner(env={"COLUMNS": "200", "TERM": "dumb"}).invoke(
        app, ["check", *map(str, arguments)]
    )


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("QUOTAFLEET_CONFIG", "OPENAI_API_KEYS", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CHECK_KEY", SECRETS[1])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "research.key").write_text(SECRETS[2])


def written(tmp_path: Path, text: str, mode: int = 0o600) -> Path:
    file = tmp_path / "fleet.toml"
    file.write_text(text)
    file.chmod(mode)
    return file


def test_scopes_limits_and_keys_are_shown_and_no_secret(tmp_path: Path) -> None:
    done = check(written(tmp_path, CONFIG))
    assert done.exit_code == 0, done.output
    for shown in (
        "acme [bold]",
        "https://api.openai.com/v1",
        "rpm 500, tpm 200,000 (burst 20,000), spend 99.5",
        "limits of gpt-4o*: rpm 100, one bucket",
        "only models gpt-*",
        "project research",
        "acme [bold]#1",
        "acme [bold]/research#1",
        "sk-...1000",
        "3 keys share one quota",
        "strategy least-used",
    ):
        assert shown in done.output
    assert not [secret for secret in SECRETS if secret[8:40] in done.output]


def test_limits_that_are_not_stated_are_said_to_be_learned(tmp_path: Path) -> None:
    done = check(written(tmp_path, '[[organizations]]\nname = "a"\nkeys = ["env:CHECK_KEY"]\n'))
    assert "learned" in done.output


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('strategy = "no"', "strategy: unknown strategy 'no'"),
        ("[[organizations]", "is not TOML"),
        ('[[organizations]]\nname = "a"\nkeys = ["env:CHECK_NONE"]', "CHECK_NONE"),
        (f'[[organizations]]\nname = "a"\napi_key = "{SECRETS[0]}"', "unknown field 'api_key'"),
        (f'[[organizations]]\nname = "a"\nkeys = "{SECRETS[0]}"', "keys: text is not a list"),
        ("", "the pool has no key"),
    ],
)
def test_what_is_wrong_is_one_message_and_exit_code_2(
    tmp_path: Path, text: str, shown: str
) -> None:
    done = check(written(tmp_path, text))
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert "fleet.toml" in done.stderr
    assert shown in done.stderr
    assert "Traceback" not in done.output
    assert SECRETS[0] not in done.output


def test_no_configuration_at_all_names_the_three_ways() -> None:
    done = check()
    assert done.exit_code == 2
    assert "QUOTAFLEET_CONFIG" in done.stderr


def test_the_default_pool_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEYS", f"{SECRETS[0]},{SECRETS[1]}")
    done = check()
    assert done.exit_code == 0
    assert "OPENAI_API_KEYS is right: 2 keys of 2 organizations" in done.output


def test_a_secret_that_others_can_read_is_warned_of_without_it(tmp_path: Path) -> None:
    done = check(written(tmp_path, CONFIG, mode=0o644))
    assert done.exit_code == 0
    assert "warning: " in done.stderr
    assert "chmod 600" in done.stderr
    assert SECRETS[0] not in done.output


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('[[organizations]]\nname = "idle"', "'idle' has no key"),
        (
            '[[organizations]]\nname = "open"\nbase_url = "http://api.example.com/v1"',
            "'open' sends its keys unencrypted",
        ),
        (
            '[[organizations]]\nname = "b"\norganization_id = "org-1"\nkeys = ["file:research.key"]'
            '\n[[organizations]]\nname = "c"\norganization_id = "org-1"',
            "'c' has the id of 'b'",
        ),
    ],
)
def test_what_is_odd_is_warned_of(tmp_path: Path, text: str, shown: str) -> None:
    base = '[[organizations]]\nname = "a"\nkeys = ["env:CHECK_KEY"]\n'
    done = check(written(tmp_path, base + text))
    assert done.exit_code == 0
    assert shown in done.stderr


def test_a_plain_endpoint_on_this_machine_is_no_matter(tmp_path: Path) -> None:
    text = '[[organizations]]\nname = "a"\nkeys = ["env:CHECK_KEY"]\nbase_url = "{}"\n'
    assert check(written(tmp_path, text.format("http://127.0.0.1:8080/v1"))).stderr == ""


def test_the_schema_is_printed(tmp_path: Path) -> None:
    done = check("--schema")
    assert done.exit_code == 0
    assert json.loads(done.stdout) == json_schema()
