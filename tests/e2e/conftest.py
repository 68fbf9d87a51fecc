"""A real federation for every file of tests that wants one."""

from __future__ import annotations

import pytest
from real_federation import SITES, RealFederation


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    federation = RealFederation(tmp_path_factory.mktemp("real"))
    try:
        federation.start_server()
        for site in SITES:
            federation.start_site(site, faulty=True)
        yield federation
    finally:
        federation.close()
