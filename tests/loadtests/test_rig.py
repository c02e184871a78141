"""Engines that are measured side by side take turns, and each gets its own window back."""

import sys
import textwrap

import pytest

from loadtests.speculation.arms import PLAIN, Arm, twins
from loadtests.speculation.children import Child
from loadtests.speculation.messages import Run
from loadtests.speculation.pair import embedded
from loadtests.speculation.rig import Questions, Rig
from loadtests.speculation.trace import ADAPTIVE, Phase, Tempo, Trace

TURNS = """
    import sys
    from loadtests.speculation.children import die_with_parent
    from loadtests.speculation.loop import Tally, Window
    from loadtests.speculation.messages import Quit, Run
    from loadtests.speculation.verifier import Talk, done, measured

    die_with_parent()
    name, log, turns = sys.argv[1], sys.argv[2], int(sys.argv[3])
    talk = Talk()
    talk.say(done())
    while not isinstance(command := talk.hear(), Quit):
        for turn in range(turns):
            with open(log, "a") as file:
                file.write(name + "\\n")
            if turn < turns - 1:
                talk.yield_turn()
        window = Window(seconds=1.0, decode=Tally(tokens=turns), finished=turns)
        talk.say(measured(window, 0.0, {}, None))
"""
LONG, SHORT = Arm("long"), Arm("short")
TWINS = twins({ADAPTIVE: LONG, "K=0": SHORT}, 2)
TAKES = {"long": 4, "short": 2, "long, process 2": 2, "short, process 2": 1, PLAIN.name: 1}


@pytest.fixture
def log(tmp_path):
    return tmp_path / "turns"


@pytest.fixture
def rig(tmp_path, monkeypatch, log):
    (tmp_path / "turns_child.py").write_text(textwrap.dedent(TURNS))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{':'.join(path for path in sys.path if path)}")

    class Turns(Rig):
        def _start(self, arm):
            return Child("turns_child", (arm.name, str(log), str(TAKES[arm.name])))

    with Turns(embedded(), Questions((), 1)) as rig:
        rig.load((LONG, SHORT, PLAIN))
        yield rig


def test_they_take_turns_until_each_has_had_its_window(rig, log):
    found = rig.run_in_slices((LONG, SHORT), Run(1, (0,), 1.0, 0.0, slice=0.1))
    assert [measured.finished for measured in found] == [4, 2], "in the order of the arms"
    assert log.read_text().split() == ["long", "short", "long", "short", "long", "long"]


def test_a_trace_has_every_arm_side_by_side_in_every_phase(rig, log):
    trace = Trace(rig, {ADAPTIVE: (LONG,), "K=0": (SHORT,)}, tempo=Tempo(1.0))
    course = [Phase("first", 1, (0,)), Phase("second", 2, (1,))]
    trace.calibrate(course)
    log.write_text("")
    paces = list(trace.measure(course, rounds=2))
    assert [pace.phase for pace in paces] == ["first", "first", "second", "second"] * 2
    assert {(pace.phase, pace.arm) for pace in paces} == {
        (phase.name, arm) for phase in course for arm in (ADAPTIVE, "K=0")
    }
    ahead, behind = ["long", "short", "long", "short", "long", "long"], ["short", "long", "short", "long"]
    assert log.read_text().split()[:10] == ahead + behind, "who begins changes"


def test_an_arm_is_as_fast_as_the_mean_of_its_processes_and_these_alternate_with_those_of_others(rig, log):
    rig.load((TWINS[ADAPTIVE][1], TWINS["K=0"][1]))
    trace = Trace(rig, TWINS, tempo=Tempo(1.0))
    course = [Phase("first", 1, (0,))]
    trace.calibrate(course)
    log.write_text("")
    paces = list(trace.measure(course, rounds=1))
    assert [(pace.arm, pace.speed) for pace in paces] == [(ADAPTIVE, 3.0), ("K=0", 1.5)]
    assert log.read_text().splitlines()[:4] == ["long", "short", "long, process 2", "short, process 2"]
