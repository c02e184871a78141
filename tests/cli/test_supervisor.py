"""The life of a local cluster, with real Ray and Serve and a small application in place of the engines."""

import re
import signal
import subprocess
import sys

import httpx
import psutil
import pytest

from tests.cli.conftest import Playground, living

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

OTHER_RAY = """
import sys, ray
ray.init(address="local", include_dashboard=False, num_cpus=1, object_store_memory=80 * 2**20, log_to_driver=False)
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.readline()
ray.get(ray.remote(lambda: 1).remote(), timeout=100)
print("alive", flush=True)
"""


def test_a_cluster_lives_from_up_to_down_and_leaves_nothing(playground: Playground) -> None:
    started = playground.run(*playground.up("working", "--detach", "--timeout", "240"))
    assert started.returncode == 0, started.stdout + started.stderr
    url = re.search(r"http://127\.0\.0\.1:\d+", started.stdout)[0]
    assert httpx.get(f"{url}/health/ready").is_success

    again = playground.run(*playground.up("working", "--detach"))
    assert again.returncode == 0
    assert "running already" in again.stdout
    assert url in again.stdout

    status = playground.run("status")
    assert status.returncode == 0, status.stderr
    assert "general" in status.stdout
    assert "50%" in status.stdout

    processes = playground.session()
    assert len(processes) > 3
    assert playground.run("down").returncode == 0
    assert not living(processes)
    assert playground.is_clean()
    assert "nothing is running" in playground.run("down").stdout


def test_a_supervisor_that_was_killed_is_cleaned_up_after(playground: Playground) -> None:
    assert playground.run(*playground.up("working", "--detach", "--timeout", "240")).returncode == 0
    processes = playground.session()
    psutil.Process(playground.owner().pid).kill()

    stopped = playground.run("down")

    assert stopped.returncode == 0, stopped.stderr
    assert not living(processes)
    assert playground.is_clean()


def test_a_cluster_whose_ray_has_died_ends_and_says_why(playground: Playground) -> None:
    with playground.start(*playground.up("working", "--timeout", "240")) as foreground:
        for line in foreground.stdout:
            if "Ctrl-C stops it" in line:
                break
        raylet = next(each for each in playground.session() if each.name() == "raylet")
        raylet.kill()
        rest = foreground.stdout.read()
    assert foreground.returncode == 1
    assert "a process of Ray's core has ended" in rest
    assert not playground.session()


def test_an_application_that_cannot_start_is_reported_with_its_cause(playground: Playground) -> None:
    failed = playground.run(*playground.up("broken", "--timeout", "240"))

    assert failed.returncode == 1
    assert "the weights are on fire" in failed.stderr
    assert "unavailable: " in failed.stderr
    assert not playground.session()


def test_a_start_that_takes_too_long_is_given_up(playground: Playground) -> None:
    failed = playground.run(*playground.up("deaf", "--timeout", "15"))

    assert failed.returncode == 1
    assert "deadline: not ready after 15 s; still waiting for" in failed.stderr
    assert not playground.session()


def test_ctrl_c_ends_a_cluster_in_the_foreground_and_another_ray_lives_on(playground: Playground) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OTHER_RAY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        other.stdout.readline()
        with playground.start(*playground.up("working", "--timeout", "240")) as foreground:
            for line in foreground.stdout:
                if "Ctrl-C stops it" in line:
                    break
            foreground.send_signal(signal.SIGINT)
            assert foreground.wait(120) == 0
        assert playground.is_clean()
        answer, _ = other.communicate("go on\n", timeout=120)
    assert answer.strip() == "alive"
