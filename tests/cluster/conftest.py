"""One running cluster for the whole test session: the local profile on free ports, started by the real command."""

import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import httpx
import openai
import pytest
import yaml

from deployments.config import PROFILES

SWITCHYARD = Path(sys.executable).parent / "switchyard"
UP_SECONDS = 300
DOWN_SECONDS = 60
NAME = "switchyard-test"
SETTABLE = range(20000, 32000)  # below what kernels hand out, above what Ray gives its workers


@dataclass(frozen=True)
class Cluster:
    """Where a running cluster listens."""

    url: str
    grpc: str

    @property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=60)

    @property
    def aclient(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=60)

    def status(self) -> dict:
        return httpx.get(f"{self.url}/status", timeout=10).json()

    def replicas(self, pool: str) -> list[dict]:
        return next(each["replicas"] for each in self.status()["pools"] if each["pool"] == pool)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples with these labels."""
        total = 0.0
        for line in httpx.get(f"{self.url}/metrics", timeout=10).text.splitlines():
            wanted = all(f'{key}="{value}"' in line for key, value in labels.items())
            if line.startswith((f"{name}{{", f"{name} ")) and wanted:
                total += float(line.rsplit(" ", 1)[1])
        return total


def free_ports(count: int) -> list[int]:
    """None of those that the kernel gives to whoever connects: one would be taken before the gateway gets to it."""
    return list(islice(filter(free, random.sample(SETTABLE, len(SETTABLE))), count))


def free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def configured(folder: Path, profile: str, name: str) -> tuple[Path, list[int]]:
    """A profile on free ports and under its own name, so that it lives beside any other."""
    document = yaml.safe_load((PROFILES / f"{profile}.yaml").read_text(encoding="utf-8"))
    ports = free_ports(3)
    keys = ("http_port", "grpc_port", "metrics_port")
    document["name"] = name
    document["gateway"] = document.get("gateway", {}) | dict(zip(keys, ports, strict=True))
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path, ports


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    path, ports = configured(tmp_path_factory.mktemp("cluster"), "local", NAME)
    up = [SWITCHYARD, "up", "--config", path, "--detach", "--timeout", str(UP_SECONDS)]
    try:
        started = subprocess.run(up, capture_output=True, text=True, timeout=UP_SECONDS + 30, check=False)
        assert started.returncode == 0, started.stdout + started.stderr
        yield Cluster(f"http://127.0.0.1:{ports[0]}", f"127.0.0.1:{ports[1]}")
    finally:
        subprocess.run([SWITCHYARD, "down", "--name", NAME], timeout=DOWN_SECONDS, check=True)
