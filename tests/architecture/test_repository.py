"""What holds for the repository as a whole: errors, metrics, tests, documents, and what must never be committed."""

import ast
import re
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

import cluster.errors
from cluster.errors import SwitchyardError
from tests.architecture.source import PACKAGES, ROOT, imports, modules, tracked

MACHINE_PATH = re.compile(r"(?<![\w.$}])/(?:work|farm|root|home|Users|opt)/[\w.-]+")
REGISTRY = re.compile(
    "|".join((r"pypi\.or" + "g", r"pythonhosted\.or" + "g", r"registry\.npm", r"index-ur" + "l [^-]"))
)
MOCKS = {"unittest", "mock", "pytest_mock"}
METRICS = {"Counter", "Gauge", "Histogram", "Summary", "Info", "HistogramMetricFamily"}
CHECKS = re.compile(r"_?(assert|check|expect|verify|validate|raises|fail|warns|until|given|run_state_machine)\w*")


def kinds(root: type[SwitchyardError] = SwitchyardError) -> Iterator[type[SwitchyardError]]:
    yield root
    for child in root.__subclasses__():
        if child.__module__ == cluster.errors.__name__:
            yield from kinds(child)


def test_every_error_has_a_reason_of_its_own() -> None:
    reasons = [kind.reason for kind in kinds()]
    assert len(reasons) == len(set(reasons))


@pytest.mark.parametrize("kind", list(kinds()), ids=lambda kind: kind.__name__)
def test_the_drawn_tree_shows_every_error_as_it_is(kind: type[SwitchyardError]) -> None:
    line = rf"\b{kind.__name__}\s+{kind.reason}\s+{kind.http_status}\s+{kind.grpc_code}\b"
    assert re.search(line, cluster.errors.__doc__ or "")


def test_errors_are_declared_in_the_tree_only() -> None:
    names = {kind.__name__ for kind in kinds()}
    elsewhere = [
        f"{name}:{node.name}"
        for name, module in modules(*PACKAGES).items()
        if name != "cluster/errors.py"
        for node in ast.walk(module)
        if isinstance(node, ast.ClassDef)
        and any(isinstance(base, ast.Name) and base.id in names for base in node.bases)
    ]
    assert not elsewhere


def test_no_machine_path_and_no_registry_address_is_committed() -> None:
    found = []
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if "weights" in path.parts:
            continue
        found += [f"{path.relative_to(ROOT)}: {match[0]}" for match in MACHINE_PATH.finditer(text)]
        found += [f"{path.relative_to(ROOT)}: {match[0]}" for match in REGISTRY.finditer(text)]
    assert not found


def test_every_locked_package_has_its_hash() -> None:
    for extra in ("cpu", "gpu", "uv"):
        text = (ROOT / "requirements" / f"{extra}.txt").read_text(encoding="utf-8")
        pins = re.split(r"\n(?=[a-z0-9])", re.sub(r"(?m)^\s*#.*\n?", "", text))
        assert pins
        assert not [pin.partition(" ")[0] for pin in pins if "--hash=sha256:" not in pin]


@pytest.mark.parametrize("absent", ["torchvision", "torchaudio", "torchcodec"])
def test_packages_that_would_bind_to_another_torch_are_not_installed(absent: str) -> None:
    assert find_spec(absent) is None


def test_metrics_have_one_name_each() -> None:
    names = [
        node.args[0].value
        for module in modules(*PACKAGES).values()
        for node in ast.walk(module)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in METRICS
        and node.args
        and isinstance(node.args[0], ast.Constant)
    ]
    assert len(names) == len(set(names))
    assert not [name for name in names if not str(name).startswith(("switchyard_", "gen_ai_"))]


def test_tests_use_no_mock_library() -> None:
    assert not [name for name, module in modules("tests").items() if imports(module) & MOCKS]


def test_every_test_can_fail() -> None:
    """By an assertion, a waiting helper that gives up, or (where the input is drawn) by any error but the expected."""
    idle = [
        f"{name}:{node.name}"
        for name, module in modules("tests").items()
        for node in ast.walk(module)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not any(_is_check(each) for each in ast.walk(node))
    ]
    assert not idle


def _is_check(node: ast.AST) -> bool:
    if isinstance(node, ast.Assert):
        return not isinstance(node.test, ast.Constant)
    if not isinstance(node, ast.Call):
        return False
    called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    raises = any(each.arg == "check" and getattr(each.value, "value", False) is True for each in node.keywords)
    return raises or bool(CHECKS.fullmatch(called))


def test_the_readme_sends_newcomers_to_places_that_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = re.search(r"(?s)## Where do I look\?\n(.*?)(\n## |\Z)", text)
    assert table
    places = re.findall(r"`([\w./*<>-]+/[\w./*<>-]*)`", table[1])
    assert len(places) > 10
    assert not [place for place in places if not list(ROOT.glob(place.rstrip("/")))]
