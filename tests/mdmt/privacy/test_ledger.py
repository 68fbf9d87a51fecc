"""The ledger and the secret of a site."""

from __future__ import annotations

import hashlib
import multiprocessing
import os

import numpy as np
import pytest
import torch
from builders import synthetic_site
from pydantic import TypeAdapter, ValidationError

from mdmt.config import SiteConfig
from mdmt.errors import PolicyError, StateError
from mdmt.privacy import ledger as ledgers
from mdmt.privacy.account import PrivacyAccount, site_secret, tensor_hash
from mdmt.privacy.accounting import Mechanism, epsilon
from mdmt.privacy.ledger import open_ledger
from mdmt.strict import Name

STEPS = Mechanism(0.1, 1.0, 10)


@pytest.fixture
def site(tmp_path):
    """A site with its own state folder and a policy."""

    def build(**policy):
        space = {"kind": "classification", "classes": ["MILD", "SEVERE"]}
        keys = synthetic_site(tmp_path, "prognosis") | {"tasks": {"prognosis": space}}
        options = {"name": "a", "state_dir": str(tmp_path / "state"), "policy": policy}
        return SiteConfig.model_validate(keys | options)

    return build


def spend(site, order="order", mechanism=STEPS, data="data", start="start"):
    return PrivacyAccount(site, order, "recipe").spend(mechanism, data, start)


def lines(site):
    return open_ledger(site).path.read_bytes().splitlines()


def test_each_training_is_a_line_that_names_the_line_before(site):
    for order in ("one", "two"):
        spend(site(), order)
    entries = open_ledger(site()).entries()
    assert [entry.order for entry in entries] == ["one", "two"]
    assert [entry.mechanism for entry in entries] == [STEPS, STEPS]
    assert entries[0].previous == "0" * 64
    assert entries[1].previous == hashlib.sha256(lines(site())[0]).hexdigest()


def test_the_line_is_on_the_disk_before_training_can_start(site, monkeypatch):
    synced = []
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_size) or sync(fd))
    spend(site())
    assert synced[-1] == len(lines(site())[0]) + 1


def test_the_same_training_costs_once_and_gives_the_same_numbers(site):
    first, again = spend(site()), spend(site())
    assert len(lines(site())) == 1
    assert first == again


@pytest.mark.parametrize("other", [{"order": "x"}, {"data": "x"}, {"start": "x"}])
def test_another_order_or_data_or_start_is_charged_and_has_other_numbers(site, other):
    """The same noise under two different gradients would cancel in their difference."""
    first, second = spend(site()), spend(site(), **other)
    assert len(lines(site())) == 2
    assert first.identity != second.identity


def test_a_new_secret_is_a_new_training(site):
    spend(site())
    (site().state_root / "dp.secret").write_bytes(bytes(32))
    spend(site())
    assert len(lines(site())) == 2


def test_a_placed_secret_gives_known_numbers(site, tmp_path):
    found = []
    for name in ("one", "two"):
        own = site().model_copy(update={"state_dir": tmp_path / name})
        own.state_root.mkdir()
        (own.state_root / "dp.ledger.jsonl").touch()
        (own.state_root / "dp.secret").touch(0o600)
        (own.state_root / "dp.secret").write_bytes(bytes(range(32)))
        found.append(spend(own).stream(3, "noise").normals(5))
    assert np.array_equal(*found)


def test_the_budget_holds_over_all_orders(site):
    limit = epsilon([STEPS._replace(steps=25)], 1e-5)
    capped = site(max_epsilon=limit)
    spend(capped, "one")
    spend(capped, "two")
    with pytest.raises(PolicyError, match=r"^policy: max_epsilon allows .* over all federations"):
        spend(capped, "three")
    assert len(lines(capped)) == 2
    spend(capped, "two")  # it was paid


def test_a_smaller_delta_spends_more(site):
    limit = epsilon([STEPS], 1e-5) + 0.01
    with pytest.raises(PolicyError, match="max_epsilon"):
        spend(site(max_epsilon=limit, delta=1e-8))
    spend(site(max_epsilon=limit, delta=1e-5))


def test_noise_too_small_for_any_bound_is_refused(site):
    with pytest.raises(PolicyError, match="max_epsilon"):
        spend(site(max_epsilon=1e6), mechanism=Mechanism(1.0, 1e-160, 1))


def _torn(data):
    return data[:-10]


def _changed(data):
    return data.replace(b'"steps":10', b'"steps":1', 1)


def _reordered(data):
    first, second = data.splitlines(keepends=True)
    return second + first


def _removed(data):
    return data.splitlines(keepends=True)[1]


def _unreadable(data):
    return b"\xff\n" + data


@pytest.mark.parametrize("damage", [_torn, _changed, _reordered, _removed, _unreadable])
def test_a_damaged_ledger_is_refused_and_stays_as_it_is(site, damage):
    spend(site(), "one")
    spend(site(), "two")
    path = open_ledger(site()).path
    path.write_bytes(damage(path.read_bytes()))
    before = path.read_bytes()
    with pytest.raises(StateError, match=r"dp.ledger.jsonl: line \d is not"):
        spend(site(), "three")
    assert path.read_bytes() == before


def test_a_missing_ledger_is_refused(site):
    spend(site())
    open_ledger(site()).path.unlink()
    with pytest.raises(StateError, match="is missing: restore it"):
        spend(site(), "two")


def test_a_line_that_does_not_fit_on_the_disk_leaves_nothing(site, monkeypatch):
    spend(site(), "one")
    before = open_ledger(site()).path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ledgers.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        spend(site(), "two")
    assert open_ledger(site()).path.read_bytes() == before


def test_the_secret_is_made_once_and_only_the_owner_can_read_it(site):
    folder = site().state_root
    secret = site_secret(folder)
    assert len(secret) == 32
    assert site_secret(folder) == secret
    assert {f.name: f.stat().st_mode & 0o777 for f in folder.iterdir()} == {
        "dp.secret": 0o600,
        "dp.ledger.jsonl": 0o600,
    }


@pytest.mark.parametrize(("change", "message"), [("mode", "other users"), ("size", "has 5 bytes")])
def test_a_bad_secret_is_refused(site, change, message):
    site_secret(site().state_root)
    path = site().state_root / "dp.secret"
    if change == "mode":
        path.chmod(0o644)
    else:
        path.write_bytes(b"short")
    with pytest.raises(StateError, match=message):
        spend(site())


def test_two_processes_write_one_line_each(site):
    spend(site(), "first")
    context = multiprocessing.get_context("fork")
    workers = [
        context.Process(target=spend, args=(site(), f"order {number}")) for number in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(open_ledger(site()).entries()) == 5


def test_tensors_are_told_apart_by_name_value_shape_and_group():
    a, b = torch.arange(4.0), torch.arange(4.0) + 1
    hashes = [
        tensor_hash({"x": a}),
        tensor_hash({"y": a}),
        tensor_hash({"x": b}),
        tensor_hash({"x": a.view(2, 2)}),
        tensor_hash({"x": a.double()}),
        tensor_hash({"x": a}, {}),
        tensor_hash({}, {"x": a}),
        tensor_hash({"x": a, "n": torch.tensor(3)}),
    ]
    assert len(set(hashes)) == len(hashes)
    assert tensor_hash({"x": a, "y": b}) == tensor_hash({"y": b, "x": a})


def test_no_file_of_the_account_can_be_a_folder_of_a_federation(site):
    """Names of federations have no dot."""
    with pytest.raises(ValidationError):
        TypeAdapter(Name).validate_python(open_ledger(site()).path.name)
