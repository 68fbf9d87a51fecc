"""What a site refuses under secure aggregation, and that it answers each round once."""

from __future__ import annotations

import numpy as np
import pytest
from builders import synthetic_site

from client.secure_site import key_statement, open_round, secure_store
from mdmt.blob import pack, unpack
from mdmt.config import SiteConfig
from mdmt.deployment.keys import new_key
from mdmt.errors import DamagedError, PolicyError, RunError, StateError
from mdmt.messages import SecureRound, TrainOrder, TrainReport
from mdmt.privacy.fixed_point import FixedPoint
from mdmt.privacy.metric_sums import METRICS, MetricLayout, from_words
from mdmt.privacy.statements import sign_statement, signer_of
from mdmt.privacy.tables import fixed_point, round_table, transcript

RUN, OTHER_RUN = "0123456789ab", "ba9876543210"
COUNTS = {"a": 10, "b": 20, "c": 30}
NAME = "backbone.weight"
SENT = {NAME: np.linspace(-1, 1, 7, dtype=np.float32), "backbone.scale": np.float32([2])[0:1]}


@pytest.fixture
def config(make_config):
    return make_config(privacy={"secure_aggregation": True}, aggregation={"norm_layers": "frozen"})


class Cohort:
    """Three sites with their states, and the orders of an honest server."""

    def __init__(self, config, tmp_path):
        self.config, self.sent = config, pack(SENT)
        self.sites = {
            name: SiteConfig.model_validate(
                synthetic_site(tmp_path, "prognosis", "severity")
                | {"name": name, "state_dir": str(tmp_path / name)}
                | {"tasks": {t: space(config, t) for t in config.tasks}}
            )
            for name in COUNTS
        }
        self.statements = {name: self.sign(name) for name in COUNTS}

    def sign(self, name, run=RUN):
        counts = {"prognosis": COUNTS[name], "severity": 0}
        return key_statement(self.sites[name], self.config, run, counts, None)

    def order(self, name, number=1, **changes):
        table = changes.pop("table", None) or self.table()
        facts = {
            "run": RUN,
            "round": number,
            "recipe": self.config.recipe,
            "coefficients": table.coefficients[name],
            "lr_factor": 1.0,
            "keep": (),
            "secure": table,
        }
        return TrainOrder.model_validate(facts | changes)

    def table(self, **changes):
        statements = {n: of for n, of in (self.statements | changes).items() if of is not None}
        return round_table(self.config, statements, 1.0)

    def open(self, name, number=1, blob=None, site=None, **changes):
        order = self.order(name, number, **changes)
        return open_round(site or self.sites[name], self.config, order, blob or self.sent)

    def seal(self, name, change, answer=None):
        report = TrainReport(
            site=name,
            round=1,
            validation={"prognosis/examples": 4, "prognosis/loss": 0.5},
            losses={"prognosis": 1.0},
            images=9,
            steps=2,
            seconds=1,
            new_memory=True,
        )
        trained = {n: a + np.float32(change) for n, a in SENT.items()}
        answer = answer or self.open(name)
        return answer.seal(report, trained, self.sent, tuple(SENT), 0.0)


def space(config, task):
    return config.tasks[task].space.model_dump(mode="json")


@pytest.fixture
def cohort(config, tmp_path):
    return Cohort(config, tmp_path)


def test_the_sum_of_three_sites_to_check_by_hand(cohort, config):
    """Weights 1/6, 2/6, 3/6 of updates 0.06, 0.03, -0.02: the mean is 0.01 for every weight."""
    replies = {n: cohort.seal(n, d) for n, d in (("a", 0.06), ("b", 0.03), ("c", -0.02))}
    for report, _ in replies.values():
        assert (report.validation, report.losses, report.images) == ({}, {}, None)
    arrays = [unpack(blob) for _, blob in replies.values()]
    point = fixed_point(cohort.table())
    for name, sent in SENT.items():
        total = sum(found[name].astype(np.uint64) for found in arrays).astype(np.uint32)
        assert point.decode(total, sent) == pytest.approx(sent + 0.01, abs=2e-7)
    numbers = sum(from_words(found[METRICS]) for found in arrays)
    sums = MetricLayout(config, cohort.statements).decode(numbers)
    assert sums.means["prognosis/loss"] == 0.5
    assert sums.supports["prognosis/loss"] == sums.means["prognosis/examples"] == 12
    assert sums.means["severity/loss"] is None
    assert sums.clipped == 0


def test_a_repeat_gets_the_stored_bytes_and_another_transcript_is_refused(cohort):
    first = cohort.seal("a", 0.1)
    assert cohort.open("a").stored() == first
    assert cohort.open("a", keep=(0, 1)).stored() == first  # what a site keeps is not in T
    other = pack({n: a + np.float32(1) for n, a in SENT.items()})
    with pytest.raises(PolicyError, match="round 1 of this run was answered"):
        cohort.open("a", blob=other).stored()
    slower = round_table(cohort.config, cohort.statements, 0.5)
    with pytest.raises(PolicyError, match="a round has one answer"):
        cohort.open("a", table=slower, lr_factor=0.5).stored()
    assert cohort.open("a", number=2).stored() is None


def test_old_answers_are_not_kept_and_not_given_again(cohort):
    for number in (1, 2, 3):
        cohort.seal("a", 0.1, cohort.open("a", number))
    for number in (2, 3):
        assert cohort.open("a", number).stored() is not None
    with pytest.raises(PolicyError, match="the answer of round 1 is not kept"):
        cohort.open("a", 1).stored()


def test_a_damaged_answer_is_not_replaced_by_a_second_one(cohort, tmp_path):
    cohort.seal("a", 0.1)
    (path,) = (tmp_path / "a").rglob("round-00001")
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedError, match="start a new run"):
        cohort.open("a").stored()


def test_a_statement_is_made_once_and_the_key_ends_with_the_run(cohort, tmp_path):
    assert cohort.sign("a") == cohort.statements["a"]
    store = secure_store(cohort.sites["a"], cohort.config, RUN)
    (key,) = (tmp_path / "a").rglob("secure/key")
    assert key.stat().st_mode & 0o777 == 0o600
    answer = cohort.open("a")
    store.end()
    assert not key.exists()
    with pytest.raises(StateError, match="no key of the run"):
        cohort.seal("a", 0.1, answer)
    assert cohort.sign("a") == cohort.statements["a"]  # no second key for this run


def refused(cohort, text, **changes):
    with pytest.raises(PolicyError, match=text):
        cohort.open("a", **changes)


def signed(cohort, site, /, **changes):
    """A valid statement of a site, with other content."""
    facts = {"name": site, "recipe": cohort.config.hash, "run": RUN, "counts": {"prognosis": 9}}
    key = secure_store(cohort.sites[site], cohort.config, RUN).key().public_key()
    return sign_statement(new_key(), key, **facts | changes)


def test_wrong_missing_and_replayed_statements_are_refused(cohort):
    b, table = cohort.statements["b"], cohort.table
    replayed = cohort.sign("b", OTHER_RUN)
    forged = b.model_copy(update={"counts": {"prognosis": 10**6}})
    swapped = b.model_copy(update={"key": "11" * 32})
    for statement, text in (
        (replayed, "of another site, recipe or run"),
        (signed(cohort, "b", recipe="0" * 64), "of another site, recipe or run"),
        (signed(cohort, "b", name="c"), "of another site, recipe or run"),
        (forged, "site b has no valid signature"),
        (swapped, "site b has no valid signature"),
        (b.model_copy(update={"signature": "0" * 192}), "no valid signature"),
        (b.model_copy(update={"signer": "ssh-ed25519 AAAA"}), "no valid signature"),
    ):
        refused(cohort, text, table=table(b=statement))
    refused(cohort, "needs 3 sites, there are 2", table=table(c=None))
    refused(cohort, "of this site is not in the table", table=table(a=signed(cohort, "a")))


def test_one_key_for_two_sites_is_refused(cohort):
    c = signed(cohort, "c")
    key = cohort.statements["b"].key
    same = sign_statement(
        new_key(), _public(key), name="c", recipe=c.recipe, run=RUN, counts=dict(c.counts)
    )
    refused(cohort, "has the key of another site", table=cohort.table(c=same))


def _public(digits):
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

    return X25519PublicKey.from_public_bytes(bytes.fromhex(digits))


def test_the_sites_of_a_run_do_not_change(cohort):
    cohort.open("a")
    refused(cohort, "changed within the run", table=cohort.table(b=signed(cohort, "b")))
    refused(cohort, "changed within the run", table=cohort.table(c=None))


def with_policy(cohort, name, **policy):
    site = cohort.sites[name]
    return site.model_copy(update={"policy": site.policy.model_copy(update=policy)})


def test_only_the_keys_that_the_policy_lists_are_accepted(cohort):
    known = {name: signer_of(cohort.statements[name]) for name in "bc"}
    deployed = {"recipes": (cohort.config.hash,)}
    cohort.open("a", site=with_policy(cohort, "a", peers=known, **deployed))
    wrong = known | {"c": known["b"]}
    for peers in (None, {}, {"b": known["b"]}, wrong):
        site = with_policy(cohort, "a", peers=peers, **deployed)
        refused(cohort, "policy: peers does not list site [bc] with its key", site=site)


def changed(table, **changes):
    return SecureRound.model_validate(table.model_dump() | changes)


def test_a_table_that_does_not_follow_from_the_counts_is_refused(cohort):
    table = cohort.table()
    weights = {"a": {"backbone": 0.5}, "b": {"backbone": 0.25}, "c": {"backbone": 0.25}}
    for bad in (
        changed(table, weights=weights),
        changed(table, weights=table.weights | {"a": {"backbone": 1.0}}),
        changed(table, coefficients=table.coefficients | {"b": {"severity": 1.0}}),
        changed(table, bound=2.0),
        changed(table, exponent=30),
        changed(table, lr_factor=0.1),
    ):
        refused(cohort, "do not follow from the recipe", table=bad)
    refused(cohort, "other coefficients than its table", coefficients={"severity": 1.0})
    refused(cohort, "the order has no table", secure=None)


def test_a_dominating_weight_is_refused(cohort):
    site = with_policy(cohort, "a", max_peer_weight=0.4)
    refused(cohort, r"max_peer_weight allows 0.4, site c has 0.500 of backbone", site=site)


def test_a_table_in_a_federation_without_secure_aggregation_is_refused(cohort, make_config):
    plain = make_config()
    with pytest.raises(PolicyError, match="the recipe has none"):
        open_round(cohort.sites["a"], plain, cohort.order("a"), cohort.sent)
    order = cohort.order("a").model_copy(update={"secure": None})
    assert open_round(cohort.sites["a"], plain, order, cohort.sent) is None


def test_other_arrays_rounds_or_runs_give_other_transcripts(cohort):
    """And so other masks: what a server shows to two sites must be the same, or it gets noise."""
    one = cohort.open("a")
    elsewhere = pack({n: a + np.float32(1e-6) for n, a in SENT.items()})
    two = cohort.open("b", blob=elsewhere)
    assert one.transcript != two.transcript
    assert transcript(cohort.config.hash, RUN, 2, cohort.sent, one.table) != one.transcript
    assert transcript(cohort.config.hash, OTHER_RUN, 1, cohort.sent, one.table) != one.transcript


def test_an_update_that_is_not_finite_is_not_sent(cohort, tmp_path):
    with pytest.raises(RunError, match="backbone"):
        cohort.seal("a", np.nan)
    assert [*(tmp_path / "a").rglob("round-*")] == []


def test_a_site_without_weight_adds_zeros(cohort):
    """Its masks are in the sum all the same, or nothing would cancel."""
    answer = cohort.open("a")
    table = changed(answer.table, weights=answer.table.weights | {"a": {}})
    object.__setattr__(answer, "table", table)
    _, blob = cohort.seal("a", 0.5, answer)
    others = [unpack(cohort.seal(n, 0.0)[1])[NAME] for n in "bc"]
    total = sum(a.astype(np.uint64) for a in (*others, unpack(blob)[NAME])).astype(np.uint32)
    assert total.tolist() == [0] * 7
    assert FixedPoint(3, 1.0, 29).decode(total, SENT[NAME]).tolist() == SENT[NAME].tolist()
