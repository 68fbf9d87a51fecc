"""Secure aggregation between real processes: TLS, a proxy, keys that the sites made, approval."""

from __future__ import annotations

import os
import signal

import pytest
from real_federation import SITES, RealFederation
from simulated_federation import assert_same_result, expected

from mdmt.deployment.keys import fingerprint, read_key

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def set_peers(real, site, **wrong):
    """Let the engineer of a site write the keys of the others, as they were read out to him."""
    keys = {s: read_key(real.site_kit(s) / "site.key", openssh=True) for s in SITES if s != site}
    peers = {name: fingerprint(key.public_key()) for name, key in keys.items()}
    real.fill_in(site, policy={"secure_aggregation": True, "peers": peers | wrong})


@pytest.fixture(scope="module")
def real(tmp_path_factory):
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


def test_a_masked_run_gives_the_bits_of_the_simulation(real, tmp_path):
    done = real.run("healthy")
    assert done.returncode == 0, done.stdout + done.stderr
    assert_same_result(real.folder / "healthy", expected(real, tmp_path / "simulated"))
    history = real.lines("healthy", "history")
    assert [line.get("clipped") for line in history] == [None, 0, 0, 0]
    assert all("validation" not in s for line in history[:-1] for s in line["sites"].values())
    assert [*real.folder.rglob("secure/key")] == []


def test_what_left_a_site_is_masked(real):
    told = real.mdmt("site", "audit", real.site_kit("ward"), "--json").stdout
    assert '"metrics": ["U32"' in told.replace("\n", " ")
    assert '"F32"' not in told


def test_a_killed_superlink_costs_a_resume_and_no_second_answer(real, tmp_path):
    real.start_run("killed")
    real.wait_for_event("killed", "reply", round=2)
    os.kill(real.pid("server", "SuperLink"), signal.SIGKILL)
    assert real.end_of_run() == 1
    real.mdmt("server", "status", "kits/server", "--wait", "60")
    done = real.run("killed", "--resume")
    assert done.returncode == 0, done.stdout + done.stderr
    assert_same_result(real.folder / "killed", expected(real, tmp_path / "simulated"))


def test_a_site_that_does_not_know_a_key_stops_the_run_until_it_does(real, tmp_path):
    set_peers(real, "hospital", clinic="SHA256:" + "A" * 43)
    done = real.run("unknown")
    assert done.returncode == 1
    assert "policy: peers does not list site clinic with its key" in done.stdout + done.stderr
    set_peers(real, "hospital")
    done = real.run("unknown", "--resume")
    assert done.returncode == 0, done.stdout + done.stderr
    assert_same_result(real.folder / "unknown", expected(real, tmp_path / "simulated"))
