"""Pano-Perspective attention on the host's own Wan model; the checks run in one process with the host's modules."""

import json
import re
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import pytest

from scripts.host import provide_host

REPO = Path(__file__).parents[1]
SCRIPT = REPO / "tests" / "in_host" / "checks.py"
CHECKS = re.findall(r"^def (check_\w+)", SCRIPT.read_text(), re.MULTILINE)


@lru_cache(1)
def outcomes() -> dict[str, str | None]:
    """Each check's traceback, or None."""
    command = [sys.executable, str(SCRIPT), str(provide_host()), str(REPO)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=provide_host())
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert lines, done.stdout[-2000:] + done.stderr[-4000:]
    return json.loads(lines[0].removeprefix("RESULT "))


@pytest.mark.host
@pytest.mark.parametrize("check", CHECKS)
def test_in_host(check: str) -> None:
    assert outcomes()[check] is None, outcomes()[check]
