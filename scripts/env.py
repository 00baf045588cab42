"""Makes .venv in the repository root from requirements/dev.lock. Does nothing when it is up to date."""

# Only syntax and annotations that Python 3.6 understands, so that an old Python reaches the check in main().

import hashlib
import os
import platform
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator  # noqa: UP035

try:
    import fcntl
except ImportError:
    fcntl = None

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
BOOTSTRAP = ROOT / "requirements" / "bootstrap.txt"
LOCK = ROOT / "requirements" / "dev.lock"
MINIMUM_PYTHON = (3, 10)


class SetupError(Exception):
    """A reason for the user why the environment could not be made."""


def require_python(version: tuple) -> None:
    """Raise SetupError for a Python that is too old."""
    if tuple(version[:2]) < MINIMUM_PYTHON:
        found = ".".join(str(part) for part in version[:3])
        raise SetupError(f"Python 3.10 or newer is needed, this is {found}. Try: export PYTHON=python3.11")


def venv_python(venv: Path) -> Path:
    """The interpreter of an environment."""
    return venv / "Scripts" / "python.exe" if os.name == "nt" else venv / "bin" / "python"


def wanted_stamp(lock: Path, bootstrap: Path, python_version: str) -> str:
    """What a finished environment is stamped with: a hash of both locks and Python's version."""
    digest = hashlib.sha256()
    for part in (lock.read_bytes(), bootstrap.read_bytes(), python_version.encode()):
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()


def stamp_file(venv: Path) -> Path:
    """Where the stamp lies."""
    return venv / ".complete"


def mark_file(venv: Path) -> Path:
    """What tells an environment that this script began from one that somebody else made."""
    return venv / ".made-by-env.py"


def is_ours(venv: Path) -> bool:
    """Whether an environment may be cleared: there is none, or this script made it."""
    if not venv.exists() or not any(venv.iterdir()):
        return True
    return mark_file(venv).exists() or stamp_file(venv).exists()


def is_current(venv: Path, stamp: str) -> bool:
    """Whether an environment is finished and made of these locks."""
    file = stamp_file(venv)
    return venv_python(venv).exists() and file.is_file() and file.read_text() == stamp


def write_stamp(venv: Path, stamp: str) -> None:
    """Stamp an environment as finished, whole or not at all."""
    unfinished = venv / ".complete.new"
    unfinished.write_text(stamp)
    os.replace(str(unfinished), str(stamp_file(venv)))


@contextmanager
def one_at_a_time(file: Path) -> Iterator[None]:
    """Wait for others that make the environment; Windows, which has no make of its own, does not."""
    if fcntl is None:
        yield
        return
    with file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def call(*command: object) -> None:
    """Run a command, its output to stderr: what a target prints stays readable by programs."""
    subprocess.run([str(part) for part in command], check=True, stdout=sys.stderr)


def install(venv: Path) -> None:
    """Install the lock into an environment, by uv where it can."""
    python = venv_python(venv)
    pip = (python, "-m", "pip", "install", "--quiet", "--require-hashes", "--requirement")
    call(*pip, BOOTSTRAP)
    try:
        call(python, "-m", "uv", "pip", "sync", "--quiet", "--python", python, "--require-hashes", LOCK)
    except subprocess.CalledProcessError:
        # uv ignores pip's configuration, which may name the only index that can be reached.
        print("uv could not install the lock; trying pip, which is slower.", file=sys.stderr)
        call(*pip, LOCK)


def make_env(venv: Path) -> None:
    """Make the environment unless it is current."""
    stamp = wanted_stamp(LOCK, BOOTSTRAP, platform.python_version())
    if is_current(venv, stamp):
        return
    if not is_ours(venv):
        raise SetupError(f"{venv} was not made by this script: move it away, or remove it")
    print(f"Making {venv} with Python {platform.python_version()} ...", file=sys.stderr)
    if stamp_file(venv).exists():
        stamp_file(venv).unlink()
    call(sys.executable, "-m", "venv", "--clear", venv)
    mark_file(venv).touch()
    install(venv)
    write_stamp(venv, stamp)


def main() -> int:
    """The exit status, with the reason on stderr."""
    try:
        require_python(sys.version_info)
        with one_at_a_time(VENV.with_name(".venv.lock")):
            make_env(VENV)
    except SetupError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(f"error: exit status {error.returncode} from: {' '.join(error.cmd)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
