"""`quotafleet explain` prints what a pool would conclude, as text or as JSON."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from quotafleet.cli._app import app

FIELDS = [
    *("kind", "subject", "action", "seconds", "metric", "period", "limit", "charged", "limits"),
    "rule",
]
BODY = json.dumps({"error": {"message": "Limit 60, on requests per min (RPM)", "code": "x"}})


def run(*arguments: str, text: str = "") -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["explain", *arguments], input=text)
    return done.exit_code, done.stdout, done.stderr


def test_one_answer_from_standard_input_as_text() -> None:
    code, out, _ = run("--status", "429", "--header", "Retry-After: 7", text=BODY)
    assert code == 0
    assert "rate_limited" in out
    assert "passes after 7 s" in out
    assert "60 requests per 60 s" in out


def test_a_file_of_answers_as_json_a_line_each(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    rows = [
        {"status": 429, "headers": {"retry-after": "7"}, "body": BODY, "dialect": "openai"},
        {"status": 200, "body": 'data: {"error": {"code": 502}}', "stream": True},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, _ = run("--answers", str(file), "--json")
    assert code == 0
    first, second = map(json.loads, out.splitlines())
    assert list(first) == FIELDS
    assert (first["kind"], first["seconds"], first["limit"]) == ("rate_limited", 7.0, 60.0)
    assert second["kind"] == "server_error"


def test_wrong_input_names_the_value_and_the_cure(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    file.write_text('{"status": "429"}\n')
    assert run("--answers", str(file))[0] == 2
    file.write_text("{\n")
    code, _, err = run("--answers", str(file))
    assert (code, "line 1: is not JSON" in err) == (2, True)
    assert "status is missing" in run(text=BODY)[2]
    assert "header 'nonsense' has no value" in run("--status", "429", "--header", "nonsense")[2]
    assert run("--answers", str(tmp_path / "none"))[0] == 2
    assert "unknown provider" in run("--status", "429", "--provider", "opnai", text="")[2]
