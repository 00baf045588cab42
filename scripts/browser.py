"""Provides a Chromium for the browser tests and prints its path.

CHROMIUM names one to use; without it, one on PATH is taken; without that, root on Debian installs one.
"""

import os
import shutil
import subprocess
import sys

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
INSTALL = (("update",), ("install", "--yes", "--no-install-recommends"))


class BrowserError(Exception):
    """A reason for the user why no Chromium can be provided."""


def found_browser() -> str | None:
    """The Chromium or Chrome on PATH, if any."""
    return next((path for path in map(shutil.which, NAMES) if path and is_browser(path)), None)


def is_browser(path: str) -> bool:
    """Whether a program tells its version; Ubuntu's chromium-browser only says where to find one."""
    try:
        return subprocess.run([path, "--version"], capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def chosen_browser(name: str) -> str:
    """The one that CHROMIUM names. Raises BrowserError where it is no program."""
    path = shutil.which(name)
    if path is None:
        raise BrowserError(f"CHROMIUM is {name}, which is no program")
    return path


def can_install() -> bool:
    """Whether apt-get is there and may install."""
    return shutil.which("apt-get") is not None and hasattr(os, "geteuid") and os.geteuid() == 0


def install(*packages: str) -> None:
    """Packages by apt-get, as far as it can."""
    print(f"Installing {', '.join(packages)} by apt-get ...", file=sys.stderr)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    update, command = INSTALL
    for arguments in (update, (*command, *packages)):
        subprocess.run(["apt-get", "--quiet", *arguments], env=environment, stdout=sys.stderr, check=False)


def install_browser() -> str:
    """Chromium by apt-get. Raises BrowserError where that fails."""
    install("chromium")
    path = found_browser()
    if path is None:
        raise BrowserError("apt-get could not install the package chromium; install Chromium, or set CHROMIUM")
    return path


def provide_browser() -> str:
    """The browser that CHROMIUM names, else the one on PATH, else one that is installed."""
    name = os.environ.get("CHROMIUM", "")
    if name:
        return chosen_browser(name)
    path = found_browser()
    if path is not None:
        return path
    if not can_install():
        raise BrowserError(
            "the browser tests need Chromium or Chrome on PATH, or its path in CHROMIUM "
            "(Debian: sudo apt-get install chromium)"
        )
    return install_browser()


def main() -> int:
    """Print its path; the exit status."""
    try:
        print(provide_browser())
    except BrowserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
