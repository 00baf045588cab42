"""Pano-Perspective attention on the host's own Wan model; the checks run in one process with the host's modules."""

import pytest

from tests.host_process import check_names, outcomes

SCRIPTS = ("checks.py", "passes.py", "refusals.py", "files.py")


@pytest.mark.host
@pytest.mark.parametrize(("script", "check"), [(script, check) for script in SCRIPTS for check in check_names(script)])
def test_in_host(script: str, check: str) -> None:
    assert outcomes(script)[check] is None, outcomes(script)[check]
