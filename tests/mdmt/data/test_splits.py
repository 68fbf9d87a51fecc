from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from mdmt.config.datasets import Synthetic, Table
from mdmt.data.splits import carve_validation, deal_patients, split_patients

PATIENTS = [f"p{n}" for n in range(3000)]


def test_shares_are_met_on_average() -> None:
    counts = Counter(split_patients(PATIENTS, 0, 0.2, 0.3))
    # Five standard deviations of a binomial count of 3000.
    assert counts["val"] == pytest.approx(600, abs=110)
    assert counts["test"] == pytest.approx(900, abs=126)
    assert counts["train"] == pytest.approx(1500, abs=137)


def test_a_patients_side_does_not_depend_on_who_else_is_at_the_site() -> None:
    everyone = dict(zip(PATIENTS, split_patients(PATIENTS, 0, 0.2, 0.2), strict=True))
    few = PATIENTS[1500:20:-7]
    assert split_patients(few, 0, 0.2, 0.2) == [everyone[patient] for patient in few]


def test_another_seed_splits_otherwise() -> None:
    assert split_patients(PATIENTS, 0, 0.2, 0.2) != split_patients(PATIENTS, 1, 0.2, 0.2)


def test_carving_takes_from_train_alone_and_agrees_with_a_full_split() -> None:
    table = ["test" if n % 3 == 0 else "train" for n in range(3000)]
    carved = carve_validation(PATIENTS, table, 0, 0.2)
    full = split_patients(PATIENTS, 0, 0.2, 0.2)
    assert all((was == "test") == (now == "test") for was, now in zip(table, carved, strict=True))
    in_train = [n for n, split in enumerate(table) if split == "train"]
    assert [carved[n] == "val" for n in in_train] == [full[n] == "val" for n in in_train]
    assert carve_validation(PATIENTS, table, 0, 0.0) == table


@pytest.mark.parametrize("seed", range(5))
def test_dealing_gives_exact_shares_of_every_stratum(seed: int) -> None:
    strata = np.repeat([False, True], 50)
    splits = deal_patients(strata, np.random.default_rng(seed), 0.2, 0.3)
    for stratum in (False, True):
        counts = Counter(splits[strata == stratum].tolist())
        assert counts["test"] == 15
        assert counts["val"] == 10


@pytest.mark.parametrize("n", [3, 4, 5, 7])
def test_dealing_leaves_no_split_empty_however_few_the_patients(n: int) -> None:
    splits = deal_patients(np.zeros(n), np.random.default_rng(0), 0.2, 0.3)
    assert set(splits.tolist()) == {"train", "val", "test"}


def test_dealing_gives_no_patients_to_a_share_of_zero() -> None:
    assert set(deal_patients(np.zeros(9), np.random.default_rng(0), 0, 0).tolist()) == {"train"}


@pytest.mark.parametrize("kind", [Table, Synthetic])
def test_shares_that_leave_nothing_to_train_on_are_refused(kind: type) -> None:
    with pytest.raises(ValidationError, match="must be below 1"):
        kind(kind=kind.__name__.lower(), root=Path(), val_fraction=0.5, test_fraction=0.5)
