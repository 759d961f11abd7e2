"""The examples run as they are, over the mock; each differs from its before by one line."""

import os
import runpy
from pathlib import Path

import pytest

from quotafleet.testing import MockProvider, MockServer, ToolCall

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.mark.parametrize("name", ["chain", "agent", "rag", "graph"])
def test_an_example_runs(
    name: str,
    server: MockServer,
    provider: MockProvider,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("quotafleet._default._pool", None)
    monkeypatch.setenv("OPENAI_API_KEYS", "sk-mock-acme-1,sk-mock-birch-1,sk-mock-cedar-1")
    monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
    if name == "agent":
        provider.script(tool_calls=[ToolCall(name="weather", arguments={"place": "Oslo"})])
    provider.script("Well said.", times=None)
    file = EXAMPLES / f"langchain_{name}.py"
    runpy.run_path(os.fspath(file), run_name="__main__")
    assert "Well said." in capsys.readouterr().out
    assert "# before: from langchain_openai import" in file.read_text()
    assert provider.rejected == {}
