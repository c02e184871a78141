"""The project's own source, read once."""

import ast
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("cluster", "experts", "router", "deployments")
GENERATED = ("_pb2.py", "_pb2_grpc.py", "_pb2.pyi")


@dataclass(frozen=True)
class Function:
    """``parameters`` without self and cls; ``positional`` those of them that need no keyword."""

    where: str
    name: str
    lines: int
    parameters: int
    positional: int


@cache
def tracked() -> tuple[Path, ...]:
    """Every file that is, or is about to be, under version control."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode != 0:
        return tuple(path for top in (*PACKAGES, "tests") for path in (ROOT / top).rglob("*") if path.is_file())
    return tuple(path for name in listed.stdout.splitlines() if (path := ROOT / name).is_file())


@cache
def modules(*tops: str) -> dict[str, ast.Module]:
    """Parsed Python files below the given folders, by path from the root; generated ones are nobody's style."""
    found = {}
    for path in tracked():
        name = path.relative_to(ROOT).as_posix()
        if name.split("/")[0] in tops and name.endswith(".py") and not name.endswith(GENERATED):
            found[name] = ast.parse(path.read_text(encoding="utf-8"), name)
    return found


def functions(*tops: str) -> list[Function]:
    return [
        _measured(name, node)
        for name, module in modules(*tops).items()
        for node in ast.walk(module)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def classes(*tops: str) -> list[tuple[str, int]]:
    """Each class and its lines."""
    return [
        (f"{name}:{node.name}", _lines(node))
        for name, module in modules(*tops).items()
        for node in ast.walk(module)
        if isinstance(node, ast.ClassDef)
    ]


def imports(module: ast.Module) -> set[str]:
    """The top-level packages a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            found.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def _measured(name: str, node: ast.FunctionDef | ast.AsyncFunctionDef) -> Function:
    arguments = node.args
    positional = [each.arg for each in (*arguments.posonlyargs, *arguments.args) if each.arg not in ("self", "cls")]
    return Function(
        where=f"{name}:{node.name}",
        name=node.name,
        lines=_lines(node),
        parameters=len(positional) + len(arguments.kwonlyargs),
        positional=len(positional),
    )


def _lines(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1
