"""One pool under the OpenAI SDK: two organisations, one with two keys that share its quota.

It talks to the mock provider, so it needs no key:  python examples/quickstart.py
"""

from quotafleet import KeyPool
from quotafleet.openai import OpenAI
from quotafleet.testing import MockFleet, serve

MOCK = MockFleet.simple({"acme": {"rpm": 500, "tpm": 200_000, "keys": 2}, "birch": {"rpm": 200}})


def config(base_url: str) -> dict[str, object]:
    """Return what quotafleet.toml would say; with real keys there is no `base_url`."""
    return {
        "organizations": [
            {
                "name": "acme",
                "keys": ["sk-mock-acme-1", "sk-mock-acme-2"],
                "base_url": base_url,
                "limits": {"rpm": 500, "tpm": 200_000},
            },
            # No limits: they are learned from the first answers.
            {"name": "birch", "keys": ["sk-mock-birch-1"], "base_url": base_url},
        ]
    }


def main() -> None:
    """Ask ten questions and show who answered."""
    with serve(MOCK) as server, KeyPool.from_config(config(server.base_url)) as pool:
        client = OpenAI(pool=pool)
        for number in range(10):
            answer = client.chat.completions.create(
                model="gpt-4o-mini",
                messages=[{"role": "user", "content": f"What is {number} + {number}?"}],
                max_tokens=20,
            )
            print(number, answer.choices[0].message.content)
        for key in pool.status().keys:
            print(f"{key.key_id}: {key.answered} answered, {key.refused} refused")


if __name__ == "__main__":
    main()
