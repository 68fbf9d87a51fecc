"""Federations as files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from builders import federation_dict


@pytest.fixture
def write_federation(tmp_path: Path) -> Callable[..., Path]:
    """Write a federation's YAML; without `sites` it has one of each task."""

    def write(**changes: Any) -> Path:
        file = tmp_path / "federation.yaml"
        file.write_text(yaml.safe_dump(federation_dict(**changes)))
        return file

    return write
