"""A ``model_list`` as owners, keys and limits; and a Router's changes of it."""

from __future__ import annotations

from typing import Any

import litellm
import pytest

from litellm_quotafleet import QuotafleetRouting, _open_attempts
from litellm_quotafleet._model_list import fleet_of
from quotafleet import ConfigError, KeyPool, Limits, Organization

from .conftest import CHAT, MESSAGES, World, idle


def deployment(
    key_id: str, group: str = "fast", model: str = "openai/gpt-4o-mini", **params: Any
) -> Any:
    info = params.pop("info", {})
    return {
        "model_name": group,
        "litellm_params": {"model": model, "api_key": f"sk-{key_id}-0123456789", **params},
        "model_info": {"id": key_id, **info},
    }


def owners(*deployments: Any) -> dict[str, Organization]:
    seen: dict[str, Organization] = {}

    def make(organizations: Any) -> KeyPool:
        seen.update({one.name: one for one in organizations})
        return KeyPool(organizations)

    fleet_of(deployments, make)
    return seen


def keys_of(organization: Organization) -> list[str]:
    return [key.key_id for key in organization.api_keys()]


class TestOwners:
    def test_a_deployment_owns_its_quota_alone(self) -> None:
        assert {n: keys_of(o) for n, o in owners(deployment("x"), deployment("y")).items()} == {
            "x": ["x"],
            "y": ["y"],
        }

    def test_model_info_names_the_owner_before_litellm_params(self) -> None:
        found = owners(
            deployment("x", organization="org-1", info={"organization": "acme"}),
            deployment("y", organization="acme"),
            deployment("z", organization="other"),
        )
        assert {n: keys_of(o) for n, o in found.items()} == {"acme": ["x", "y"], "other": ["z"]}

    def test_one_credential_has_one_owner_in_all_its_groups(self) -> None:
        found = owners(
            deployment("x", api_key="sk-same-0123456789"),
            deployment("y", "big", "openai/gpt-4o", api_key="sk-same-0123456789"),
        )
        assert {n: keys_of(o) for n, o in found.items()} == {"x": ["x", "y"]}

    def test_the_pool_holds_no_credential(self) -> None:
        (owner,) = owners(deployment("x")).values()
        (key,) = owner.api_keys()
        assert "0123456789" not in key.secret.reveal()

    def test_keys_without_a_credential_are_keys_too(self) -> None:
        assert len(owners(deployment("x", api_key=None), deployment("y", api_key=None))) == 2

    def test_an_empty_list_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="no deployment"):
            fleet_of([], KeyPool)


class TestLimits:
    def pool(self, *deployments: Any) -> KeyPool:
        return fleet_of(deployments, KeyPool).pool

    def levels(self, pool: KeyPool, *lanes: str) -> dict[str, dict[str, float]]:
        from quotafleet import Demand

        for lane in lanes:
            pool.lease(Demand(model=lane)).release()
        return {
            f"{scope.owner} {scope.family}": {level.name: level.limit for level in scope.levels}
            for scope in pool.status().scopes
        }

    def test_rpm_tpm_and_parallel_requests(self) -> None:
        pool = self.pool(deployment("x", rpm=60, tpm=1000, max_parallel_requests=3))
        (levels,) = self.levels(pool, "gpt-4o-mini @ fast").values()
        assert levels == {"rpm": 60, "tpm": 1000, "concurrent": 3}

    def test_a_contradiction_is_reported_and_the_smallest_counts(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        pool = self.pool(
            deployment("x", rpm=60, organization="acme"),
            deployment("y", rpm=90, organization="acme"),
        )
        (levels,) = self.levels(pool, "gpt-4o-mini @ fast").values()
        assert levels == {"rpm": 60}
        assert "acme" in caplog.text
        assert "60, 90" in caplog.text

    def test_groups_of_one_model_share_their_owners_bucket(self) -> None:
        pool = self.pool(
            deployment("x", "fast", rpm=60, api_key="sk-same-0123456789"),
            deployment("y", "cheap", rpm=60, api_key="sk-same-0123456789"),
        )
        levels = self.levels(pool, "gpt-4o-mini @ fast", "gpt-4o-mini @ cheap")
        assert list(levels.values()) == [{"rpm": 60}]

    def test_models_of_one_owner_have_each_their_own(self) -> None:
        pool = self.pool(
            deployment("x", "fast", rpm=60, organization="acme"),
            deployment("y", "big", "openai/gpt-4o", rpm=10, organization="acme"),
        )
        levels = self.levels(pool, "gpt-4o-mini @ fast", "gpt-4o @ big")
        assert sorted(level["rpm"] for level in levels.values()) == [10, 60]


class TestProviders:
    @pytest.mark.parametrize(
        ("model", "params", "name"),
        [
            ("openai/gpt-4o-mini", {}, "openai"),
            ("gpt-4o-mini", {"api_base": "https://eu.api.openai.com/v1"}, "openai"),
            ("openai/llama", {"api_base": "http://localhost:8000/v1"}, "generic"),
            ("mistral/mistral-small", {}, "generic"),
            ("openai/m", {"info": {"quotafleet_provider": "generic"}}, "generic"),
        ],
    )
    def test_rules_follow_the_provider(self, model: str, params: Any, name: str) -> None:
        (owner,) = owners(deployment("x", model=model, **params)).values()
        assert [key.provider for key in owner.api_keys()] == [name]


class TestFollowing:
    async def test_a_deployment_that_is_added_serves(self, world: World) -> None:
        router = world.router([world.deployment("fast", 0, rpm=1)])
        routing = world.routing(router)
        await router.acompletion("fast", MESSAGES)
        router.upsert_deployment(litellm.types.router.Deployment(**world.deployment("fast", 1)))
        await router.acompletion("fast", MESSAGES, timeout=5)
        await idle(routing)
        answered = {key.key_id: key.answered for key in routing.pool.status().keys}
        assert answered == {"fast-0": 0, "fast-1": 1}

    async def test_what_was_used_is_remembered_over_a_change(self, world: World) -> None:
        router = world.router([world.deployment("fast", 0, rpm=1)])
        routing = world.routing(router)
        await router.acompletion("fast", MESSAGES)
        await idle(routing)
        router.add_deployment(litellm.types.router.Deployment(**world.deployment("other", 1)))
        with pytest.raises(litellm.RateLimitError, match="quotafleet"):
            await router.acompletion("fast", MESSAGES, timeout=5)

    async def test_a_deployment_that_is_deleted_serves_no_more(self, world: World) -> None:
        router = world.router()
        routing = world.routing(router)
        router.delete_deployment(id="fast-0")
        for _ in range(4):
            await router.acompletion("fast", MESSAGES)
        await idle(routing)
        assert [key.key_id for key in routing.pool.status().keys] == ["fast-1"]

    async def test_a_new_model_list(self, world: World) -> None:
        router = world.router([world.deployment("fast", 0)])
        routing = world.routing(router)
        router.set_model_list([world.deployment("fresh", 1)])
        await router.acompletion("fresh", MESSAGES)
        await idle(routing)
        assert [key.key_id for key in routing.pool.status().keys] == ["fresh-1"]

    async def test_a_lost_install_is_said_at_once(
        self, world: World, caplog: pytest.LogCaptureFixture
    ) -> None:
        router = world.router()
        routing = world.routing(router)
        router.update_settings(num_retries=1)
        assert routing.is_installed
        assert "no longer chooses" not in caplog.text
        router.update_settings(routing_strategy="least-busy")
        assert not routing.is_installed
        assert caplog.text.count("no longer chooses") == 1
        await router.acompletion("fast", MESSAGES)
        assert caplog.text.count("no longer chooses") == 1

    async def test_a_strategy_that_is_set_behind_its_back_is_noticed_at_a_call(
        self, world: World, caplog: pytest.LogCaptureFixture
    ) -> None:
        router = world.router()
        world.routing(router)
        del router.async_get_available_deployment
        await router.acompletion("fast", MESSAGES)
        assert "no longer chooses" in caplog.text


class TestInstall:
    async def test_uninstall_gives_back_what_was_there(self, world: World) -> None:
        router = world.router(retry_after=7)
        before = litellm.DEFAULT_MAX_RETRIES
        routing = QuotafleetRouting.install(router)
        assert router.disable_cooldowns
        assert litellm.DEFAULT_MAX_RETRIES == 0
        routing.uninstall()
        assert not router.disable_cooldowns
        assert router.retry_after == 7
        assert before == litellm.DEFAULT_MAX_RETRIES
        await router.acompletion("fast", MESSAGES)
        assert sum(key.granted for key in routing.pool.status().keys) == 0

    async def test_usage_based_v2s_own_limits_are_lifted_off(self, world: World) -> None:
        router = world.router(
            world.model_list(rpm=2)[:1], routing_strategy="usage-based-routing-v2"
        )
        routing = world.routing(router)
        await router.acompletion("fast", MESSAGES)
        await router.acompletion("fast", MESSAGES)
        await idle(routing)

    async def test_installing_twice_leaves_one(self, world: World) -> None:
        router = world.router()
        first = world.routing(router)
        second = world.routing(router, strategy="round-robin")
        await router.acompletion("fast", MESSAGES)
        await idle(second)
        assert not first.is_installed
        assert sum(key.granted for key in first.pool.status().keys) == 0

    async def test_who_only_asks_gets_no_lease(self, world: World) -> None:
        router = world.router()
        routing = world.routing(router)
        found = await router.async_get_available_deployment(model="fast", request_kwargs=None)
        assert found["model_info"]["id"] in ("fast-0", "fast-1")
        assert _open_attempts.open_leases() == 0
        await idle(routing)

    async def test_an_unknown_model_is_litellms_own_error(self, world: World) -> None:
        router = world.router()
        world.routing(router)
        with pytest.raises(litellm.BadRequestError):
            await router.acompletion("nothing", MESSAGES)

    async def test_a_demand_larger_than_any_limit(self, world: World) -> None:
        router = world.router(world.model_list(tpm=10))
        world.routing(router)
        with pytest.raises(litellm.BadRequestError, match="largest"):
            await router.acompletion("fast", [{"role": "user", "content": "word " * 100}])
        assert world.received == 0


class TestRules:
    """What LiteLLM decides about who may serve stays LiteLLM's."""

    async def test_tags(self, world: World) -> None:
        models = [
            world.deployment("fast", 0, tags=["free"]),
            world.deployment("fast", 1, tags=["paid"]),
        ]
        router = world.router(models, enable_tag_filtering=True)
        routing = world.routing(router)
        for _ in range(4):
            await router.acompletion("fast", MESSAGES, metadata={"tags": ["paid"]})
        await idle(routing)
        answered = {key.key_id: key.answered for key in routing.pool.status().keys}
        assert answered == {"fast-0": 0, "fast-1": 4}

    async def test_a_deployment_asked_for_by_its_id(self, world: World) -> None:
        router = world.router()
        routing = world.routing(router)
        for _ in range(4):
            await router.acompletion("fast-1", MESSAGES)
        await idle(routing)
        answered = {key.key_id: key.answered for key in routing.pool.status().keys}
        assert answered == {"fast-0": 0, "fast-1": 4}

    async def test_an_alias(self, world: World) -> None:
        router = world.router(model_group_alias={"quick": "fast"})
        routing = world.routing(router)
        await router.acompletion("quick", MESSAGES)
        await idle(routing)
        assert sum(key.answered for key in routing.pool.status().keys) == 1

    async def test_a_wildcard(self, world: World) -> None:
        models = [world.deployment("openai/*", key, "*") for key in (0, 1)]
        router = world.router(models)
        routing = world.routing(router)
        await router.acompletion(f"openai/{CHAT}", MESSAGES)
        await idle(routing)
        assert sum(key.answered for key in routing.pool.status().keys) == 1

    async def test_order_as_a_fallback_inside_a_group(self, world: World) -> None:
        models = [world.deployment("fast", 0, order=1), world.deployment("fast", 1, order=2)]
        router = world.router(models)
        routing = world.routing(router)
        for _ in range(3):
            await router.acompletion("fast", MESSAGES)
        router.completion("fast", MESSAGES)
        await idle(routing)
        answered = {key.key_id: key.answered for key in routing.pool.status().keys}
        assert answered == {"fast-0": 4, "fast-1": 0}


class TestAPoolOfOnesOwn:
    def pool(self, world: World, count: int = 2, **limits: float) -> KeyPool:
        keys = world.provider.fleet.keys[:count]
        return KeyPool(
            Organization(name=key.name, keys=(key.secret,), limits=Limits(**limits)) for key in keys
        )

    async def test_its_keys_are_the_deployments_credentials(self, world: World) -> None:
        pool = self.pool(world)
        router = world.router()
        routing = world.routing(router, pool=pool)
        for _ in range(4):
            await router.acompletion("fast", MESSAGES)
        await idle(routing)
        assert routing.pool is pool
        assert sum(key.answered for key in pool.status().keys) == 4
        assert {scope.family for scope in pool.status().scopes} == {CHAT}

    def test_a_credential_that_it_does_not_hold_is_refused(self, world: World) -> None:
        with pytest.raises(ConfigError, match="no key of the pool"):
            world.routing(world.router(), pool=self.pool(world, 1))

    def test_a_key_without_a_deployment_is_refused(self, world: World) -> None:
        router = world.router([world.deployment("fast", 0)])
        with pytest.raises(ConfigError, match="have no deployment"):
            world.routing(router, pool=self.pool(world))
