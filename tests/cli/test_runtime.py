"""The pieces under the supervisor: its directory, its journal, its processes, its ports."""

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import ConfigError, Failure
from deployments.cli import launcher, processes
from deployments.cli.journal import Journal
from deployments.cli.processes import Identity
from deployments.cli.runtime import Launch, Progress, Runtime, home, runtime_for
from deployments.config import Config, load

LAUNCH = Launch("module:function", timeout=1.0)
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def told() -> list[Progress]:
    return []


@pytest.fixture
def journal(clock: Clock, told: list[Progress]) -> Journal:
    return Journal(told.append, clock)


@pytest.fixture
def _here(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A temporary directory of the test's own, with a short path."""
    with tempfile.TemporaryDirectory(prefix="sy") as directory:
        monkeypatch.setattr("tempfile.tempdir", directory)
        yield


def test_a_step_takes_from_its_first_mention_to_its_end(journal: Journal, clock: Clock, told: list[Progress]) -> None:
    clock.now = 1.0
    with journal.step("ray"):
        clock.now = 3.5
    clock.now = 9.0
    journal.turn("ready")
    assert [(step.name, step.state, step.seconds) for step in told[-1].steps] == [("ray", "done", 2.5)]
    assert (told[-1].phase, told[-1].seconds) == ("ready", 9.0)


def test_a_step_that_raises_has_failed(journal: Journal, told: list[Progress]) -> None:
    with pytest.raises(ConfigError), journal.step("ray"):
        raise ConfigError("no")
    assert told[-1].steps[0].state == "failed"
    assert journal.running() == []


def test_the_same_news_is_told_once(journal: Journal, told: list[Progress]) -> None:
    for _ in range(3):
        journal.note("general", "running", "loading")
    assert len(told) == 1
    assert journal.running() == ["general"]


def test_a_failure_is_told_with_its_reason(journal: Journal, told: list[Progress]) -> None:
    journal.turn("failed", Failure("unavailable", "gone"))
    assert told[-1].failure == Failure("unavailable", "gone")


@given(name=st.text(max_size=300))
def test_any_cluster_name_gives_a_directory_that_rays_sockets_fit_into(name: str) -> None:
    runtime = runtime_for(name)
    assert runtime.directory.parent == home()
    socket_path = runtime.ray / "session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
    assert len(os.fsencode(socket_path)) <= 107


@given(names=st.sets(st.text(max_size=60), min_size=2, max_size=5))
def test_different_clusters_have_different_directories(names: set[str]) -> None:
    assert len({runtime_for(name).directory for name in names}) == len(names)


def test_a_temporary_directory_too_deep_for_sockets_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/" + "deep/" * 20)
    with pytest.raises(ConfigError, match="TMPDIR"):
        runtime_for("local")


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    (tmp_path / "home").mkdir(mode=0o700)
    return Runtime(tmp_path / "home" / "tiny")


@pytest.fixture
def config(config_file: Path) -> Config:
    return load(str(config_file))


def test_only_one_of_two_starts_gets_the_directory(runtime: Runtime, config: Config) -> None:
    assert runtime.create(config, LAUNCH)
    assert not runtime.create(config, LAUNCH)
    assert runtime.config() == config
    assert runtime.launch() == LAUNCH


def test_the_directory_is_nobody_elses_business(runtime: Runtime, config: Config) -> None:
    runtime.create(config, LAUNCH)
    assert {path.stat().st_mode & 0o077 for path in (runtime.directory, *runtime.directory.iterdir())} == {0}


def test_a_directory_that_others_may_enter_is_refused(runtime: Runtime, config: Config) -> None:
    runtime.directory.parent.chmod(0o755)
    with pytest.raises(ConfigError, match="others cannot enter"):
        runtime.create(config, LAUNCH)


def test_a_link_in_place_of_the_directory_is_refused(tmp_path: Path, config: Config) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="must be a directory of yours"):
        Runtime(tmp_path / "link" / "tiny").create(config, LAUNCH)


def test_a_reused_process_id_is_not_mistaken_for_the_supervisor() -> None:
    mine = processes.identify(os.getpid())
    assert processes.find(mine) is not None
    assert processes.find(Identity(mine.pid, mine.created - 60)) is None
    assert processes.members(Identity(mine.pid, mine.created - 60), "anywhere") == []


def test_a_supervisor_that_ends_while_it_is_looked_up_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        gone = processes.identify(process.pid)
        process.communicate()
    monkeypatch.setattr("psutil.pid_exists", lambda _: True)  # what it said a moment before
    assert processes.members(gone, "anywhere") == []


def test_members_are_found_by_session_and_by_environment(tmp_path: Path) -> None:
    marked = os.environ | {processes.MARK: str(tmp_path)}
    sleep = [sys.executable, "-c", "print('up', flush=True); import time; time.sleep(60)"]
    leader = subprocess.Popen(sleep, stdout=subprocess.PIPE, start_new_session=True)
    escaped = subprocess.Popen(sleep, stdout=subprocess.PIPE, start_new_session=True, env=marked)
    stranger = subprocess.Popen(sleep, stdout=subprocess.PIPE)
    everyone = (leader, escaped, stranger)
    try:
        for each in everyone:
            each.stdout.readline()
        found = processes.members(processes.identify(leader.pid), str(tmp_path))
        assert {each.pid for each in found} == {leader.pid, escaped.pid}
    finally:
        for each in everyone:
            each.kill()
            each.communicate()


def test_a_process_that_ignores_the_request_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE) as stubborn:
        stubborn.stdout.readline()
        assert processes.end([psutil.Process(stubborn.pid)], patience=0.3) == []


@pytest.mark.usefixtures("_here")
def test_a_taken_port_stops_the_start_with_its_name(config: Config) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        gateway = config.gateway.model_copy(update={"grpc_port": taken.getsockname()[1]})
        with pytest.raises(ConfigError, match=r"gateway\.grpc_port"):
            launcher.up(config.model_copy(update={"gateway": gateway}), LAUNCH)
    assert not home().exists()


@pytest.mark.usefixtures("_here")
def test_two_leftover_clusters_have_to_be_told_apart(config: Config) -> None:
    for name in ("one", "two"):
        runtime_for(name).create(config, LAUNCH)
    with pytest.raises(ConfigError, match="--name"):
        launcher.the_cluster(None)
    assert launcher.the_cluster("one").name == "one"
    assert launcher.down(runtime_for("one"))
    assert launcher.the_cluster(None).name == "two"
    assert launcher.down(runtime_for("two"))
    assert not home().exists()
