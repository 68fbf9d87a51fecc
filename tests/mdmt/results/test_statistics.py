"""Tests between models: against scipy, a published data set, loops, and the bootstrap."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import ttest_rel, wilcoxon

from mdmt.results.delong import compare_aurocs
from mdmt.results.statistics import compare_pairs, holm, mean_of
from mdmt.tasks.statistics import auroc

OVARIAN = """
3.0 5.8 10 0  3.2 6.3 5 1  3.9 6.8 3 1  2.8 4.8 6 0  3.2 5.8 3 1  0.9 4.0 5 0  2.5 5.7 8 0
1.6 5.6 5 1   3.8 5.7 5 1  3.7 6.7 6 1  3.2 5.4 4 1  3.8 6.6 6 1  4.1 6.6 5 1  3.6 5.7 5 1
4.3 7.0 4 1   3.6 6.7 4 0  2.3 4.4 6 1  4.2 7.6 4 0  4.0 6.6 6 0  3.5 5.8 6 1  3.8 6.8 7 1
3.0 4.7 8 0   4.5 7.4 5 1  3.7 7.4 5 1  3.1 6.6 6 1  4.1 8.2 6 1  4.3 7.0 5 1  4.3 6.5 4 1
3.2 5.1 5 1   2.6 4.7 6 1  3.3 6.8 6 0  1.7 4.0 7 0  3.7 6.1 5 1  3.3 6.3 7 1  4.2 7.7 6 1
3.5 6.2 5 1   2.9 5.7 9 0  2.1 4.8 7 1  2.8 6.2 8 0  4.0 7.0 7 1  3.3 5.7 6 1  3.7 6.9 5 1
3.6 6.6 5 1
"""
"""Albumin, total protein, K-G score and outcome of the patients of DeLong et al. (1988)."""


def ovarian():
    albumin, protein, kg, benefit = np.array(OVARIAN.split(), dtype=float).reshape(-1, 4).T
    return albumin, protein, 10 - kg, benefit == 1


def delong_by_loops(positive, a, b):
    """The formulas of DeLong et al. (1988), section 3, word by word."""
    m, n = positive.sum(), (~positive).sum()
    v10, v01, thetas = [], [], []
    for scores in (a, b):
        psi = np.array(
            [[(x > y) + 0.5 * (x == y) for y in scores[~positive]] for x in scores[positive]]
        )
        v10.append(psi.mean(axis=1))
        v01.append(psi.mean(axis=0))
        thetas.append(psi.mean())
    s = np.cov(v10) / m + np.cov(v01) / n
    return thetas, math.sqrt(s[0, 0] + s[1, 1] - 2 * s[0, 1])


def test_delong_on_its_own_data():
    albumin, _, kg, benefit = ovarian()
    found = compare_aurocs(benefit, kg, albumin)
    thetas, error = delong_by_loops(benefit, kg, albumin)
    assert [found.auroc_a, found.auroc_b] == pytest.approx(thetas)
    assert found.auroc_a == pytest.approx(0.7258, abs=5e-5)
    assert found.error == pytest.approx(error, rel=1e-12)
    assert found.p == pytest.approx(0.9102, abs=5e-5)
    assert found.low < 0 < found.high


def test_delong_of_a_model_with_itself_has_no_variance():
    _, _, kg, benefit = ovarian()
    found = compare_aurocs(benefit, kg, kg)
    assert (found.difference, found.error, found.p) == (0.0, None, None)


def test_one_class_cannot_be_compared():
    assert compare_aurocs(np.array([True, True]), np.zeros(2), np.ones(2)) is None


def test_images_of_one_patient_count_less_than_images_of_many():
    """Every image twice: as 86 patients the error shrinks by √2, as 43 it stays what it was."""
    albumin, _, kg, benefit = ovarian()
    names = np.array([f"p{i}" for i in range(len(kg))])
    once = compare_aurocs(benefit, kg, albumin, names)
    twice = [np.tile(v, 2) for v in (benefit, kg, albumin)]
    clustered = compare_aurocs(*twice, np.tile(names, 2))
    assert clustered.error == pytest.approx(once.error, rel=1e-12)
    assert compare_aurocs(*twice).error == pytest.approx(once.error / math.sqrt(2), rel=0.03)


def test_strata_are_compared_within_and_weighted_by_their_pairs():
    """Two folds of other patients: the mean of their areas, and of their variances, by hand."""
    albumin, _, kg, benefit = ovarian()
    fold = np.where(np.arange(43) < 20, "0", "1")
    # A model that scores all of fold 1 higher: this must not matter, in neither model.
    shifted = kg + 100 * (fold == "1")
    found = compare_aurocs(benefit, shifted, albumin, strata=fold)
    parts = [compare_aurocs(*(v[fold == f] for v in (benefit, kg, albumin))) for f in "01"]
    pairs = [benefit[fold == f].sum() * (~benefit[fold == f]).sum() for f in "01"]
    share = np.divide(pairs, sum(pairs))
    assert found.auroc_a == pytest.approx(share @ [part.auroc_a for part in parts])
    assert found.auroc_a == pytest.approx(auroc(benefit, shifted, fold))
    # Folds have 20 and 23 patients: their own factors I / (I - 1) differ a little from the common.
    expected = share**2 @ [part.error**2 for part in parts]
    assert found.error**2 == pytest.approx(expected, rel=0.02)
    assert auroc(benefit, shifted) == pytest.approx(found.auroc_a - 0.064, abs=0.001)


def test_folds_that_test_the_same_patients_add_no_certainty():
    """LOCO-18: every image in three folds, by models that agree."""
    albumin, _, kg, benefit = ovarian()
    names = np.array([f"p{i}" for i in range(len(kg))])
    once = compare_aurocs(benefit, kg, albumin, names)
    thrice = [np.tile(v, 3) for v in (benefit, kg, albumin, names)]
    found = compare_aurocs(*thrice, np.repeat(["0", "1", "2"], len(kg)))
    assert (found.difference, found.error) == pytest.approx((once.difference, once.error))


def test_strata_without_a_second_positive_have_no_variance_and_one_class_no_pairs():
    positive = np.array([True, False, False, True, True, False, False, True])
    a, b = np.arange(8.0), np.array([3.0, 1, 2, 7, 5, 6, 4, 0])
    fold = np.array(list("00011112"))
    found = compare_aurocs(positive, a, b, strata=fold)
    # Pairs in the right order: b has 2 of 2 in fold 0, 3 of 4 in fold 1; a has none.
    assert (found.auroc_a, found.auroc_b) == pytest.approx((0, 5 / 6))
    assert found.error is not None
    few = slice(0, 3)
    assert compare_aurocs(positive[few], a[few], b[few], strata=fold[few]).p is None
    assert compare_aurocs(positive[:1], a[:1], b[:1], strata=fold[:1]) is None


def test_delong_error_agrees_with_the_patient_level_bootstrap():
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(120), 2)
    severity = rng.normal(size=120)[patients]
    positive = severity > 0.3
    a = severity + rng.normal(size=240)
    b = severity + rng.normal(size=120)[patients] * 1.5
    images = [np.flatnonzero(patients == p) for p in range(120)]

    def difference(index):
        return compare_aurocs(positive[index], a[index], b[index]).difference

    drawn = (np.concatenate([images[p] for p in rng.integers(0, 120, 120)]) for _ in range(600))
    spread = np.std([difference(index) for index in drawn], ddof=1)
    found = compare_aurocs(positive, a, b, patients.astype(str))
    assert found.error == pytest.approx(spread, rel=0.12)
    assert compare_aurocs(positive, a, b).error < 0.9 * spread, "clusters must matter here"


def test_paired_tests_agree_with_scipy():
    a = [0.81, 0.79, 0.84, 0.77, 0.90, 0.85]
    b = [0.78, 0.80, 0.80, 0.70, 0.88, 0.80]
    found = compare_pairs(a, b)
    t, w = ttest_rel(a, b), wilcoxon(np.subtract(a, b))
    assert (found.t, found.p_t) == pytest.approx((t.statistic, t.pvalue))
    assert (found.w, found.p_w) == pytest.approx((w.statistic, w.pvalue))
    # Differences .03, -.01, .04, .07, .02, .05: mean 1/30; only the smallest rank is negative.
    assert found.difference == pytest.approx(1 / 30)
    assert found.rank_biserial == pytest.approx((20 - 1) / 21)
    assert found.d_z == pytest.approx(found.t / math.sqrt(6))
    assert compare_pairs(b, a).difference == -found.difference


def test_differences_that_do_not_vary_have_no_t():
    equal = compare_pairs([0.5, 0.6], [0.5, 0.6])
    assert (equal.t, equal.p_t, equal.p_w, equal.d_z) == (None, None, None, None)
    constant = compare_pairs([0.5, 0.6, 0.7], [0.4, 0.5, 0.6])
    assert constant.difference == pytest.approx(0.1)
    assert (constant.t, constant.d_z) == (None, None)
    assert constant.rank_biserial == 1.0
    assert compare_pairs([0.5], [0.4]).p_w is None


def test_values_that_are_not_pairs_are_refused():
    with pytest.raises(ValueError, match="pairs"):
        compare_pairs([0.5, 0.6], [0.5])


def test_holm_by_hand():
    """Sorted: .01·4, .02·3, .03·2 (raised to .06), .5·1."""
    assert holm([0.5, 0.01, 0.03, None, 0.02]) == pytest.approx([0.5, 0.04, 0.06, None, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([None]) == [None]


def test_mean_and_its_error():
    assert mean_of([0.7])[:2] == (0.7, None)
    assert mean_of([1.0, 2.0, 3.0, 4.0])[:2] == pytest.approx((2.5, math.sqrt(5 / 3) / 2))
