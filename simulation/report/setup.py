"""What was run: sites with their data, versions, configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from mdmt.runs import count_labels
from simulation.report.page import Block, Listing, Paragraph, Table
from simulation.report.words import without_paths

__all__ = ["config_blocks", "site_blocks", "versions_paragraph"]

_SPLITS = ("train", "val", "test")


def site_blocks(sites: Mapping[str, Mapping[str, Any]], versions: Mapping[str, str]) -> list[Block]:
    """Tables of the sites' images, labels and data fingerprints, from their cards; and versions."""
    rows = []
    for name, card in sorted(sites.items()):
        images = [f"{card['images'].get(split, 0):,}" for split in _SPLITS]
        for task in card["tasks"]:
            labels = [f"{card['counts'][task].get(split, 0):,}" for split in _SPLITS]
            totals = count_labels(card["histogram"].get(task, {})).items()
            classes = ", ".join(f"{label}: {number}" for label, number in totals)
            rows.append([name, task, *images, *labels, classes or "-", card["data"]])
    splits = [f"{what},\n{split}" for what in ("images", "labels") for split in _SPLITS]
    table = Table(
        "Data of each site",
        ["site", "task", *splits, "training labels", "data fingerprint"],
        rows,
        note="A label is one value: an image scored in six zones has six. The fingerprint is a hash"
        " of the preprocessed images and their labels: equal data, equal fingerprint.",
        words=frozenset({1, 8, 9}),
    )
    return [table, *versions_paragraph(versions)]


def versions_paragraph(versions: Mapping[str, str]) -> list[Block]:
    """List the versions in a sentence, if any are known."""
    if not versions:
        return []
    return [Paragraph("Versions: " + ", ".join(f"{k} {v}" for k, v in versions.items()) + ".")]


def config_blocks(config: Mapping[str, Any]) -> list[Block]:
    """The whole configuration as YAML, without the places of files."""
    text = yaml.safe_dump(without_paths(dict(config)), sort_keys=False, allow_unicode=True)
    return [Listing("Configuration", text)]
