"""Azure's key goes into its own header, and its deployment is the model."""

import json

from quotafleet.keys import ApiKey, Secret
from quotafleet.providers import AzureOpenAI

BODY = json.dumps({"messages": [{"role": "user", "content": "x" * 400}], "model": "gpt-4o"})


def test_the_deployment_in_the_path_is_the_model() -> None:
    plan = AzureOpenAI().plan(
        "POST",
        "deployments/mini/chat/completions?api-version=2024-10-21",
        "application/json",
        BODY.encode(),
    )
    assert (plan.endpoint, plan.demand.model) == ("chat", "mini")
    assert plan.demand.tokens > 100


def test_a_path_without_a_deployment_is_read_as_openais() -> None:
    plan = AzureOpenAI().plan("POST", "chat/completions", "application/json", BODY.encode())
    assert (plan.endpoint, plan.demand.model) == ("chat", "gpt-4o")


def test_the_key_goes_into_its_own_header_and_no_other() -> None:
    key = ApiKey(
        key_id="a#1", secret=Secret("0123456789abcdef"), organization="a", provider="azure"
    )
    headers = AzureOpenAI().credentials(key)
    assert headers["api-key"] == "0123456789abcdef"
    assert headers["authorization"] is None
    assert headers["openai-organization"] is None
