"""Prometheus' own checker, from the Debian package ``prometheus``."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run it. Where it is absent the test is skipped; in CI (``SWITCHYARD_CI``) it fails."""
    found = shutil.which("promtool")
    if found is None and os.environ.get("SWITCHYARD_CI"):
        pytest.fail("promtool is absent: .ci/run installs it with the Debian package prometheus")
    if found is None:
        pytest.skip("needs promtool (on Debian: apt install prometheus)")
    return subprocess.run([found, *arguments], capture_output=True, text=True, timeout=60, check=False)
