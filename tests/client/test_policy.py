"""Every key of a site's policy admits at its limit, refuses beyond it, and before anything runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from builders import federation_dict
from flwr.app import Context, RecordDict

from client.app import app
from client.policy import cap_memory, check_app, check_data, check_order, check_upload
from client.privacy_filter import reported_metrics, site_card, train_report
from mdmt.config import Policy, SiteConfig, load_site
from mdmt.data.cohort import Cohort
from mdmt.data.manifest import Manifest
from mdmt.errors import ConfigError, PolicyError
from mdmt.messages import LONGEST_REPORT, EvaluateOrder, Query, TrainOrder
from mdmt.training import TrainingResult

NAN = float("nan")
NOTHING = TrainOrder(run="0" * 12, round=1, recipe="", coefficients={}, lr_factor=1.0, keep=())


def make_cohort(**targets: list[list[float]]) -> Cohort:
    """As many training images as each task has rows of targets, and as many again for val."""
    n = len(next(iter(targets.values())))
    manifest = Manifest(
        images=(Path("x.png"),) * 2 * n,
        rows=("labels.csv:2",) * 2 * n,
        patients=np.array([f"p{i}" for i in range(2 * n)]),
        splits=np.array(["train"] * n + ["val"] * n),
        targets={task: np.array(rows * 2, np.float32) for task, rows in targets.items()},
        masks=(None,) * 2 * n,
    )
    return Cohort(manifest, np.zeros((2 * n, 4, 4), np.uint8))


@pytest.fixture
def make_site(make_config):
    """A site with a dataset that does not exist, and that policy."""

    def make(*tasks: str, **policy) -> SiteConfig:
        site = {
            "dataset": {"kind": "table", "root": "/nowhere"},
            "tasks": {task: {} for task in tasks or ("prognosis",)},
            "policy": policy,
            "device": "cpu",
        }
        return make_config(sites={"ward": site}).sites["ward"]

    return make


@pytest.mark.parametrize(
    ("policy", "admitted", "refused", "reason"),
    [
        (
            {"federations": ["other", "test"]},
            {},
            {"name": "covid"},
            "policy: federations does not list 'covid'",
        ),
        (
            {"backbones": ["test_resnet"]},
            {},
            {"model": {"backbone": "resnet\x1b18"}},
            "policy: backbones does not list 'resnet\\x1b18'",
        ),
        (
            {"max_rounds": 10},
            {"training": {"rounds": 10}},
            {"training": {"rounds": 20}},
            "policy: max_rounds allows 10, the federation asks for 20",
        ),
        (
            {"max_local_epochs": 2},
            {"training": {"rounds": 1, "local_epochs": 2}},
            {"training": {"rounds": 1, "local_epochs": 3}},
            "policy: max_local_epochs allows 2, the federation asks for 3",
        ),
        (
            {"max_local_epochs": 0.5},
            {"training": {"rounds": 1, "local_steps": 1}},
            {"training": {"rounds": 1}},  # one epoch
            "policy: max_local_epochs allows 0.5, the federation asks for 1",
        ),
    ],
)
def test_recipe(make_config, policy, admitted, refused, reason):
    check_order(Policy(**policy), make_config(**admitted))
    check_order(Policy(), make_config(**refused))
    with pytest.raises(PolicyError) as error:
        check_order(Policy(**policy), make_config(**refused))
    assert str(error.value) == reason


def test_a_round_beyond_the_recipe_is_refused(make_config):
    check_order(Policy(), make_config(), round_number=2)
    with pytest.raises(PolicyError, match="the recipe has 2 rounds, the order is for round 3"):
        check_order(Policy(), make_config(), round_number=3)


def test_a_task_that_is_not_offered_cannot_be_ordered(make_config):
    policy = Policy(tasks=("severity",))
    check_order(policy, make_config(), tasks=["severity"])
    with pytest.raises(PolicyError, match="tasks does not list 'prognosis'"):
        check_order(policy, make_config(), tasks=["severity", "prognosis"])


def test_too_few_examples_refuse_the_site_and_are_withheld(make_config):
    cohort = make_cohort(prognosis=[[0], [1], [NAN]])
    check_data(Policy(min_examples=2), make_config(), cohort, ["prognosis"])
    with pytest.raises(PolicyError) as error:
        check_data(Policy(min_examples=3), make_config(), cohort, ["prognosis"])
    assert str(error.value) == (
        "policy: min_examples asks for 3 labelled training images of a task, prognosis has fewer"
    )


def test_local_steps_are_bounded_like_epochs(make_config):
    """10 images in batches of 4 are 3 steps an epoch."""
    cohort = make_cohort(prognosis=[[0]] * 10)
    policy = Policy(max_local_epochs=2)
    training = {"rounds": 1, "batch_size": 4}
    at_limit = make_config(training=training | {"local_steps": 6})
    check_data(policy, at_limit, cohort, ["prognosis"])
    beyond = make_config(training=training | {"local_steps": 7})
    check_data(Policy(), beyond, cohort, ["prognosis"])
    with pytest.raises(PolicyError) as error:
        check_data(policy, beyond, cohort, ["prognosis"])
    assert str(error.value) == (
        "policy: max_local_epochs allows 2, the federation asks for more with local_steps 7"
        " of batch_size 4"
    )
    twice = make_config(training=training | {"local_steps": 4}, algorithm="ditto")
    with pytest.raises(PolicyError, match="local_steps 4 of batch_size 4 and algorithm ditto"):
        check_data(policy, twice, cohort, ["prognosis"])


def test_a_message_may_be_as_large_as_max_upload_and_no_larger():
    blob = b"\0" * 999_000
    check_upload(Policy(max_upload=1.0), "x" * 1000, blob)
    with pytest.raises(PolicyError, match="max_upload allows 1 MB, the reply has 1000001 bytes"):
        check_upload(Policy(max_upload=1.0), "x" * 1001, blob)


def test_a_report_may_be_as_large_as_the_server_reads_and_no_larger():
    check_upload(Policy(), "x" * LONGEST_REPORT, b"")
    with pytest.raises(PolicyError, match="the report has 1048577 characters"):
        check_upload(Policy(), "x" * (LONGEST_REPORT + 1), b"")


def test_only_listed_apps_run_and_without_a_list_none():
    known, other = "a" * 64, "b" * 64
    check_app(Policy(apps=(known,)), known)
    for policy in (Policy(apps=(known,)), Policy()):
        with pytest.raises(PolicyError, match=f"apps does not list '{other}'"):
            check_app(policy, other)


@pytest.mark.parametrize(
    "policy",
    [
        {"apps": ["ABC"]},
        {"federations": []},
        {"max_rounds": 0},
        {"max_upload": 0},
        {"tasks": ["severity"]},
        {"max_epochs": 3},
    ],
)
def test_a_policy_that_cannot_be_meant_is_refused(tmp_path, policy):
    file = tmp_path / "site.yaml"
    task = {"kind": "classification", "classes": ["A", "B"]}
    site = {"name": "ward", "dataset": {"kind": "synthetic"}, "tasks": {"outcome": task}}
    file.write_text(yaml.safe_dump(site | {"policy": policy}))
    with pytest.raises(ConfigError, match=r"site\.yaml: policy"):
        load_site(file)


@pytest.mark.parametrize("kind", ["query", "train", "evaluate"])
def test_a_refused_order_opens_and_writes_nothing_and_is_reported_by_name(
    make_config, tmp_path, ask, kind
):
    """The dataset does not exist: who opened it would have noticed."""
    config = make_config(training={"rounds": 20})
    task = federation_dict()["tasks"]["prognosis"]
    site = {
        "name": "ward",
        "dataset": {"kind": "table", "root": str(tmp_path / "nowhere")},
        "tasks": {"prognosis": task},
        "state_dir": str(tmp_path / "state"),
        "cache_dir": str(tmp_path / "cache"),
        "policy": {"max_rounds": 10, "recipes": [config.hash]},
    }
    (tmp_path / "site.yaml").write_text(yaml.safe_dump(site))
    orders = {
        "query": Query(recipe=config.recipe),
        "train": NOTHING.model_copy(update={"recipe": config.recipe}),
        "evaluate": EvaluateOrder(run="0" * 12, round=1, recipe=config.recipe),
    }
    asked = ask(kind, orders[kind].model_dump_json(), w=[1.0])
    context = Context(1, 2, {"site": str(tmp_path / "site.yaml")}, RecordDict(), {})
    answer = app(asked, context)
    reason = "policy: max_rounds allows 10, the federation asks for 20"
    assert answer.error.reason == ("site ward: " if kind == "query" else "") + reason
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["site.log", "site.yaml", "state"]


def test_the_policy_narrows_the_tasks(make_site):
    assert list(make_site("prognosis", "severity").offered) == ["prognosis", "severity"]
    narrowed = make_site("prognosis", "severity", tasks=["severity"])
    assert list(narrowed.offered) == ["severity"]


def test_memory_is_capped():
    code = (
        "import numpy as np\n"
        "from client.policy import cap_memory\n"
        "from mdmt.config import Policy\n"
        "cap_memory(Policy(), 'cpu')\n"
        "np.empty(2 * 10**9, np.uint8)\n"
        "cap_memory(Policy(max_memory=1.5), 'cpu')\n"
        "np.empty(5 * 10**7, np.uint8)\n"
        "try:\n    np.empty(2 * 10**9, np.uint8)\n"
        "except MemoryError:\n    print('capped')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "capped\n", done.stderr


def test_on_a_gpu_the_cap_is_a_share_of_its_memory(monkeypatch):
    set_to = []
    facts = SimpleNamespace(total_memory=8 * 10**9)
    monkeypatch.setattr("mdmt.training.resolve_device", lambda name: torch.device("cuda:1"))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: facts)
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda *to: set_to.append(to)
    )
    cap_memory(Policy(max_memory=2), "cuda:1")
    cap_memory(Policy(max_memory=16), "cuda:1")
    assert set_to == [(0.25, 1), (1.0, 1)]


def test_the_launcher_can_ask_the_policy_without_loading_torch():
    code = (
        "import sys, client.policy, client.deployment.audit;"
        "print({'torch', 'flwr'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


# What is reported. Eight images, seven of them labelled MILD or SEVERE.
LABELS = [[0], [0], [0], [1], [1], [1], [1], [NAN]]


def card(make_config, make_site, cohort, *tasks, **policy):
    return site_card(make_site(*tasks, **policy), make_config(), cohort)


def test_counts_are_reported_from_the_minimum_on(make_config, make_site):
    cohort = make_cohort(prognosis=LABELS)
    reported = card(make_config, make_site, cohort, min_examples_per_metric=7)
    assert reported.counts == {"prognosis": {"train": 7, "val": 7, "test": 0}}
    assert reported.images == {"train": 8, "val": 8, "test": 0}
    reported = card(make_config, make_site, cohort, min_examples_per_metric=8)
    assert reported.counts == {"prognosis": {"train": None, "val": None, "test": 0}}
    # Of eight images and one task, the seven labels would be seven or eight.
    assert reported.images == {"train": None, "val": None, "test": 0}


def test_a_histogram_with_a_small_cell_is_withheld_whole(make_config, make_site):
    cohort = make_cohort(prognosis=LABELS)
    reported = card(make_config, make_site, cohort, min_examples_per_metric=3)
    assert reported.histogram == {"prognosis": {"": {"MILD": 3, "SEVERE": 4}}}
    reported = card(make_config, make_site, cohort, min_examples_per_metric=4)
    assert reported.histogram == {"prognosis": {"": None}}
    assert reported.counts["prognosis"]["train"] == 7


@pytest.mark.parametrize(
    ("policy", "counts"), [({"report_histogram": False}, 7), ({"report_counts": False}, None)]
)
def test_what_the_policy_hides_is_withheld(make_config, make_site, policy, counts):
    reported = card(make_config, make_site, make_cohort(prognosis=LABELS), **policy)
    assert reported.histogram == {"prognosis": {"": None}}
    assert reported.counts["prognosis"] == {"train": counts, "val": counts, "test": 0}
    assert reported.images["train"] == (8 if counts else None)


def test_metrics_are_reported_from_the_minimum_on():
    manifest = make_cohort(prognosis=LABELS).manifest
    metrics = {"prognosis/examples": 7, "prognosis/auroc": 0.5, "prognosis/auroc_low": 0.25}
    assert reported_metrics(Policy(min_examples_per_metric=7), manifest, metrics, "val") == metrics
    reported = reported_metrics(Policy(min_examples_per_metric=8), manifest, metrics, "val")
    assert reported == dict.fromkeys(metrics)
    reported = reported_metrics(Policy(report_counts=False), manifest, metrics, "val")
    assert reported == metrics | {"prognosis/examples": None}


@pytest.mark.parametrize(
    ("policy", "reported"),
    [
        ({}, {"patients": 12, "positives_SEVERE": 3, "negatives_SEVERE": 9}),
        ({"min_examples_per_metric": 3}, {"patients": 12, "positives_SEVERE": 3}),
        ({"min_examples_per_metric": 4}, {"patients": 12, "positives_SEVERE": None}),
        ({"min_patients_per_update": 4}, {"patients": 12, "negatives_SEVERE": None}),
        ({"report_histogram": False}, {"patients": 12, "positives_SEVERE": None}),
        ({"report_counts": False}, {"patients": None, "negatives_SEVERE": None}),
    ],
)
def test_patients_of_a_class_are_withheld_like_a_histogram(policy, reported):
    manifest = make_cohort(prognosis=[[1.0]] * 3 + [[0.0]] * 9).manifest
    counts = {"patients": 12, "positives_SEVERE": 3, "negatives_SEVERE": 9}
    metrics = {f"prognosis/{name}": number for name, number in counts.items()}
    found = reported_metrics(Policy(**policy), manifest, metrics, "val")
    assert found.items() >= {f"prognosis/{name}": n for name, n in reported.items()}.items()


def test_one_output_with_few_labels_hides_the_task():
    """`mae_B` would be the error of a single image, `sum_mae` that of the one complete image."""
    scores = [[1, NAN]] * 4 + [[1, 2]]
    manifest = make_cohort(severity=scores).manifest
    metrics = {"severity/examples": 5, "severity/mae_B": 0.5}
    assert reported_metrics(Policy(min_examples_per_metric=1), manifest, metrics, "val") == metrics
    reported = reported_metrics(Policy(min_examples_per_metric=2), manifest, metrics, "val")
    assert reported == dict.fromkeys(metrics)
    apart = make_cohort(severity=[[1, NAN]] * 3 + [[NAN, 1]] * 3 + [[1, 1]]).manifest
    reported = reported_metrics(Policy(min_examples_per_metric=2), apart, metrics, "val")
    assert reported == dict.fromkeys(metrics)


def test_a_split_without_labels_is_reported_as_such():
    manifest = make_cohort(prognosis=[[NAN], [NAN]]).manifest
    metrics = {"prognosis/examples": 0, "prognosis/auroc": None}
    policy = Policy(min_examples_per_metric=5, report_counts=False)
    assert reported_metrics(policy, manifest, metrics, "val") == metrics


@pytest.mark.parametrize("run", ["/tmp/elsewhere", "../../../other", "", "0" * 13])
def test_a_run_cannot_be_named_so_that_its_heads_lie_elsewhere(run):
    with pytest.raises(ValueError, match="run"):
        TrainOrder.model_validate(NOTHING.model_dump() | {"run": run})
    with pytest.raises(ValueError, match="run"):
        EvaluateOrder(run=run, round=1, recipe="")


@pytest.mark.parametrize(
    ("policy", "loss", "images"),
    [
        ({}, 0.5, 7),
        ({"min_examples_per_metric": 7}, None, 7),
        ({"min_examples_per_metric": 8}, None, None),
        ({"report_counts": False}, None, None),
        ({"report_histogram": False}, None, 7),
    ],
)
def test_a_training_report_tells_no_small_count(make_site, policy, loss, images):
    """A loss is a sum over labels: without the histogram there is no loss either."""
    cohort = make_cohort(prognosis=LABELS)
    result = TrainingResult({"prognosis": 0.5}, images=7, steps=1, moments={})
    report = train_report(
        make_site(**policy), NOTHING, cohort, {}, result, seconds=1.0, new_memory=False
    )
    assert report.losses == {"prognosis": loss}
    assert report.images == images
    assert report.steps == (images and 1)
