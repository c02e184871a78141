"""Limits that keep the code readable. An exception names its reason here, next to the limit it breaks."""

from statistics import median, quantiles

from tests.architecture.source import PACKAGES, ROOT, classes, functions, modules

FILE_LINES = 400
CLASS_LINES = 250
FUNCTION_LINES = 60
FUNCTION_LINES_P90 = 30
PARAMETERS = 5
NAME_WORDS = 4

MANY_PARAMETERS = {
    "deployments/cli/rollout.py:change": "a command: each parameter is an option of the command line",
    "experts/zoo/__main__.py:train": "a command: each parameter is an option of the command line",
}


def words(name: str) -> int:
    return len([each for each in name.split("_") if each])


def test_files_fit_their_limit() -> None:
    lines = {
        name: (ROOT / name).read_text(encoding="utf-8").count("\n") for name in modules(*PACKAGES, "tests", "loadtests")
    }
    assert not {name: count for name, count in lines.items() if count > FILE_LINES}


def test_classes_fit_their_limit() -> None:
    assert not [each for each in classes(*PACKAGES) if each[1] > CLASS_LINES]


def test_functions_fit_their_limit() -> None:
    measured = functions(*PACKAGES)
    assert not [each for each in measured if each.lines > FUNCTION_LINES]
    assert quantiles([each.lines for each in measured], n=10)[-1] <= FUNCTION_LINES_P90


def test_functions_take_few_parameters() -> None:
    many = {each.where for each in functions(*PACKAGES) if each.parameters > PARAMETERS}
    assert many == MANY_PARAMETERS.keys(), "a record is missing, or an exception is no longer one"


def test_names_are_short() -> None:
    named = [each for each in functions(*PACKAGES) if not each.name.startswith("__")]
    assert not [each.where for each in named if words(each.name) > NAME_WORDS]
    assert median(words(each.name) for each in named) <= 2
