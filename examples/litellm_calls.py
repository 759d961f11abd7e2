"""LiteLLM's functions over a pool of keys, without a Router. Needs no account.

python examples/litellm_calls.py
"""

from __future__ import annotations

import os

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # no network at import

from litellm_quotafleet import completion, embedding
from quotafleet import KeyPool, Organization
from quotafleet.testing import MockFault, MockFleet, MockProvider, SystemClock, serve


def main() -> None:
    """Ask for a chat, a stream and an embedding; a refusal on the way isn't seen."""
    fleet = MockFleet.simple({"acme": {"rpm": 600}, "globex": {"rpm": 600}})
    provider = MockProvider(fleet, clock=SystemClock())
    with serve(provider) as server:
        pool = KeyPool(
            Organization(name=key.name, keys=(key.secret,), base_url=server.base_url)
            for key in fleet.keys
        )
        messages = [{"role": "user", "content": "What is a fleet?"}]
        provider.inject(MockFault(action="429_rpm"))
        print(completion("gpt-4o-mini", messages, pool=pool).choices[0].message.content)
        for chunk in completion("gpt-4o-mini", messages, stream=True, pool=pool):
            print(chunk.choices[0].delta.content or "", end="")
        print()
        print(len(embedding("text-embedding-3-small", ["a", "b"], pool=pool).data), "embeddings")


if __name__ == "__main__":
    main()
