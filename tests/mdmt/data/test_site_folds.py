"""A fold as a file, and a site that reads it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from cli_builders import patients, table_site, write_rows

from mdmt.config import SiteConfig
from mdmt.data.readers import read_manifest
from mdmt.data.splits import divide, write_division
from mdmt.errors import DataError


@pytest.fixture
def site(tmp_path, make_config):
    write_rows(tmp_path / "hospital", patients(8))
    config = make_config(sites={"hospital": table_site(tmp_path / "hospital", "prognosis")})
    return config.sites["hospital"]


def with_fold(site: SiteConfig, file):
    return site.model_copy(update={"fold": file})


def test_a_site_reads_the_division_that_was_written(site, tmp_path):
    manifest = read_manifest(site, 0)
    splits = np.array(["test", "unused", "val", "train", "train", "test", "unused", "val"])
    write_division(tmp_path / "fold.csv", replace(manifest, splits=splits))
    divided = read_manifest(with_fold(site, tmp_path / "fold.csv"), 0)
    assert divided.splits.tolist() == splits.tolist()
    assert divided.images == manifest.images  # and so the image cache is the same
    assert divided.indices("test").tolist() == [0, 5]


def test_a_site_reads_the_labels_that_a_control_shuffled(site, tmp_path):
    manifest = read_manifest(site, 0)
    file, origins = tmp_path / "fold.csv", np.array([1, 0, 3, 2, 4, 5, 6, 7])
    write_division(file, manifest, ("prognosis", origins))
    divided = read_manifest(with_fold(site, file), 0)
    before, after = (one.targets["prognosis"][:, 0].tolist() for one in (manifest, divided))
    assert after == [before[origin] for origin in origins]
    assert after[:4] == [1 - label for label in before[:4]]
    assert divided.splits.tolist() == manifest.splits.tolist()
    file.write_text(file.read_text().replace(",labels.csv:3\n", ",labels.csv:99\n"))
    with pytest.raises(DataError, match="labels of prognosis from: it was written for other data"):
        read_manifest(with_fold(site, file), 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is not a file of rows and their splits"),
        ("row,split,extra\nlabels.csv:2,train,1\n", "is not a file of rows and their splits"),
        ("row,split\nlabels.csv:2,training\n", "expected columns row and split, one of train"),
        ("image,split\nlabels.csv:2,train\n", "expected columns row and split"),
        ("row,split\nlabels.csv:2,train\n", "no split for labels.csv:3: it was written for other"),
    ],
)
def test_a_file_that_does_not_divide_these_images_is_refused(site, tmp_path, content, message):
    file = tmp_path / "fold.csv"
    file.write_text(content)
    with pytest.raises(DataError, match=message):
        divide(read_manifest(site, 0), file)


def test_a_file_that_is_not_there_is_refused(site, tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.csv"):
        read_manifest(with_fold(site, tmp_path / "nowhere.csv"), 0)
