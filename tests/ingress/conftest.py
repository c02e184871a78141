from collections.abc import AsyncIterator

import grpc
import httpx
import pytest
import pytest_asyncio
from openai import AsyncOpenAI

from deployments.config import GatewayConfig
from tests.ingress.rig import Rig, front_door

ANYWHERE = GatewayConfig(http_port=0, grpc_port=0, metrics_port=0, ready_timeout=0.5)


@pytest.fixture
def config() -> GatewayConfig:
    return ANYWHERE


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared() -> AsyncIterator[httpx.AsyncClient]:
    """A client of one front door for all the requests of a module that leave no trace in it."""
    async with front_door(ANYWHERE) as running, httpx.AsyncClient(base_url=running.url, timeout=20) as opened:
        yield opened


@pytest.fixture
async def rig(config: GatewayConfig) -> AsyncIterator[Rig]:
    async with front_door(config) as running:
        yield running


@pytest.fixture
async def client(rig: Rig) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{rig.url}/v1", api_key="none", max_retries=0, timeout=20) as opened:
        yield opened


@pytest.fixture
async def http(rig: Rig) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=rig.url, timeout=20) as opened:
        yield opened


@pytest.fixture
async def channel(rig: Rig) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{rig.ports.grpc}") as opened:
        yield opened
