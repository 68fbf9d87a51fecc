"""A deployed site that trains a part of the backbone: which frozen arrays it uses."""

from __future__ import annotations

import numpy as np
import pytest
from deployed_site import refusal, report, update

from client import frozen_arrays
from mdmt.blob import describe
from mdmt.frozen import MISSING, FrozenArrays
from mdmt.models import build_model, get_frozen_arrays

MODEL = {"backbone": "test_resnet", "image_size": 32, "trainable": {"last_blocks": 1}}


@pytest.fixture
def site(ward):
    frozen_arrays._HELD.clear()
    return ward(model=MODEL)


@pytest.fixture
def own(site):
    """The frozen arrays of the recipe."""
    model = build_model(site.config, (), weights=False)
    return FrozenArrays(get_frozen_arrays(model, site.config.aggregation))


def other(frozen, by):
    """The same arrays with one number changed by a fraction of the largest one."""
    name = max(frozen.arrays, key=lambda n: frozen.arrays[n].size)
    array = frozen.arrays[name].copy()
    array.flat[7] += np.float32(by) * np.abs(array).max()
    return FrozenArrays({**frozen.arrays, name: array})


def test_a_site_builds_them_from_the_recipe_and_says_so_in_its_card(site, own):
    assert report(site.query())["frozen"] == own.digest
    sent_back = describe(update(site.train(frozen=own.digest)))
    assert sent_back
    assert not sent_back.keys() & own.arrays.keys()


def test_a_site_asks_for_arrays_that_it_cannot_build_and_keeps_them(site, own):
    """The last digits of another machine: accepted, and needed again after a restart."""
    theirs = other(own, 1e-6)
    assert theirs.digest != own.digest
    assert refusal(site.train(frozen=theirs.digest)) == MISSING
    report(site.train(frozen=theirs.digest, sent=theirs.blob))
    frozen_arrays._HELD.clear()
    report(site.train(2, frozen=theirs.digest))


def test_other_arrays_than_those_of_the_recipe_or_the_order_are_refused(site, own):
    theirs = other(own, 1e-3)
    answer = site.train(frozen=theirs.digest, sent=theirs.blob)
    assert "is not the initial value that the recipe gives" in refusal(answer)
    answer = site.train(frozen=own.digest, sent=theirs.blob)
    assert "are others than those that the order names" in refusal(answer)
    few = FrozenArrays(dict(list(own.arrays.items())[1:]))
    assert "are not those of the model" in refusal(site.train(frozen=few.digest, sent=few.blob))
    large = own.blob + bytes(10_000_000)
    assert "at most" in refusal(site.train(frozen=own.digest, sent=large))
    assert not list(site.folder.glob("state/**/frozen-*"))


def test_an_order_names_them_if_there_are_any(site, own, ward):
    assert "must name the frozen arrays" in refusal(site.train())
    assert "must name the frozen arrays" in refusal(ward().train(frozen=own.digest))
