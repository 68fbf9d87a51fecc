"""A real federation with secure aggregation, for the files of tests that want one."""

from __future__ import annotations

import pytest
from real_federation import SITES, RealFederation

from mdmt.deployment.keys import fingerprint, read_key


def set_peers(real, site, **wrong):
    """Let the engineer of a site write the keys of the others, as they were read out to him."""
    keys = {s: read_key(real.site_kit(s) / "site.key", openssh=True) for s in SITES if s != site}
    peers = {name: fingerprint(key.public_key()) for name, key in keys.items()}
    real.fill_in(site, policy={"secure_aggregation": True, "peers": peers | wrong})


@pytest.fixture(scope="module")
def secure(tmp_path_factory):
    federation = RealFederation(
        tmp_path_factory.mktemp("secure"),
        privacy={"secure_aggregation": True},
        aggregation={"norm_layers": "frozen"},
    )
    try:
        for site in SITES:
            set_peers(federation, site)
        federation.start_server()
        for site in SITES:
            federation.start_site(site)
        yield federation
    finally:
        federation.close()
