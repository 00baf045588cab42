"""Checks that need the host: a script of tests/in_host runs them in a process of its own, once for all."""

import json
import re
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

from scripts.host import provide_host

REPO = Path(__file__).parents[1]
SCRIPTS = REPO / "tests" / "in_host"


def check_names(script: str) -> list[str]:
    """The checks that a script defines."""
    return re.findall(r"^def (check_\w+)", (SCRIPTS / script).read_text(), re.MULTILINE)


@lru_cache
def outcomes(script: str, *arguments: str | Path) -> dict[str, str | None]:
    """Each check's traceback, or None; of a script that does not end, what happened, for all of its checks."""
    host = provide_host()
    command = [sys.executable, str(SCRIPTS / script), str(host), str(REPO), *map(str, arguments)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=500, cwd=host)
    except subprocess.TimeoutExpired as error:
        return dict.fromkeys(check_names(script), str(error))
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        return dict.fromkeys(check_names(script), done.stdout[-2000:] + done.stderr[-4000:])
    return json.loads(lines[0].removeprefix("RESULT "))
