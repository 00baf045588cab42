"""Loading and looking around in videos, in the host's own process."""

import pytest

from tests.host_process import check_names, outcomes

SCRIPT = "videos.py"


@pytest.mark.host
@pytest.mark.parametrize("check", check_names(SCRIPT))
def test_in_host(check: str) -> None:
    assert outcomes(SCRIPT)[check] is None, outcomes(SCRIPT)[check]
