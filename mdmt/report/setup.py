"""What was run: sites with their data, versions, configuration."""

from collections.abc import Mapping
from typing import Any

import yaml

from mdmt.data.manifest import SPLITS
from mdmt.report.page import Block, Details, Table
from mdmt.report.words import reported, without_paths
from mdmt.results.runs import count_labels

_FINGERPRINT = (
    "The fingerprint is a hash of the preprocessed images and their labels: equal data, equal"
    " fingerprint."
)


def site_table(sites: Mapping[str, Mapping[str, Any]]) -> Table:
    """A row per site and task, from the sites' cards: images, labels and data fingerprints."""
    rows = []
    for name, card in sorted(sites.items()):
        images = [reported(card["images"].get(split, 0)) for split in SPLITS]
        for task in card["tasks"]:
            labels = [reported(card["counts"][task].get(split, 0)) for split in SPLITS]
            classes = label_counts(card["histogram"].get(task, {}))
            rows.append([name, task, *images, *labels, classes, card["data"]])
    splits = [f"{what},\n{split}" for what in ("images", "labels") for split in SPLITS]
    return Table(
        "Data of each site",
        ["site", "task", *splits, "training labels", "data fingerprint"],
        rows,
        note=f"A label is one value: an image scored in six zones has six. {_FINGERPRINT}",
        words=frozenset({1, 8, 9}),
    )


def fold_blocks(data: Mapping[str, Any]) -> list[Block]:
    """Tables of a study's sites, and of the splits of each fold.

    Parameters
    ----------
    data : mapping
        An entry of ``data`` in ``study.json``: ``seeds``, ``sites``, ``folds``.
    """
    several = "seeds" if len(data["seeds"]) > 1 else "seed"
    seeds = f"{several} {', '.join(map(str, data['seeds']))}"
    sites = Table(
        f"Data of each site, {seeds}",
        ["site", "task", "images", "patients", "labels", "data fingerprint"],
        [
            [name, task, *_numbers(site), label_counts(labels), site["data"]]
            for name, site in sorted(data["sites"].items())
            for task, labels in site["labels"].items()
        ],
        note=_FINGERPRINT,
        words=frozenset({1, 4, 5}),
    )
    folds = Table(
        f"Images, patients and labels of each fold, {seeds}",
        ["fold", "site", "task", "split", "images", "patients", "labels"],
        [
            [fold["fold"], site, task, split, *_numbers(part), label_counts(labels)]
            for fold in data["folds"]
            for site, splits in sorted(fold["sites"].items())
            for split, part in splits.items()
            for task, labels in part["labels"].items()
        ],
        words=frozenset({1, 2, 3, 6}),
    )
    return [sites, Details("Every fold", [folds])]


def _numbers(part: Mapping[str, Any]) -> list[str]:
    return [f"{part['images']:,}", f"{part['patients']:,}"]


def label_counts(histogram: Mapping[str, Mapping[str, int] | None]) -> str:
    """Write the number of labels of each class, over all outputs."""
    totals = count_labels(histogram) or {}
    return ", ".join(f"{label}: {number}" for label, number in totals.items()) or "-"


def versions_paragraph(versions: Mapping[str, str]) -> list[Block]:
    """List the versions in a sentence, if any are known."""
    if not versions:
        return []
    return ["Versions: " + ", ".join(f"{k} {v}" for k, v in versions.items()) + "."]


def config_blocks(config: Mapping[str, Any]) -> list[Block]:
    """The whole configuration as YAML, without the places of files."""
    text = yaml.safe_dump(without_paths(dict(config)), sort_keys=False, allow_unicode=True)
    return [Details("Configuration", text=text)]
