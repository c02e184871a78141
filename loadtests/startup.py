"""Start-up, memory and idle cost of the whole local cluster, beside ``vllm serve`` of the general model alone."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import psutil

from experts.zoo.catalog import model_path
from loadtests.report import Bar, Outcome, bounded, compared

ROUNDS = 3
LIMIT = 300.0
IDLE_SECONDS = 20.0
BIN = Path(sys.executable).parent
ENGINE = ["--dtype", "float32", "--max-model-len", "2048", "--max-num-seqs", "32", "--enforce-eager"]
QUIET = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}


def measure() -> Outcome:
    """Rounds in turn, ours then theirs: seconds from the command to the first token."""
    ours, theirs, memory, idle = [], [], [], []
    for _ in range(ROUNDS):
        with _cluster() as (seconds, processes):
            ours.append(seconds)
            memory.append(_gibibytes(processes))
            idle.append(_cpu_share(processes))
        theirs.append(_vllm_serve())
    rows = (
        compared(Bar("start to first token, all pools", unit="s", must=1.25), ours, theirs),
        bounded(Bar("resident memory of the whole cluster", unit="GiB", must=6.0), memory),
        bounded(Bar("idle use of one core", unit="share", must=0.15), idle),
    )
    return Outcome(rows)


@contextlib.contextmanager
def _cluster() -> Iterator[tuple[float, list[psutil.Process]]]:
    started = time.monotonic()
    subprocess.run([BIN / "switchyard", "up", "--profile", "local", "--detach"], check=True, timeout=LIMIT)
    try:
        _first_token("http://127.0.0.1:8000", "general", started + LIMIT)
        seconds = time.monotonic() - started
        yield seconds, _family("switchyard")
    finally:
        subprocess.run([BIN / "switchyard", "down"], check=True, timeout=LIMIT)


def _vllm_serve() -> float:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    model = str(model_path("general"))
    # What ``vllm serve`` runs; the command itself looks for a package called vllm, and the CPU build is not.
    server = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command = [*server, "--model", model, "--host", "127.0.0.1", "--port", str(port), *ENGINE]
    started = time.monotonic()
    process = subprocess.Popen(
        command,
        env=os.environ | QUIET,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _first_token(f"http://127.0.0.1:{port}", model, started + LIMIT)
        return time.monotonic() - started
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)


def _first_token(url: str, model: str, deadline: float) -> None:
    """Ask until a token comes. Raises TimeoutError at the deadline (monotonic seconds)."""
    body = {"model": model, "prompt": "Hello", "max_tokens": 1, "temperature": 0}
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            if httpx.post(f"{url}/v1/completions", json=body, timeout=30).status_code == httpx.codes.OK:
                return
        time.sleep(0.1)
    raise TimeoutError(f"no token from {url}")


def _family(name: str) -> list[psutil.Process]:
    """The supervisor, which ``switchyard status`` names, and all its descendants."""
    status = httpx.get("http://127.0.0.1:8000/status", timeout=10).json()
    replica = psutil.Process(status["pools"][0]["replicas"][0]["pid"])
    roots = [each for each in replica.parents() if name in " ".join(each.cmdline())]
    root = roots[-1] if roots else replica
    return [root, *root.children(recursive=True)]


def _gibibytes(processes: Sequence[psutil.Process]) -> float:
    return sum(each.memory_info().rss for each in processes) / 2**30


def _cpu_share(processes: Sequence[psutil.Process]) -> float:
    """Processor seconds per second while nobody asks anything."""
    time.sleep(5)
    before = _cpu_seconds(processes)
    time.sleep(IDLE_SECONDS)
    return (_cpu_seconds(processes) - before) / IDLE_SECONDS


def _cpu_seconds(processes: Sequence[psutil.Process]) -> float:
    total = 0.0
    for each in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = each.cpu_times()
            total += times.user + times.system
    return total
