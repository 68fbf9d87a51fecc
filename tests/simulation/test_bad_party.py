"""One bad site: what it does to the mean, and what the robust rules and the bound leave.

The honest sites learn which half of an image is bright. The head is shared, so that labels of one
site matter to the others.
"""

from __future__ import annotations

import csv
import json
from functools import partial

import numpy as np
import pytest
from builders import PROGNOSIS
from flwr.app import Array, ArrayRecord, MessageType
from PIL import Image

from mdmt import evaluation
from mdmt.blob import BLOB, pack, unpack
from mdmt.errors import RunError

BAD = "z"
"""Name of the bad site, the last one."""


@pytest.fixture(autouse=True)
def no_intervals(monkeypatch):
    """Intervals would take half of the time and are not read here."""
    monkeypatch.setattr(evaluation, "bootstrap_interval", lambda *args, **options: (None, None))


def write_halves(root, n, seed):
    """Images with a bright left (MILD) or right half, and noise."""
    (root / "images").mkdir(parents=True)
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(n):
        side = number % 2
        pixels = rng.normal(90, 30, (32, 32))
        pixels[:, 16 * side : 16 * (side + 1)] += 60
        file = root / "images" / f"{number}.png"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file)
        split = ("train", "train", "train", "train", "val", "val", "test", "test")[number % 8]
        rows.append({"image": f"images/{number}.png", "split": split, "side": "LR"[side]})
    with (root / "labels.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="module")
def sites(tmp_path_factory):
    """Function: honest sites and the bad one, which may have its labels flipped and more images."""
    home = tmp_path_factory.mktemp("halves")
    for number, name in enumerate(("a", "b", "c", "d", BAD)):
        write_halves(home / name, 48, number)
    write_halves(home / "flipped", 240, 5)

    def site(folder):
        meaning = ("SEVERE", "MILD") if folder == "flipped" else ("MILD", "SEVERE")
        return {
            "dataset": {"kind": "table", "root": str(home / folder), "split": "split"},
            "tasks": {
                "prognosis": {"columns": "side", "values": dict(zip("LR", meaning, strict=True))}
            },
            "cache_dir": str(home / "cache"),
            "device": "cpu",
            "workers": 0,
        }

    return lambda honest, flipped: {
        **{name: site(name) for name in honest},
        BAD: site("flipped" if flipped else BAD),
    }


def changed(message, reply, change):
    """A training reply with other arrays: `change` gets the sent and the trained ones."""
    sent = unpack(message.content.array_records["arrays"][BLOB].data)
    trained = unpack(reply.content.array_records["arrays"][BLOB].data)
    blob = pack({n: change(n, sent[n], a).astype(a.dtype) for n, a in trained.items()})
    reply.content["arrays"] = ArrayRecord({BLOB: Array("uint8", (len(blob),), BLOB, blob)})
    return reply


def boost(name, sent, trained):
    return trained if ".running_" in name else sent + 20 * (trained - sent)


def huge(name, sent, trained):
    return np.where(np.arange(trained.size).reshape(trained.shape) == 0, 9e5, trained)


ATTACKS = {"boost": boost, "huge": huge, "flip": None}
EACH = ["boost", "huge", pytest.param("flip", marks=pytest.mark.slow)]


def honest_accuracy(
    federate, sites, make_config, attack, honest="abc", steps=(3, 0.006), **options
):
    """Mean test accuracy of the honest sites, and the reasons of refused updates.

    `steps` are the number of rounds and the learning rate.
    """
    change = ATTACKS.get(attack)

    def tamper(number, message, reply):
        train = message.metadata.message_type == MessageType.TRAIN
        # An error: it was sent a model that gives no finite number.
        if number != len(honest) or not train or change is None or reply.has_error():
            return reply
        return changed(message, reply, change)

    aggregation = {"heads": "shared", "norm_bound": None} | options.pop("aggregation", {})
    # A flip hides among the others: it takes small steps and more rounds to see who wins.
    rounds, rate = (8, 0.001) if attack == "flip" else steps
    config = make_config(
        tasks={"prognosis": dict(PROGNOSIS)},
        training={
            "rounds": rounds,
            "local_steps": 4,
            "batch_size": 16,
            "optimizer": {"name": "adam", "lr": rate},
        },
        augmentation={"p": 0},
        sites=sites(honest, attack == "flip"),
        aggregation=aggregation,
        **options,
    )
    try:
        out = federate(config, tamper)
    except RunError as error:
        return 0.0, [str(error)]
    last = json.loads((out / "metrics.json").read_text())["checkpoints"]["last"]["sites"]
    found = [last[name]["test"]["prognosis/accuracy"] for name in honest]
    history = [json.loads(line) for line in (out / "history.jsonl").open()]
    return float(np.mean(found)), [why for line in history for why in line["refusals"].values()]


@pytest.fixture
def accuracy(federate, sites, make_config):
    return partial(honest_accuracy, federate, sites, make_config)


def test_without_an_attack_the_sites_learn_it(accuracy):
    assert accuracy("none")[0] > 0.95


@pytest.mark.parametrize("attack", EACH)
def test_the_mean_is_harmed(accuracy, attack):
    assert accuracy(attack)[0] < 0.7


@pytest.mark.parametrize(("rule", "honest"), [("median", "abc"), ("trimmed_mean", "abcd")])
@pytest.mark.parametrize("attack", EACH)
def test_a_robust_rule_is_not(accuracy, attack, rule, honest):
    """Of four values, the mean without one at each end is the median; of five it is not."""
    assert accuracy(attack, honest, algorithm=rule)[0] > 0.95


@pytest.mark.parametrize("attack", ["boost", "huge"])
def test_the_default_bound_refuses_it_by_name(accuracy, attack):
    found, reasons = accuracy(attack, steps=(5, 0.003), aggregation={"norm_bound": 15.0})
    assert found > 0.95
    assert len(reasons) == 5
    assert all("aggregation.norm_bound 15 allows" in reason for reason in reasons)
