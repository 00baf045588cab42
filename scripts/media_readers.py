"""Installs ffprobe and exiftool where root on Debian can: tests read the marks of 360 files with them."""

import shutil
import sys

from scripts.browser import can_install, install

PACKAGES = {"ffprobe": "ffmpeg", "exiftool": "libimage-exiftool-perl"}


def missing_packages() -> list[str]:
    """The packages of those programs that are not on PATH."""
    return [package for program, package in PACKAGES.items() if shutil.which(program) is None]


def main() -> int:
    """Install what is missing; 0 in any case, since the tests do without."""
    packages = missing_packages()
    if packages and can_install():
        install(*packages)
    if missing_packages():
        print(f"Without {' and '.join(missing_packages())}: tests that need them are skipped.", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
