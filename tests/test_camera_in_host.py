"""The camera and compose nodes in the host's own process."""

import pytest

from tests.host_process import check_names, outcomes

SCRIPT = "cameras.py"


@pytest.mark.host
@pytest.mark.parametrize("check", check_names(SCRIPT))
def test_in_host(check: str) -> None:
    assert outcomes(SCRIPT)[check] is None, outcomes(SCRIPT)[check]
