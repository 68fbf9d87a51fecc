"""Faults that a real federation with secure aggregation survives, to the same bits."""

from __future__ import annotations

import os
import signal

import pytest
from protected_federation import SECURE, protected_federation, set_peers
from simulated_federation import assert_same_result, expected

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    with protected_federation(tmp_path_factory.mktemp("secure"), SECURE) as federation:
        yield federation


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
