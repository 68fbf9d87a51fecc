"""Sites with a policy in whole federations: what they hide, and how the server learns of it."""

from __future__ import annotations

import json

import pytest
from builders import synthetic_site
from cli_builders import run_cli

from mdmt.errors import RegistrationError

UNIFORM = {"weighting": "uniform"}


def with_policy(two_sites, **policy):
    """`two_sites`, where the hospital has that policy."""
    return two_sites | {"hospital": two_sites["hospital"] | {"policy": policy}}


def test_a_federation_in_which_a_site_tells_no_number_runs(make_config, two_sites, federate):
    sites = with_policy(two_sites, min_examples_per_metric=1000, report_counts=False)
    references = ["constant", "local"]
    out = federate(make_config(sites=sites, aggregation=UNIFORM, references=references))
    metrics = json.loads((out / "metrics.json").read_text())
    arms = [metrics["checkpoints"]["last"], *metrics["references"].values()]
    for arm in arms:
        for split in ("val", "test"):
            assert set(arm["sites"]["hospital"][split].values()) == {None}
            assert arm["sites"]["clinic"][split]["severity/mae"] is not None
    # Nobody knows which round of prognosis was best.
    assert set(metrics["checkpoints"]) == {"last", "best:severity"}
    history = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    assert history[1]["sites"]["hospital"]["images"] is None
    assert history[1]["tasks"]["prognosis/auroc"] is None
    shown = run_cli("show", out)
    assert shown.exit_code == 0
    assert "prognosis at hospital: an unreported number of test images" in shown.stdout
    row = next(line for line in shown.stdout.splitlines() if line.startswith("hospital "))
    assert row.split() == ["hospital", "prognosis", "-/-/-", "-/-/-", "-"]
    assert "None" not in shown.stdout
    assert (
        "| hospital | prognosis | withheld | withheld | auroc | withheld |"
        in (out / "release" / "README.md").read_text()
    )


def test_metrics_of_a_site_that_hides_only_its_counts_are_used(make_config, two_sites, federate):
    sites = with_policy(two_sites, report_counts=False)
    out = federate(make_config(sites=sites, aggregation=UNIFORM))
    metrics = json.loads((out / "metrics.json").read_text())
    assert "best:prognosis" in metrics["checkpoints"]
    test = metrics["checkpoints"]["last"]["sites"]["hospital"]["test"]
    assert test["prognosis/examples"] is None
    assert test["prognosis/brier"] is not None


@pytest.mark.parametrize("weighting", ["tasks", "examples"])
@pytest.mark.parametrize("policy", [{"report_counts": False}, {"min_examples_per_metric": 1000}])
def test_counts_that_are_not_told_need_uniform_weighting(
    make_config, two_sites, federate, weighting, policy
):
    sites = with_policy(two_sites, **policy)
    with pytest.raises(
        RegistrationError,
        match=r"hospital: withholds how many labels of the task prognosis it has, which"
        r" needs aggregation\.weighting: uniform",
    ):
        federate(make_config(sites=sites, aggregation={"weighting": weighting}))


def test_the_roll_call_names_the_site_and_the_key_of_its_policy(make_config, two_sites, federate):
    sites = with_policy(two_sites, max_rounds=1)
    with pytest.raises(
        RegistrationError,
        match="site hospital: policy: max_rounds allows 1, the federation asks for 2",
    ):
        federate(make_config(sites=sites))


def test_a_refusal_in_a_round_stands_in_the_history(make_config, two_sites, federate):
    out = federate(make_config(sites=with_policy(two_sites, max_upload=0.5)))
    history = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    for line in history[1:]:
        assert "weight" in line["sites"]["clinic"]
        assert "weight" not in line["sites"].get("hospital", {}), "it may still evaluate"
        reason = line["refusals"]["hospital"]
        assert reason.startswith("policy: max_upload allows 0.5 MB, the reply has ")
    assert "policy: max_upload allows 0.5 MB" in run_cli("show", out).stdout


def test_a_task_outside_the_policy_is_not_offered(make_config, federate, tmp_path):
    site = synthetic_site(tmp_path, "prognosis", "severity") | {"policy": {"tasks": ["severity"]}}
    sites = {"clinic": synthetic_site(tmp_path, "prognosis"), "ward": site}
    out = federate(make_config(sites=sites))
    cards = json.loads((out / "sites.json").read_text())["sites"]
    assert list(cards["ward"]["tasks"]) == list(cards["ward"]["counts"]) == ["severity"]
    metrics = json.loads((out / "metrics.json").read_text())["checkpoints"]["last"]["sites"]
    assert not any(key.startswith("prognosis/") for key in metrics["ward"]["test"])
