"""What the front door shows of a configuration and of the directory."""

from cluster.metrics import PoolLoad
from deployments.config import load
from deployments.ingress.prompts import PoolPrompts
from deployments.ingress.view import ConfiguredView, load_of
from experts.api import EngineLimits, EngineState
from experts.config import PoolConfig, VllmEngine
from router.api import PoolView, Registration, ReplicaView
from router.jobs import Conversation, Message
from tests.ingress.rig import LocalRollout, directory


async def test_the_local_profile_offers_its_expert_pools_and_no_drafts() -> None:
    pools = load("local").pools
    prompts = PoolPrompts(pools)
    cards = ConfiguredView(pools, prompts.max_context, lambda: None, LocalRollout()).models()
    assert [(card.name, card.max_context, card.required) for card in cards] == [
        ("auto", None, False),
        ("general", 2048, True),
        ("code", 2048, True),
        ("tools", 2048, True),
    ]
    assert await prompts.tokens("general", Conversation((Message("user", "hello"),)))


def test_adapters_are_models_of_their_own() -> None:
    pool = PoolConfig(model="here", engine=VllmEngine(adapters={"law": "somewhere"}), required=False)
    seen = directory()
    view = ConfiguredView({"p": pool}, lambda _: 64, lambda: seen, LocalRollout())
    assert [(card.name, card.required) for card in view.models()] == [("auto", False), ("p", False), ("p/law", False)]
    assert view.directory() is seen


def test_a_pools_load_is_the_sum_of_its_replicas_and_its_fullest_cache() -> None:
    def replica(state: EngineState) -> ReplicaView:
        registration = Registration("p", "expert", "p#1", 1, "", EngineLimits(64, 1, 8), "n", 1)
        return ReplicaView(registration, state, 0, 0.0)

    states = EngineState(running=2, waiting=1, kv_use=0.25), EngineState(running=3, kv_use=0.75)
    view = PoolView("p", "expert", 4, tuple(replica(state) for state in states))
    assert load_of(view) == PoolLoad("p", replicas=2, queued=4, running=5, waiting=1, kv_use=0.75)
    assert load_of(PoolView("p", "expert", 0, ())).kv_use == 0.0
