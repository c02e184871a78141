"""What the files of the family must be, byte for byte: written after training, checked before loading."""

import json
from collections.abc import Iterator
from hashlib import file_digest
from pathlib import Path

from cluster.errors import ModelCorrupt

NAME = "manifest.json"


def write(root: Path) -> None:
    """Record size and digest of every file below the family's directory."""
    files = {name: _describe(root / name) for name in sorted(_names(root))}
    scratch = root / f".{NAME}"
    scratch.write_text(json.dumps({"files": files}, indent=2) + "\n", encoding="utf-8")
    scratch.replace(root / NAME)


def verify(root: Path, *, model: str | None = None) -> None:
    """Compare the family, or one model of it, with the manifest; raise `ModelCorrupt` naming every wrong file."""
    prefix = f"{model}/" if model else ""
    try:
        listed = json.loads((root / NAME).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError) as error:
        raise ModelCorrupt(f"{NAME} is missing or unreadable") from error
    expected = {name: entry for name, entry in listed.items() if name.startswith(prefix)}
    present = {name for name in _names(root) if name.startswith(prefix)}
    wrong = sorted(
        name
        for name in expected.keys() | present
        if name not in present or name not in expected or _describe(root / name) != expected[name]
    )
    if wrong or not expected:
        raise ModelCorrupt(f"files that do not match {NAME}: {', '.join(wrong) or 'none listed'}")


def size(root: Path) -> int:
    """Return the bytes of all files of the family."""
    return sum((root / name).stat().st_size for name in _names(root))


def _names(root: Path) -> Iterator[str]:
    for path in root.glob("*/*"):
        if path.is_file():
            yield path.relative_to(root).as_posix()


def _describe(path: Path) -> dict[str, str | int]:
    with path.open("rb") as file:
        return {"sha256": file_digest(file, "sha256").hexdigest(), "bytes": path.stat().st_size}
