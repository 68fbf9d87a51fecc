"""Secure aggregation between real processes: TLS, a proxy, keys that the sites made, approval."""

from __future__ import annotations

import pytest
from protected_federation import SECURE, protected_federation
from simulated_federation import assert_same_result, expected

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    with protected_federation(tmp_path_factory.mktemp("secure"), SECURE) as federation:
        yield federation


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
