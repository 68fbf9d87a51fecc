"""Differential privacy between real processes gives the bits of the simulation."""

from __future__ import annotations

import pytest
from real_federation import SITES, RealFederation
from simulated_federation import assert_same_result, expected

from mdmt.files import read_json
from mdmt.privacy import account
from mdmt.privacy.ledger import LEDGER, Ledger
from server import federation as server_federation

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SECRET = bytes(range(32))


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    federation = RealFederation(
        tmp_path_factory.mktemp("private"),
        privacy={"dp": {"noise_multiplier": 1.0, "sample_rate": 0.5}},
        aggregation={"norm_layers": "frozen", "weighting": "uniform"},
    )
    try:
        for site in SITES:
            federation.fill_in(site, policy={"max_epsilon": 100})
            state = federation.state(site)
            state.mkdir(parents=True, exist_ok=True)
            (state / LEDGER).touch(0o600)
            (state / "dp.secret").touch(0o600)
            (state / "dp.secret").write_bytes(SECRET)
        federation.start_server()
        for site in SITES:
            federation.start_site(site)
        yield federation
    finally:
        federation.close()


def test_a_private_run_gives_the_bits_of_the_simulation(real, tmp_path, monkeypatch):
    done = real.run("private")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Differential privacy: ε = " in done.stdout
    run = read_json(real.folder / "private" / "release" / "release.json")["run"]
    monkeypatch.setattr(server_federation.secrets, "token_hex", lambda n: run)
    monkeypatch.setattr(account.secrets, "token_bytes", lambda n: SECRET)
    simulated = expected(real, tmp_path / "simulated")
    assert_same_result(real.folder / "private", simulated)
    for site in SITES:
        ours, theirs = (
            [(entry.identity, entry.mechanism) for entry in Ledger(folder / LEDGER).entries()]
            for folder in (real.state(site), simulated / "sites" / site)
        )
        assert ours == theirs
        assert len(ours) == 3


def test_nothing_about_training_patients_left_but_updates(real):
    told = real.mdmt("site", "audit", real.site_kit("ward"), "--json").stdout
    assert '"data": "withheld"' in told
    assert '"loss"' not in told
    for line in real.lines("private", "history")[1:]:
        for facts in line["sites"].values():
            assert facts["validation"] == {}
            assert set(facts["losses"].values()) == {None}
