"""Federations as files, and one finished run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from builders import federation_dict, synthetic_site
from cli_builders import run_cli


@pytest.fixture
def write_federation(tmp_path: Path) -> Callable[..., Path]:
    """Write a federation's YAML; without `sites` it has one of each task."""

    def write(**changes: Any) -> Path:
        file = tmp_path / "federation.yaml"
        file.write_text(yaml.safe_dump(federation_dict(**changes)))
        return file

    return write


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rounds of two synthetic sites, with both references."""
    folder = tmp_path_factory.mktemp("finished")
    sites = {
        "clinic": synthetic_site(folder, "severity"),
        "hospital": synthetic_site(folder, "prognosis"),
        "infirmary": synthetic_site(folder, "prognosis"),
    }
    federation = federation_dict(sites=sites, references=["constant", "local"])
    (folder / "federation.yaml").write_text(yaml.safe_dump(federation))
    result = run_cli("simulate", folder / "federation.yaml", "--out", folder / "run")
    assert result.exit_code == 0, result.output
    return folder / "run"
