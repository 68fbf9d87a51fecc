"""A real federation with secure aggregation, differential privacy or both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from real_federation import SITES, RealFederation
from simulated_federation import expected

from mdmt.deployment.keys import fingerprint, read_key
from mdmt.files import read_json
from mdmt.privacy import account
from mdmt.privacy.ledger import LEDGER
from server import federation as server_federation

SECURE = {"secure_aggregation": True}
DP = {"dp": {"noise_multiplier": 1.0, "sample_rate": 0.5}}
SECRET = bytes(range(32))
"""From which each site with differential privacy draws its noise, so that a test can repeat it."""


@contextmanager
def protected_federation(folder: Path, privacy: dict[str, Any]) -> Iterator[RealFederation]:
    """Start the server and the sites of a federation with this section `privacy`."""
    aggregation = {"norm_layers": "frozen"}
    if "dp" in privacy:
        aggregation["weighting"] = "uniform"
    with RealFederation(folder, privacy=privacy, aggregation=aggregation) as federation:
        for site in SITES:
            if "secure_aggregation" in privacy:
                set_peers(federation, site)
            if "dp" in privacy:
                place_secret(federation.state(site))
                federation.fill_in(site, policy={"max_epsilon": 100})
        federation.start_all()
        yield federation


def set_peers(real: RealFederation, site: str, **wrong: str) -> None:
    """Let the engineer of a site write the keys of the others, as they were read out to him."""
    keys = {s: read_key(real.site_kit(s) / "site.key", openssh=True) for s in SITES if s != site}
    peers = {name: fingerprint(key.public_key()) for name, key in keys.items()}
    real.fill_in(site, policy={"secure_aggregation": True, "peers": peers | wrong})


def place_secret(state: Path) -> None:
    """Give a site its secret before it makes one."""
    state.mkdir(parents=True, exist_ok=True)
    (state / LEDGER).touch(0o600)
    (state / "dp.secret").touch(0o600)
    (state / "dp.secret").write_bytes(SECRET)


def expected_private(
    real: RealFederation, name: str, out: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The run `name` in this process, with the same secret at each site and the same run id."""
    run = read_json(real.folder / name / "release" / "release.json")["run"]
    monkeypatch.setattr(server_federation.secrets, "token_hex", lambda n: run)
    monkeypatch.setattr(account.secrets, "token_bytes", lambda n: SECRET)
    return expected(real, out)
