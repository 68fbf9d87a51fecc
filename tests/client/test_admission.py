"""A deployed site runs orders of approved recipes only; for others nothing happens."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import torch
from deployed_site import RUN, Ward, refusal, report, update
from safetensors.torch import save_file

from client.admission import admit
from client.stored_replies import Reply, StoredReplies
from mdmt.blob import unpack
from mdmt.config import Policy
from mdmt.config.model import content_name
from mdmt.errors import PolicyError
from mdmt.messages import (
    LONGEST_ORDER,
    Query,
    TrainOrder,
)
from mdmt.models import build_model
from server.federation import initial_arrays

# Approved recipes.


def test_a_site_refuses_every_order_of_a_recipe_that_nobody_approved(ward):
    site = ward()
    site.allow(recipes=None)
    why = (
        f"policy: recipes does not list {site.config.hash[:16]}; the engineer of this site must"
        " read and approve it: mdmt site approve"
    )
    assert refusal(site.query()) == f"site ward: {why}"
    assert {refusal(a) for a in (site.train(), site.evaluate(0), site.reference())} == {why}
    assert len(f"site {'n' * 64}: {why}") <= 200, "the server shows 200 characters"
    assert not (site.folder / "cache").exists(), "no data was opened"
    assert [file.name for file in (site.folder / "state").iterdir()] == ["site.log"]


def test_one_approved_recipe_admits_no_other(ward, make_config):
    site = ward()
    assert report(site.query())["federation"] == site.config.hash
    approved, site.config = site.config, make_config(seed=1)
    assert "recipes does not list" in refusal(site.query())
    assert "recipes does not list" in refusal(site.train())
    site.config = approved
    report(site.train())


def test_an_approved_text_that_is_not_canonical_is_refused(make_config, two_sites):
    config = make_config(sites=two_sites)
    recipe = json.dumps(json.loads(config.recipe), indent=1)
    site = config.sites["clinic"]
    listed = hashlib.sha256(recipe.encode()).hexdigest()
    site = site.model_copy(update={"policy": Policy(recipes=(listed,))})
    with pytest.raises(PolicyError, match="not in canonical form"):
        admit(site, Query(recipe=recipe))


def test_a_simulation_needs_no_approval(make_config, two_sites):
    config = make_config(sites=two_sites)
    assert admit(config.sites["clinic"], Query(recipe=config.recipe)) == make_config()


# The content of orders.


@pytest.mark.parametrize(
    "change",
    [
        {"lr_factor": 0.0},
        {"lr_factor": 1.5},
        {"coefficients": {"prognosis": 1.1}},
        {"coefficients": {"prognosis": -0.1}},
        {"coefficients": {f"t{i}": 0.0 for i in range(1001)}},
        {"round": 0},
        {"round": 10**9},
        {"keep": (2, 1)},
        {"keep": (1, 1)},
        {"keep": (-1,)},
        {"keep": tuple(range(2001))},
    ],
)
def test_an_order_has_bounds(change):
    order = {"run": RUN, "round": 1, "recipe": "", "lr_factor": 1.0, "keep": ()}
    TrainOrder.model_validate(order | {"coefficients": {"prognosis": 1.0}})
    with pytest.raises(ValueError, match="validation error"):
        TrainOrder.model_validate(order | {"coefficients": {"prognosis": 1.0}} | change)


def test_a_training_order_names_every_task_with_labels(ward):
    reason = "a coefficient for each task of this site that has training labels"
    assert reason in refusal(ward().train(coefficients={}))


def test_a_task_that_the_site_does_not_offer_is_refused(ward):
    reason = refusal(ward().train(coefficients={"prognosis": 0.5, "severity": 0.5}))
    assert "and for no other task; its tasks are prognosis" in reason


def test_a_rate_factor_is_one_that_the_schedule_can_give(ward, make_config):
    site = ward()
    assert "rate factor 0.5 is none" in refusal(site.train(lr_factor=0.5))
    plateau = {"name": "plateau", "gamma": 0.5, "patience": 1}
    training = site.config.training.model_dump() | {"rounds": 3, "scheduler": plateau}
    site.config = make_config(training=training)
    site.allow(recipes=[site.config.hash])
    update(site.train(lr_factor=0.5))
    assert "rate factor 0.3 is none" in refusal(site.train(lr_factor=0.3))
    assert "rate factor 0.0625 is none" in refusal(site.train(lr_factor=0.5**4))


def test_a_round_after_the_last_one_is_refused(ward):
    assert refusal(ward().train(3)) == "the recipe has 2 rounds, the order is for round 3"


def test_an_order_of_four_million_characters_is_not_parsed(ward):
    site = ward()
    order = TrainOrder.model_construct(recipe=" " * LONGEST_ORDER)
    assert "characters, at most" in refusal(site.ask(order, b""))


def test_arrays_larger_than_the_model_are_not_decoded(ward):
    site = ward()
    reason = refusal(site.train(arrays=bytes(10_000_000)))
    assert reason.startswith("the arrays have 10000000 bytes, at most ")


@pytest.mark.parametrize("missing", [True, False])
def test_arrays_other_than_the_broadcast_ones_are_refused(ward, missing):
    """Otherwise a server could set the head of a site, which is not part of the broadcast."""
    site = ward()
    arrays = initial_arrays(site.config)
    if missing:
        arrays.popitem()
    else:
        head = build_model(site.config, ["prognosis"], weights=False).heads
        arrays |= {f"heads.{n}": v.numpy() for n, v in head.state_dict().items()}
    reason = refusal(site.train(arrays=arrays))
    assert reason.startswith("expected the arrays of the backbone: ")
    assert reason.endswith("is missing" if missing else "is not one of them")


def test_threads_are_bounded(ward, make_config):
    with pytest.raises(ValueError, match="threads"):
        make_config(training={"rounds": 1, "threads": 20000})
    site = ward({"max_threads": 2}, training={"rounds": 1, "threads": 3})
    reason = "policy: max_threads allows 2, the federation asks for 3"
    assert refusal(site.query()) == f"site ward: {reason}"
    site = ward(training={"rounds": 1, "threads": 256})
    assert "policy: max_threads allows " in refusal(site.query()), "the CPUs of this machine"


def test_a_cache_beyond_the_limit_is_not_built(ward):
    """20 images of 32² pixels."""
    site = ward({"max_cache": 20 * 32 * 32 / 1e9})
    reason = "policy: max_cache allows 2.048e-05 GB, the images of this federation need more"
    assert refusal(site.query()).startswith(f"site ward: {reason}")
    assert not list((site.folder / "cache").glob("*.pixels"))
    site.allow(max_cache=20 * (32 * 32 + 8) / 1e9)
    report(site.query())


# The first arrays of a run.


def test_a_run_starts_from_the_arrays_of_the_recipe(ward):
    site = ward(references=["constant"])
    assert report(site.train())["round"] == 1
    assert report(site.evaluate(0))["round"] == 0
    assert report(site.reference())["metrics"]["constant"]


@pytest.mark.parametrize("send", [Ward.train, lambda s, arrays: s.evaluate(0, arrays)])
def test_other_first_arrays_are_refused(ward, send):
    site = ward()
    arrays = initial_arrays(site.config)
    name = max(arrays, key=lambda n: arrays[n].size)
    step = np.float32(2e-5) * np.abs(arrays[name]).max()
    crafted = arrays | {name: arrays[name].copy()}
    crafted[name].flat[7] += step
    reason = refusal(send(site, arrays=crafted))
    assert reason.startswith(f"policy: recipes: {name} is not the initial value")
    rounded = arrays | {name: arrays[name].copy()}
    rounded[name].flat[7] += step / 4  # another machine's last digits
    report(send(site, arrays=rounded))


def test_zeros_nan_and_a_reference_from_other_arrays_are_refused(ward):
    site = ward(references=["constant"])
    arrays = initial_arrays(site.config)
    zeros = {name: np.zeros_like(value) for name, value in arrays.items()}
    nothing = {name: np.full_like(value, np.nan) for name, value in arrays.items()}
    for crafted in (zeros, nothing):
        assert "is not the initial value" in refusal(site.train(arrays=crafted))
        assert "is not the initial value" in refusal(site.reference(crafted))


def test_a_later_round_may_start_from_any_arrays(ward):
    """The mean of all sites is not known here."""
    site = ward()
    first = {name: np.array(v) for name, v in unpack(update(site.train())).items()}
    assert report(site.train(2, arrays=first))["round"] == 2


@pytest.mark.parametrize("down", ["float32", "float16"])
def test_first_arrays_that_were_rounded_for_the_wire_are_accepted(ward, down):
    site = ward(wire={"down": down})
    report(site.train())
    arrays = initial_arrays(site.config)
    name = max(arrays, key=lambda n: arrays[n].size)
    crafted = arrays | {name: arrays[name] * np.float32(1.002)}
    assert "is not the initial value" in refusal(site.train(run="1" * 12, arrays=crafted))


def test_weights_of_a_file_are_found_by_their_content(ward, make_config, tmp_path):
    file = tmp_path / "coordinator.safetensors"
    torch.manual_seed(3)
    state = build_model(make_config(seed=9), (), weights=False).backbone.state_dict()
    save_file(state, file)
    model = {"backbone": "test_resnet", "image_size": 32, "weights": str(file)}
    site = ward(model=model)
    reason = refusal(site.train())
    hexdigits = content_name(str(file)).removeprefix("sha256:")
    assert reason == (
        "policy: recipes: the folder weights of this site has no file with the SHA-256 of"
        f" model.weights, {hexdigits[:16]}; mdmt site approve copies it there"
    )
    assert len(reason) <= 200
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "other.safetensors").write_bytes(b"")
    (tmp_path / "weights" / f"{hexdigits}.safetensors").write_bytes(file.read_bytes())
    report(site.train())


def test_a_site_that_cannot_load_the_weights_says_which(ward, make_config, monkeypatch):
    def offline(config):
        raise OSError("no network")

    model = {"backbone": "test_resnet.r160_in1k", "image_size": 32, "weights": "timm"}
    site = ward(model=model)
    arrays = initial_arrays(
        site.config.model_copy(
            update={"model": site.config.model.model_copy(update={"weights": "none"})}
        )
    )
    monkeypatch.setattr("mdmt.models.weights.pretrained_state", offline)
    assert refusal(site.train(arrays=arrays)) == (
        "policy: recipes: this site cannot build the initial weights of the recipe"
        " (model.weights: timm); its own log says more"
    )
    assert "cannot be downloaded" in (site.folder / "state" / "site.log").read_text()


# Repeated orders.


def test_an_identical_order_gets_the_stored_reply(ward, monkeypatch):
    site = ward()
    first = site.train()
    monkeypatch.setattr("client.site.Site.train", lambda *_: pytest.fail("it trained again"))
    again = site.train()
    assert report(again) == report(first), "with the seconds of the first answer"
    assert update(again) == update(first)
    files = list((site.folder / "state" / "replies").iterdir())
    assert [file.stat().st_mode & 0o777 for file in files] == [0o600]


def test_a_reply_survives_a_restart_but_not_the_next_order(ward):
    site = ward()
    first = update(site.train())
    arrays = {name: np.array(v) for name, v in unpack(first).items()}
    second = update(site.train(2, arrays=arrays))
    assert second != first
    (file,) = (site.folder / "state" / "replies").iterdir()
    assert file.name.startswith("train-"), "an update is large: one is kept"
    assert update(site.train(2, arrays=arrays)) == second


def test_a_final_test_is_kept_whole(ward):
    site = ward()
    arrays = {n: np.array(v) for n, v in unpack(update(site.train())).items()}
    tested = [report(site.evaluate(1, arrays)), report(site.evaluate(0))]
    stored = site.folder / "state" / "replies"
    assert len(list(stored.glob("evaluate-*"))) == 2
    assert [report(site.evaluate(1, arrays)), report(site.evaluate(0))] == tested


def test_the_oldest_replies_are_dropped(tmp_path):
    stored = StoredReplies(tmp_path)
    for number in range(20):
        stored.keep("evaluate", f"{number:064x}", Reply(f"report {number}"))
        stored.keep("train", f"{number:064x}", Reply("report", bytes([number])))
    assert len(list(tmp_path.glob("evaluate-*"))) == 16
    assert stored.find("evaluate", f"{3:064x}") is None
    assert stored.find("evaluate", f"{4:064x}") == Reply("report 4")
    assert stored.find("train", f"{18:064x}") is None
    assert stored.find("train", f"{19:064x}") == Reply("report", b"\x13")


def test_a_damaged_reply_is_not_sent(ward):
    site = ward()
    update(site.train())
    (file,) = (site.folder / "state" / "replies").iterdir()
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert refusal(site.train()) == "DamagedError at the site; its own log says more"
    file.unlink()
    update(site.train())


def test_a_stored_reply_is_not_sent_when_the_approval_was_withdrawn(ward):
    site = ward()
    update(site.train())
    site.allow(recipes=[])
    assert "recipes does not list" in refusal(site.train())


def test_errors_and_cards_are_not_stored(ward):
    site = ward()
    report(site.query())
    refusal(site.train(coefficients={}))
    assert not (site.folder / "state" / "replies").exists()


def test_a_simulation_stores_no_reply(finished_run):
    assert list(finished_run.rglob("round-*.safetensors"))
    assert not list(finished_run.rglob("*.reply"))
