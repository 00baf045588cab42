"""How a script of tests/in_host loads the pack, runs its checks, and says how they went."""

import importlib.util
import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any


def load_module(name: str, file: Path, **options: Any) -> ModuleType:
    """A module under a name of its own."""
    spec = importlib.util.spec_from_file_location(name, file, **options)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def load_pack(folder: Path) -> None:
    """The pack as the host loads it: a package, here under the name `pack`."""
    load_module("pack", folder / "__init__.py", submodule_search_locations=[str(folder)])


def expect_error(call: Callable[[], Any], words: str) -> None:
    """The call raises a ValueError that says these words."""
    try:
        call()
    except ValueError as error:
        said = str(error)
    else:
        said = "no error"
    assert words in said, said


def outcome(check: Callable[[], None]) -> str | None:
    """None, or the traceback of a check that failed."""
    try:
        check()
    except Exception:
        return traceback.format_exc()
    return None


def run_checks(namespace: dict[str, Any]) -> None:
    """Run a module's checks and print their outcomes."""
    checks = {name: check for name, check in namespace.items() if name.startswith("check_")}
    print("RESULT " + json.dumps({name: outcome(check) for name, check in checks.items()}))
