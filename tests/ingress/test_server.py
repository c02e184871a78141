"""Listeners: free ports, shared ports, ports that are taken; and the generated stubs."""

import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from cluster.errors import ConfigError
from deployments.config import GatewayConfig
from deployments.ingress.protogen import ROOT, STUBS, generate
from deployments.ingress.server import listen
from tests.ingress.rig import front_door

LAST_PORT = 65535
"""Behind it there is none that could be tried instead."""


def taken(port: int = 0) -> socket.socket:
    holder = socket.socket()
    holder.bind(("127.0.0.1", port))
    holder.listen()
    return holder


@pytest.mark.parametrize("name", ["http_port", "grpc_port", "metrics_port"])
async def test_a_port_in_use_is_a_configuration_error_that_names_it(config: GatewayConfig, name: str) -> None:
    with taken(LAST_PORT if name == "metrics_port" else 0) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(ConfigError, match=f"gateway.{name}.*{port}"):
            async with front_door(config.model_copy(update={name: port})):
                pass


async def test_gateways_of_one_node_share_ports_but_not_metrics(config: GatewayConfig) -> None:
    with taken() as probe:
        port = probe.getsockname()[1]
    config = config.model_copy(update={"metrics_port": port, "replicas": 2})
    async with front_door(config) as one:
        both = config.model_copy(update={"http_port": one.ports.http, "grpc_port": one.ports.grpc})
        async with front_door(both) as two, httpx.AsyncClient() as http:
            assert (two.ports.http, two.ports.grpc) == (one.ports.http, one.ports.grpc)
            assert two.ports.metrics != one.ports.metrics
            for ports in (one.ports, two.ports):
                answer = await http.get(f"http://127.0.0.1:{ports.metrics}/metrics")
                assert answer.status_code == 200
            assert (await http.get(f"{one.url}/health/live")).status_code == 200
        async with httpx.AsyncClient() as http:
            assert (await http.get(f"{one.url}/health/live")).status_code == 200


def test_an_unknown_host_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match=r"gateway\.host"):
        listen("no.such.host.invalid", (0,), "http_port", shared=True)


def test_ipv6_loopback_is_served() -> None:
    listener = listen("::1", (0,), "http_port", shared=True)
    assert listener.family == socket.AF_INET6
    listener.close()


def test_a_gateway_loads_no_model_runtime() -> None:
    code = "import sys, deployments.ingress.server, deployments.ingress.prompts; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "vllm", "ray"} & set(loaded)


def test_the_committed_stubs_are_what_the_protocol_generates(tmp_path: Path) -> None:
    generate(tmp_path)
    for name in STUBS:
        committed = ROOT / "deployments/ingress" / name
        assert (tmp_path / "deployments/ingress" / name).read_text() == committed.read_text()
