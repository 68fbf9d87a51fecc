"""Fixtures that several rooms share: small federations on synthetic data and on no data at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from builders import federation_dict, synthetic_site
from cli_builders import run_cli

from mdmt.config import FederationConfig
from mdmt.messages import SiteCard

torch.set_num_threads(1)


@pytest.fixture
def make_config() -> Callable[..., FederationConfig]:
    """Builder of configurations."""
    return lambda **changes: FederationConfig.model_validate(federation_dict(**changes))


@pytest.fixture(scope="session", autouse=True)
def _no_sync() -> Iterator[None]:
    """Wait for no disk: no test cuts the power."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of radiographs that many tests read and none changes: they are drawn once."""
    return tmp_path_factory.mktemp("drawn")


@pytest.fixture
def two_sites(drawn: Path) -> dict[str, Any]:
    """Two synthetic sites with different tasks, as a configuration's `sites`."""
    return {
        "clinic": synthetic_site(drawn, "severity"),
        "hospital": synthetic_site(drawn, "prognosis"),
    }


@pytest.fixture
def make_card() -> Callable[..., SiteCard]:
    """Builder of site cards: ``make_card(config, "a", prognosis=30)``, n_{s,t} by task."""

    def make(config: FederationConfig, name: str, **counts: int) -> SiteCard:
        return SiteCard(
            name=name,
            federation=config.hash,
            tasks={task: config.space(task) for task in counts},
            images={"train": 10, "val": 2, "test": 2},
            counts={task: {"train": n, "val": 0, "test": 0} for task, n in counts.items()},
            histogram={},
            data="0" * 16,
            device="cpu",
            versions={},
        )

    return make


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rounds of two synthetic sites, with both references."""
    folder = tmp_path_factory.mktemp("finished")
    sites = {
        "clinic": synthetic_site(folder, "severity", patients=30, test_fraction=0.5),
        "hospital": synthetic_site(folder, "prognosis"),
        "infirmary": synthetic_site(folder, "prognosis"),
    }
    federation = federation_dict(sites=sites, references=["constant", "local"])
    (folder / "federation.yaml").write_text(yaml.safe_dump(federation))
    result = run_cli("simulate", folder / "federation.yaml", "--out", folder / "run")
    assert result.exit_code == 0, result.output
    return folder / "run"


@pytest.fixture(scope="session")
def covid_cxr() -> Path:
    """The real radiographs, used in place."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("MDMT_DATA", default)) / "covid-cxr"
    if not folder.is_dir():
        pytest.skip(f"the real radiographs are not at {folder}; set MDMT_DATA to their parent")
    return folder
