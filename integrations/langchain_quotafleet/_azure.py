"""What the drop-ins for Azure share: resources instead of base URLs, and their own default."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final

from quotafleet import KeyPool

from ._api_keys import Keys
from ._drop_in import PooledModel

#: The resource of models that have only a pool. The name never resolves (RFC 6761).
_NO_RESOURCE: Final = "http://quotafleet.invalid"
#: Where a model keeps Entra ID's tokens, or what returns them.
_ENTRA: Final = ("azure_ad_token", "azure_ad_token_provider", "azure_ad_async_token_provider")


class OnAzure(PooledModel):
    """What a drop-in is whose keys are those of Azure's resources."""

    _provider: ClassVar[str] = "azure"

    @classmethod
    def _prepared(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        arguments = super()._prepared(arguments)
        if isinstance(arguments.get("pool"), KeyPool):
            arguments.setdefault("azure_endpoint", _NO_RESOURCE)
        return arguments

    @classmethod
    def _takes_default(cls, arguments: Mapping[str, Any]) -> bool:
        return False  # the keys of `OPENAI_API_KEYS` are not Azure's

    @staticmethod
    def _base_url(client: Any) -> str:
        # With a deployment of its own, the client has that in its base URL; a key's has not.
        base_url, found, _ = str(client.base_url).partition("/openai/")
        return base_url + found

    def _own_pool(
        self, client: Any, keys: Keys | None
    ) -> tuple[KeyPool | None, Callable[..., Any] | None]:
        if any(getattr(self, name) for name in _ENTRA):
            return None, None  # Entra ID's tokens are the SDK's own affair
        return super()._own_pool(client, keys)
