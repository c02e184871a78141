"""Children of the benchmark answer in time or are ended, and their last words are told."""

import sys
import textwrap
import time

import psutil
import pytest

from loadtests.speculation.children import Child, ChildFailed
from loadtests.speculation.messages import Done, Fix, Measured, Run, Turn

ECHO = """
    import sys
    from loadtests.speculation.children import die_with_parent
    from loadtests.speculation.loop import Window
    from loadtests.speculation.messages import Broken, Done, Fix, Quit, Run
    from loadtests.speculation.verifier import Talk, done, measured

    die_with_parent()
    talk = Talk()
    print("noise on standard output")
    while not isinstance(command := talk.hear(), Quit):
        if isinstance(command, Run):
            try:
                for _ in range(command.batch):
                    talk.yield_turn()
            except TypeError as error:
                talk.say(Broken(str(error)))
            else:
                talk.say(measured(Window(finished=command.batch), 0.0, {}, None))
        elif command == Fix(1):
            talk.say(Broken("no such depth"))
        elif command == Fix(2):
            sys.exit("last words")
        elif command != Fix(3):
            talk.say(done())
"""


@pytest.fixture
def child(tmp_path, monkeypatch):
    (tmp_path / "echo_child.py").write_text(textwrap.dedent(ECHO))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{':'.join(path for path in sys.path if path)}")
    child = Child("echo_child")
    yield child
    child.stop()


def test_an_answer_comes_back_whatever_else_is_printed(child):
    assert child.obey(Fix(0)).resident > 0
    assert child.seconds() > 0


def test_a_broken_child_says_why(child):
    child.send(Fix(1))
    with pytest.raises(ChildFailed, match="no such depth"):
        child.take(Done, 30)


def test_a_child_that_ended_leaves_its_last_words(child):
    child.send(Fix(2))
    with pytest.raises(ChildFailed, match="last words"):
        child.take(Done, 30)


def test_another_answer_than_the_expected_is_a_failure(child):
    child.send(Fix(0))
    with pytest.raises(ChildFailed, match="answered Done, not Measured"):
        child.take(Measured, 30)


def test_a_silent_child_misses_its_deadline_and_is_ended(child):
    child.obey(Fix(0))
    child.send(Fix(3))
    began = time.monotonic()
    with pytest.raises(ChildFailed, match="did not answer in time"):
        child.take(Done, 0.2)
    assert time.monotonic() - began < 5
    child.stop()
    assert not psutil.pid_exists(child.pid)


def test_a_resting_child_stands_still_until_it_is_asked(child):
    child.obey(Fix(0))
    child.rest()
    until = time.monotonic() + 5
    while psutil.Process(child.pid).status() != psutil.STATUS_STOPPED:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert child.obey(Fix(0)).resident > 0


def test_a_window_in_slices_is_over_after_its_turns(child):
    window = Run(2, (0,), 1.0, 0.0, slice=0.1)
    assert child.slice(window, 30) is None
    assert child.slice(Turn(), 30) is None
    measured = child.slice(Turn(), 30)
    assert measured is not None
    assert measured.finished == 2


def test_in_the_middle_of_a_window_comes_nothing_but_a_turn(child):
    assert child.slice(Run(2, (0,), 1.0, 0.0, slice=0.1), 30) is None
    child.send(Fix(0))
    with pytest.raises(ChildFailed, match="in the middle of a window comes no Fix"):
        child.take(Done, 30)


def test_what_is_no_part_of_a_window_is_a_failure(child):
    child.send(Fix(0))
    child.take(Done, 30)
    with pytest.raises(ChildFailed, match="answered Done in the middle of a window"):
        child.slice(Turn(), 30)
