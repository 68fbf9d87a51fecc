"""A federation's file, and a place for its kits."""

from __future__ import annotations

import pytest
from kit_builders import FEDERATION


@pytest.fixture
def source(tmp_path):
    file = tmp_path / "federation.yaml"
    file.write_text(FEDERATION)
    return file


@pytest.fixture
def kits(tmp_path):
    return tmp_path / "kits"
