"""Whole federations with differential privacy."""

from __future__ import annotations

import pytest
from builders import synthetic_site
from cli_builders import run_cli
from flwr.app import MessageType

from client.site import Site
from mdmt.blob import BLOB
from mdmt.config import save_config
from mdmt.errors import ConfigError, PolicyError, RunError
from mdmt.files import read_json
from mdmt.messages import EvaluateReport, Query, SiteCard, TrainOrder, TrainReport
from mdmt.privacy.accounting import Mechanism, epsilon
from mdmt.privacy.ledger import open_ledger
from server import federation as server_federation
from simulation.simulate import simulate
from simulation.workers import start_workers

DP = {"noise_multiplier": 1.0, "sample_rate": 0.5}


@pytest.fixture
def private(make_config, drawn):
    def build(policy=None, seed=0, **changes):
        sites = {
            name: synthetic_site(drawn, task, patients=20, seed=seed) | {"policy": policy or {}}
            for name, task in (("clinic", "severity"), ("hospital", "prognosis"))
        }
        keys = {
            "privacy": {"dp": DP},
            "aggregation": {"weighting": "uniform", "norm_layers": "frozen"},
            "sites": sites,
        }
        return make_config(**(keys | changes))

    return build


def place_secrets(out, config):
    """Give every site of a run a secret that a test knows."""
    for number, name in enumerate(config.sites):
        folder = out / "sites" / name
        folder.mkdir(parents=True)
        (folder / "dp.ledger.jsonl").touch()
        (folder / "dp.secret").touch(0o600)
        (folder / "dp.secret").write_bytes(bytes([number]) * 32)


def released(out):
    return {
        file.name: file.read_bytes() for file in (out / "release").iterdir() if "back" in file.name
    }


def test_a_run_ends_with_a_release_a_report_and_its_cost(private, tmp_path):
    config, out = private(), tmp_path / "run"
    simulate(config, out, "inprocess")
    mechanism = Mechanism(0.5, 1.0, 2)
    for name in config.sites:
        site = config.sites[name].model_copy(update={"state_dir": out / "sites" / name})
        assert [e.mechanism for e in open_ledger(site).entries()] == [mechanism, mechanism]
    expected = f"ε = {epsilon([mechanism._replace(steps=4)], 1e-5):.2f} at δ = 1e-05"
    shown, report = run_cli("show", out), run_cli("report", out)
    assert shown.exit_code == report.exit_code == 0, shown.output + report.output
    page = (out / "report.html").read_text()
    for text in (shown.output, page, (out / "release" / "README.md").read_text()):
        assert expected in " ".join(text.split())
    assert "sites withhold validation metrics" in page
    assert "No round is finished yet" not in page
    assert read_json(out / "release" / "release.json")["rounds"] == dict.fromkeys(config.tasks, 2)


def test_nothing_but_the_update_depends_on_training_or_validation_patients(private, federate):
    """Everything that a site says, beside arrays, is the same with other patients."""
    texts = []
    for seed in (0, 1):
        found = []

        def listen(number, message, reply, found=found):
            found.append((message.metadata.message_type, number, _report(message, reply)))
            return reply

        federate(private(seed=seed), listen)
        texts.append(found)
    assert texts[0] == texts[1]
    kinds = {kind for kind, _, _ in texts[0]}
    assert kinds == {MessageType.QUERY, MessageType.TRAIN, MessageType.EVALUATE}


def _report(message, reply):
    """What a site reports, without test metrics, time and versions."""
    text = reply.content.config_records["report"]["json"]
    if message.metadata.message_type == MessageType.QUERY:
        card = SiteCard.model_validate_json(text)
        assert card.data == "withheld"
        assert {n for counts in card.counts.values() for n in counts.values()} == {None}
        return card
    if message.metadata.message_type == MessageType.TRAIN:
        report = TrainReport.model_validate_json(text)
        assert report.validation == {}
        assert set(report.losses.values()) == {None}
        assert report.steps == 2
        return report.model_copy(update={"seconds": 0})
    report = EvaluateReport.model_validate_json(text)
    assert report.metrics["val"] == {}
    return report.model_copy(update={"metrics": {}})


def test_the_same_secrets_give_the_same_bits_in_every_engine(private, tmp_path, monkeypatch):
    """The order is a part of every random number, and the id of the run is a part of the order."""
    monkeypatch.setattr(server_federation.secrets, "token_hex", lambda n: "0" * 2 * n)
    config, results = private(), []
    for name in ("one", "two", "workers", "others"):
        out = tmp_path / name
        if name != "others":
            place_secrets(out, config)
        if name == "workers":
            with start_workers(config, 2) as workers:
                simulate(config, out, "inprocess", workers)
        else:
            simulate(config, out, "inprocess")
        results.append(released(out))
    assert len(results[0]) == 1
    assert results[0] == results[1] == results[2]
    assert results[0] != results[3]


def test_a_repeated_order_costs_nothing_and_gives_the_same_update(private, tmp_path, federate):
    config, orders = private(), []

    def listen(number, message, reply):
        if message.metadata.message_type == MessageType.TRAIN and number == 0:
            sent, back = (m.content.array_records["arrays"][BLOB].data for m in (message, reply))
            orders.append((message.content.config_records["config"]["order"], sent, back))
        return reply

    out = federate(config, listen)
    site = Site(config.sites["clinic"].model_copy(update={"state_dir": out / "sites" / "clinic"}))
    before = open_ledger(site.config).entries()
    text, sent, back = orders[1]
    order = TrainOrder.model_validate_json(text)
    assert site.train(order, sent)[1] == back
    assert open_ledger(site.config).entries() == before
    assert site.train(order.model_copy(update={"lr_factor": 0.5}), sent)[1] != back
    assert len(open_ledger(site.config).entries()) == len(before) + 1


def test_with_secure_aggregation_the_same_secrets_give_the_same_bits(
    private, tmp_path, monkeypatch
):
    """Each run has new keys and masks. They change no random number of a site."""
    monkeypatch.setattr(server_federation.secrets, "token_hex", lambda n: "0" * 2 * n)
    third = {"ward": synthetic_site(tmp_path, "prognosis", "severity", patients=20)}
    config = private(
        sites=private().model_dump(mode="json")["sites"] | third,
        privacy={"dp": DP, "secure_aggregation": True},
    )
    results = []
    for name in ("one", "two", "others"):
        out = tmp_path / name
        if name != "others":
            place_secrets(out, config)
        simulate(config, out, "inprocess")
        results.append(released(out))
    assert results[0] == results[1]
    assert results[0] != results[2]


def test_a_run_stops_where_the_budget_of_a_site_ends(private, federate):
    one_round = epsilon([Mechanism(0.5, 1.0, 2)], 1e-5)
    config = private(policy={"max_epsilon": one_round * 1.05})
    with pytest.raises(RunError, match=r"round 2: .* max_epsilon allows"):
        federate(config)


def test_a_site_with_a_budget_refuses_a_federation_without_privacy(private):
    config = private(policy={"max_epsilon": 8}, privacy={})
    site = Site(config.sites["clinic"])
    with pytest.raises(PolicyError, match="max_epsilon needs a federation"):
        site.card(Query(recipe=config.recipe))


def test_limits_on_passes_count_expected_passes(private):
    """2 steps that each draw half of the patients are one pass."""
    query = Query(recipe=private().recipe)
    for limit in (1, 0.9):
        site = Site(private(policy={"max_local_epochs": limit}).sites["clinic"])
        if limit >= 1:
            site.card(query)
        else:
            with pytest.raises(PolicyError, match="max_local_epochs allows"):
                site.card(query)


def test_normalisation_over_a_batch_ends_a_run_before_its_first_round(private, federate):
    with pytest.raises(ConfigError, match="test_resnet normalises over"):
        federate(private(aggregation={"weighting": "uniform"}))


def test_validate_tells_the_cost_and_refuses_the_backbone(private, tmp_path):
    file = tmp_path / "federation.yaml"
    save_config(private(), file)
    result = run_cli("validate", file)
    cost = epsilon([Mechanism(0.5, 1.0, 4)], 1e-5)
    assert (
        f"ε = {cost:.2f} at δ = 1e-05 for each training patient (4 steps, sampling probability 0.5"
        in result.stdout
    )
    assert result.exit_code == 0, result.output
    save_config(private(aggregation={"weighting": "uniform"}), file)
    result = run_cli("validate", file)
    assert result.exit_code == 2
    assert "error: privacy.dp: test_resnet normalises over" in result.stdout
