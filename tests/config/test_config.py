"""The configuration: profiles hold, mistakes are named, nothing is lost on the way to the actors."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from cluster.errors import ConfigError
from deployments.config import PROFILES, Config, load, parse, parse_json, profiles

MINIMAL: dict[str, Any] = {"pools": {"general": {"model": "m", "engine": {"kind": "simulated"}}}}


def document(**changes: Any) -> dict[str, Any]:
    return MINIMAL | changes


def pool(**changes: Any) -> dict[str, Any]:
    return document(pools={"general": MINIMAL["pools"]["general"] | changes})


@pytest.mark.parametrize("name", profiles())
def test_every_profile_is_valid_and_differs_in_name(name: str) -> None:
    config = load(name)
    assert config.router.default_pool in config.pools
    assert len({load(each).name for each in profiles()}) == len(profiles())


@pytest.mark.parametrize("name", profiles())
def test_profiles_satisfy_the_published_schema(name: str) -> None:
    Draft202012Validator(Config.model_json_schema()).validate(yaml.safe_load((PROFILES / f"{name}.yaml").read_text()))


def test_the_schema_refuses_what_the_configuration_refuses() -> None:
    validator = Draft202012Validator(Config.model_json_schema())
    Draft202012Validator.check_schema(Config.model_json_schema())
    assert validator.is_valid(MINIMAL)
    assert not validator.is_valid(document(colour="blue"))
    assert not validator.is_valid({})


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (document(colour="blue"), "colour"),
        (document(gateway={"http_prot": 1}), "gateway.http_prot"),
        (document(gateway={"http_port": 70000}), "gateway.http_port"),
        (document(gateway={"http_port": "8000"}), "gateway.http_port"),
        (document(gateway={"limits": {"choices": "many"}}), "gateway.limits.choices"),
        (document(router={"max_queue": -1}), "router.max_queue"),
        (document(router={"rules": [{"name": "r", "when": ["rain"], "pool": "general"}]}), "router.rules.0"),
        (document(flags={"teleport": {}}), "flags.teleport"),
        (document(flags={"speculation": {"percent": 101}}), "flags.speculation.percent"),
        (document(flags={"speculation": {"percent": "20"}}), "flags.speculation.percent"),
        (document(flags={"speculation": {"tenants": {"a b": True}}}), "flags.speculation.tenants"),
        (document(flags={"speculation": {"tenants": {"acme": "off"}}}), "flags.speculation.tenants.acme"),
        (document(flags={"speculation": {"colour": "blue"}}), "flags.speculation.colour"),
        (pool(replicas=0), "pools.general.replicas"),
        (pool(engine={"kind": "abacus"}), "pools.general.engine"),
        (pool(engine={"kind": "simulated", "options": {}}), "pools.general.engine.simulated.options"),
        (pool(autoscaling={"min_replicas": 3, "max_replicas": 2}), "pools.general.autoscaling"),
        (pool(speculation={"layout": "split"}), "pools.general.speculation"),
        (pool(speculation={"layout": "off", "pool": "draft"}), "pools.general.speculation"),
        (pool(kind="draft"), "pools.general"),
        ({"pools": {}}, "default_pool"),
        ([], "config"),
        (None, "config"),
    ],
)
def test_a_mistake_is_a_config_error_that_names_the_key(wrong: Any, named: str) -> None:
    with pytest.raises(ConfigError, match=rf"(?m)\b{named}\b"):
        parse(wrong)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (document(router={"default_pool": "nowhere"}), "nowhere"),
        (document(router={"rules": [{"name": "r", "when": ["code"], "pool": "nowhere"}]}), "nowhere"),
        (document(flags={"speculation": {"routes": {"nowhere": True}}}), "nowhere"),
        (pool(speculation={"layout": "split", "pool": "nowhere"}), "nowhere"),
        (pool(speculation={"layout": "split", "pool": "general"}), "general"),
    ],
)
def test_a_reference_to_a_pool_that_does_not_fit_lists_those_that_would(wrong: Any, named: str) -> None:
    with pytest.raises(ConfigError, match=rf"'{named}'.*\[.*\]"):
        parse(wrong)


def drafting(**layouts: str) -> dict[str, Any]:
    """A cluster whose pools draft with one draft pool, each in its layout."""
    expert, draft = MINIMAL["pools"]["general"], {"kind": "draft", "model": "d", "engine": {"kind": "draft"}}
    pools = {
        name: expert | {"speculation": {"layout": layout, "pool": "draft"}} if layout != "off" else expert
        for name, layout in layouts.items()
    }
    return {"pools": pools | {"draft": draft}}


@pytest.mark.parametrize("layout", ["split", "shared"])
def test_one_pool_may_have_a_draft_pool_to_itself_in_either_layout(layout: str) -> None:
    assert parse(drafting(general=layout, code="off")).pools["general"].speculation.pool == "draft"


def test_several_pools_may_share_a_draft_pool() -> None:
    assert len(parse(drafting(general="shared", code="shared", tools="shared")).pools) == 4


@pytest.mark.parametrize(
    ("layouts", "alone"),
    [({"general": "split", "code": "shared"}, "general"), ({"general": "split", "code": "split"}, "code")],
)
def test_a_draft_pool_of_several_is_refused_to_a_pool_that_wants_it_alone(layouts: dict, alone: str) -> None:
    with pytest.raises(ConfigError, match=rf"'draft' serves \['general', 'code'\].*'shared'.*'{alone}'"):
        parse(drafting(**layouts))


@pytest.mark.parametrize(
    "speculation",
    [
        {"layout": "co_resident"},
        {"layout": "co_resident", "model": "d", "pool": "draft"},
        {"layout": "ngram", "model": "d"},
        {"layout": "shared"},
        {"layout": "ngram", "floor": 0.0},
        {"layout": "ngram", "depth": 17},
    ],
)
def test_a_layout_takes_its_own_source_of_drafts_and_no_other(speculation: dict) -> None:
    with pytest.raises(ConfigError, match="speculation"):
        parse(pool(speculation=speculation))


def test_all_mistakes_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse(document(colour="blue", gateway={"http_port": -1}, router={"max_queue": -1}))
    for key in ("colour", "gateway.http_port", "router.max_queue"):
        assert key in caught.value.message


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.1", "example.org", ""])
def test_a_listener_beyond_loopback_is_refused_while_nothing_authenticates(host: str) -> None:
    with pytest.raises(ConfigError, match=r"gateway.*loopback"):
        parse(document(gateway={"host": host}))


def test_a_file_is_loaded_by_path(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(document(name="own")))
    assert load(str(path)).name == "own"


def test_a_missing_file_lists_the_profiles() -> None:
    with pytest.raises(ConfigError, match="local"):
        load("nowhere.yaml")


@pytest.mark.parametrize("text", ["pools: [", "\tpools: {}", "a: b: c"])
def test_a_file_that_is_not_yaml_is_a_config_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match="not YAML"):
        load(str(path))


def test_a_configuration_does_not_change_after_validation() -> None:
    config = parse(MINIMAL)
    with pytest.raises(ValueError, match="frozen"):
        config.name = "other"  # type: ignore[misc]


engines = st.one_of(
    st.fixed_dictionaries(
        {"kind": st.just("simulated")},
        optional={"ttft_ms": st.floats(0, 1e6), "depth": st.integers(0, 16), "fail_after": st.none() | st.integers()},
    ),
    st.fixed_dictionaries(
        {"kind": st.just("vllm")},
        optional={
            "runner": st.sampled_from(["auto", "in_process", "async"]),
            "options": st.dictionaries(
                st.text(max_size=8), st.booleans() | st.integers() | st.text(max_size=8), max_size=3
            ),
            "cores": st.lists(st.integers(0, 127), max_size=4),
        },
    ),
)
pools = st.fixed_dictionaries(
    {"model": st.text(max_size=20), "engine": engines},
    optional={
        "replicas": st.integers(1, 1000),
        "languages": st.lists(st.text(max_size=3), max_size=3),
        "resources": st.fixed_dictionaries(
            {}, optional={"gpus": st.floats(0, 16), "labels": st.dictionaries(st.text(max_size=5), st.text(max_size=5))}
        ),
        "cost": st.floats(0, 1e9),
        "required": st.booleans(),
    },
)


@given(
    others=st.dictionaries(st.text(min_size=1, max_size=10).filter(lambda name: name != "general"), pools, max_size=3),
    general=pools,
    ports=st.tuples(st.integers(0, 65535), st.integers(0, 65535)),
)
def test_a_configuration_reaches_the_actors_unchanged(
    others: dict[str, Any], general: dict[str, Any], ports: tuple[int, int]
) -> None:
    config = parse({"pools": others | {"general": general}, "gateway": {"http_port": ports[0], "grpc_port": ports[1]}})
    assert parse_json(config.model_dump_json()) == config
    assert parse(yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json")))) == config
