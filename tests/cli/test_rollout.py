"""The commands around flags, against a front door that runs."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import msgspec
import pytest
from typer.testing import CliRunner, Result

from deployments.cli.main import app
from deployments.config import GatewayConfig
from tests.ingress.rig import Rig, front_door

ANYWHERE = GatewayConfig(http_port=0, grpc_port=0, metrics_port=0)
BODY = {"model": "general", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with front_door(ANYWHERE) as running:
        yield running


async def run(rig: Rig, *arguments: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, app, [*arguments, "--url", rig.url], env={"COLUMNS": "200"})


async def test_flags_are_shown_and_changed_piece_by_piece(rig: Rig) -> None:
    shown = await run(rig, "flags")
    assert shown.exit_code == 0, shown.output
    assert "speculation" in shown.stdout
    assert "100 %" in shown.stdout
    for arguments in (
        ("--percent", "20", "--tenant", "acme=off", "--tenant", "bolt=on"),
        ("--route", "tools=off"),
        ("--clear-tenant", "acme", "--off"),
    ):
        result = await run(rig, "flags", "set", "speculation", *arguments)
        assert result.exit_code == 0, result.output
    flag = rig.rollout.flags.get("speculation")
    assert (flag.version, flag.percent, flag.enabled) == (3, 20.0, False)
    assert (flag.tenants, flag.routes) == ({"bolt": True}, {"tools": False})
    shown = await run(rig, "flags")
    for text in ("off for everybody", "20 %", "bolt=on", "tools=off"):
        assert text in shown.stdout
    found = msgspec.json.decode((await run(rig, "flags", "--json")).stdout)
    assert found == {"flags": [msgspec.to_builtins(flag)]}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("flags", "set", "teleport", "--on"), "not_found"),
        (("flags", "set", "speculation"), "nothing to change"),
        (("flags", "set", "speculation", "--tenant", "acme"), "NAME=on"),
        (("flags", "set", "speculation", "--clear-route", "code"), "no override"),
        (("flags", "set", "speculation", "--route", "nowhere=on"), "no route 'nowhere'"),
        (("flags", "set", "speculation", "--tenant", "a b=on"), "tenants"),
        (("experiment", "teleport"), "not_found"),
        (("experiment", "speculation", "--pool", "nowhere"), "nowhere"),
    ],
)
async def test_a_mistake_is_one_line_with_its_reason(rig: Rig, arguments: tuple[str, ...], says: str) -> None:
    result = await run(rig, *arguments)
    assert result.exit_code == 1
    assert says in result.stderr
    assert "Traceback" not in result.output


async def test_a_percentage_beyond_a_hundred_is_refused_before_anything_is_asked(rig: Rig) -> None:
    result = await run(rig, "flags", "set", "speculation", "--percent", "101")
    assert result.exit_code == 2
    assert rig.rollout.flags.get("speculation").version == 0


async def test_an_experiment_is_shown_pool_by_pool(rig: Rig) -> None:
    empty = await run(rig, "experiment", "speculation")
    assert "nothing was counted" in empty.stdout
    rig.rollout.set(percent=50.0)
    async with httpx.AsyncClient(base_url=rig.url, timeout=20) as http:
        for model in ("general", "tools"):
            for _ in range(30):
                assert (await http.post("/v1/chat/completions", json=BODY | {"model": model})).status_code == 200
    shown = await run(rig, "experiment", "speculation", "--pool", "general")
    assert shown.exit_code == 0, shown.output
    for text in ("50 % on, counted by 1 gateway", "general", "time per output token", "not enough data", "on/off"):
        assert text in shown.stdout
    assert "…" not in shown.stdout
    assert "tools" not in shown.stdout
    found = msgspec.json.decode((await run(rig, "experiment", "speculation", "--json")).stdout)
    assert [pool["pool"] for pool in found["pools"]] == ["general", "tools"]


def test_help_of_the_commands_needs_no_cluster() -> None:
    for arguments in (["flags", "--help"], ["flags", "set", "--help"], ["experiment", "--help"]):
        assert CliRunner().invoke(app, arguments).exit_code == 0
