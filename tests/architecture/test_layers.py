"""Imports go down: deployments, router, experts, cluster. The contracts themselves stand in pyproject.toml."""

import subprocess
import sys
from graphlib import CycleError, TopologicalSorter

import grimp
import pytest

from tests.architecture.source import PACKAGES, ROOT, imports, modules


def test_the_layer_contracts_hold() -> None:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    linted = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert linted.returncode == 0, linted.stdout + linted.stderr


def test_no_two_modules_import_each_other() -> None:
    graph = grimp.build_graph(*PACKAGES, exclude_type_checking_imports=True)
    needs = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        pytest.fail(f"an import cycle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize(("runtime", "home"), [("vllm", "experts/engines/"), ("deepspeed", "experts/")])
def test_an_engine_runtime_is_imported_in_one_place_only(runtime: str, home: str) -> None:
    users = [name for name, module in modules(*PACKAGES).items() if runtime in imports(module)]
    assert all(name.startswith(home) for name in users), users


def test_every_package_marker_is_empty() -> None:
    filled = [path for top in PACKAGES for path in (ROOT / top).rglob("__init__.py") if path.stat().st_size]
    assert not filled, "put the content into a module with a name"


def test_every_folder_with_python_is_a_package() -> None:
    folders = {(ROOT / name).parent for name in modules(*PACKAGES)}
    assert not [str(folder.relative_to(ROOT)) for folder in folders if not (folder / "__init__.py").is_file()]
