"""A provider of your own: its models' families, and the header that carries a key.

It sends nothing, so it needs no key:  python examples/custom_provider.py
"""

from collections.abc import Mapping
from dataclasses import dataclass

from quotafleet import ApiKey, Demand, KeyPool, Limits, Organization
from quotafleet.providers.generic import Generic


@dataclass(frozen=True)
class Gateway(Generic):
    """An OpenAI-compatible gateway whose dated models share one limit."""

    name: str = "gateway"
    base_url: str = "https://gateway.example/v1"

    def family(self, model: str) -> str:
        """Return the model without its date: ``fast-2026-01`` and ``fast-2026-02`` are one."""
        return model.partition("-20")[0]

    def credentials(self, key: ApiKey) -> Mapping[str, str | None]:
        """Return the headers that authenticate a call; ``None``: not sent."""
        return {"x-gateway-key": key.secret.reveal(), "authorization": None}


def main() -> None:
    """Grant a call of one dated model, and show what is left for both."""
    acme = Organization(
        name="acme",
        keys=("sk-acme-0123456789abcdef",),
        limits=Limits(rpm=10),
        provider=Gateway(),
    )
    with KeyPool([acme]) as pool:
        for model in ("fast-2026-01", "fast-2026-02"):
            with pool.lease(Demand(model=model), timeout=10) as lease:
                print(model, "sends", *sorted(name for name, v in lease.headers.items() if v))
        print("families:", *{scope.family for scope in pool.status().scopes})


if __name__ == "__main__":
    main()
