"""Engines that are measured side by side take turns, and each gets its own window back."""

import sys
import textwrap

import pytest

from loadtests.speculation.arms import Arm, split
from loadtests.speculation.children import Child
from loadtests.speculation.messages import Run
from loadtests.speculation.pair import embedded
from loadtests.speculation.rig import Questions, Rig
from loadtests.speculation.trace import Tempo, Trace

TURNS = """
    import sys
    from loadtests.speculation.children import die_with_parent
    from loadtests.speculation.loop import Window
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
        talk.say(measured(Window(seconds=1.0, finished=turns), 0.0, {}, None))
"""
LONG, SHORT = Arm("long"), Arm("short")
TAKES = {"long": 4, "short": 2}


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
        rig.load((LONG, SHORT))
        yield rig


def test_they_take_turns_until_each_has_had_its_window(rig, log):
    found = rig.run_in_slices((LONG, SHORT), Run(1, (0,), 1.0, 0.0, slice=0.1))
    assert [measured.finished for measured in found] == [4, 2], "in the order of the arms"
    assert log.read_text().split() == ["long", "short", "long", "short", "long", "long"]


def test_beside_the_controller_runs_nothing_but_plain_decoding(rig):
    adaptive, fixed = split(ahead=True, adaptive=True), split(ahead=True, adaptive=False)
    with pytest.raises(ValueError, match="nothing but plain decoding"):
        Trace(rig, adaptive, fixed, tempo=Tempo(1.0, slice=0.1))
    Trace(rig, adaptive, fixed, tempo=Tempo(1.0, slice=0.1), depths=(0,))
