"""Differential privacy between real processes, without and with secure aggregation.

TLS, a proxy, keys that the sites made, approval: the bits are those of the simulation.
"""

from __future__ import annotations

import pytest
from protected_federation import DP, SECURE, expected_private, protected_federation
from real_federation import SITES
from simulated_federation import assert_same_result

from mdmt.privacy.ledger import LEDGER, Ledger

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture(scope="module", params=[DP, DP | SECURE], ids=["private", "private-and-secure"])
def real(request, tmp_path_factory):
    with protected_federation(tmp_path_factory.mktemp("private"), request.param) as federation:
        yield federation


@pytest.fixture
def masked(request):
    """Whether the federation has secure aggregation too."""
    return "secure" in request.node.callspec.id


def test_a_private_run_gives_the_bits_of_the_simulation(real, tmp_path, monkeypatch):
    said = real.complete_run("private")
    assert "Differential privacy: ε = " in said
    simulated = expected_private(real, "private", tmp_path / "simulated", monkeypatch)
    assert_same_result(real.folder / "private", simulated)
    for site in SITES:
        ours, theirs = (
            [(entry.identity, entry.mechanism) for entry in Ledger(folder / LEDGER).entries()]
            for folder in (real.state(site), simulated / "sites" / site)
        )
        assert ours == theirs
        assert len(ours) == 3


def test_nothing_about_training_patients_left_but_updates(real, masked):
    told = real.mdmt("site", "audit", real.site_kit("ward"), "--json").stdout
    assert '"data": "withheld"' in told
    assert '"loss"' not in told
    assert ('"U32"' in told) == masked
    assert ('"F32"' in told) != masked
    for line in real.lines("private", "history")[1:]:
        for facts in line["sites"].values():
            assert facts.get("validation", {}) == {}
            assert set(facts.get("losses", {}).values()) <= {None}
