"""A real federation for every file of tests that wants one."""

from __future__ import annotations

import pytest
from real_federation import RealFederation


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    with RealFederation(tmp_path_factory.mktemp("real")) as federation:
        federation.start_all(faulty=True)
        yield federation
