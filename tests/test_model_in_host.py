"""Pano-Perspective attention on the host's own Wan model; the checks run in one process with the host's modules."""

import pytest

from tests.host_process import check_names, outcomes

SCRIPT = "checks.py"


@pytest.mark.host
@pytest.mark.parametrize("check", check_names(SCRIPT))
def test_in_host(check: str) -> None:
    assert outcomes(SCRIPT)[check] is None, outcomes(SCRIPT)[check]
