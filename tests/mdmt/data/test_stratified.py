"""Exact, stratified splits: of one site, and of several sites at once."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import PROGNOSIS

from mdmt.config import SiteConfig
from mdmt.data.manifest import Division, Manifest
from mdmt.data.readers import inspect_manifest
from mdmt.data.splits import split_patients
from mdmt.data.stratified import counts, stratify
from mdmt.errors import DataError

ZONES = {"kind": "regression", "outputs": ["A", "B"], "range": [0, 3]}
FINDINGS = {"kind": "multilabel", "labels": ["common", "rare"]}


def site(name: str = "a", **tasks: Any) -> SiteConfig:
    return SiteConfig.model_validate(
        {
            "name": name,
            "dataset": {"kind": "table", "root": ".", "patient": "p"},
            "tasks": tasks or {"prognosis": PROGNOSIS},
        }
    )


EXACT = Division("stratified", 0.2, 0.2)


def manifest(patients: list[str], division: Division = EXACT, **targets: Any) -> Manifest:
    n = len(patients)
    return Manifest(
        images=tuple(Path(f"{i}.png") for i in range(n)),
        rows=tuple(f"t.csv:{i + 2}" for i in range(n)),
        patients=np.array(patients),
        splits=np.full(n, "train", "<U6"),
        targets={t: np.array(v, np.float32).reshape(n, -1) for t, v in targets.items()},
        masks=(None,) * n,
        division=division,
    )


def sides(divided: Manifest) -> dict[str, str]:
    found = dict(zip(divided.patients.tolist(), divided.splits.tolist(), strict=True))
    pairs = set(zip(divided.patients.tolist(), divided.splits.tolist(), strict=True))
    assert len(pairs) == len(found), "a patient on two sides"
    return found


def test_77_patients_give_47_15_15_and_every_class_its_share() -> None:
    severe = [n % 7 == 0 for n in range(77)]  # 11 of 77
    patients = [f"p{n}" for n in range(77)]
    # Every third patient has a second image, of the same class.
    rows = patients + patients[::3]
    labels = severe + severe[::3]
    divided = stratify({"a": site()}, {"a": manifest(rows, prognosis=labels)}, 3)["a"]
    found = sides(divided)
    assert Counter(found.values()) == {"train": 47, "val": 15, "test": 15}
    of_severe = Counter(found[p] for p, label in zip(patients, severe, strict=True) if label)
    assert of_severe["val"] in (2, 3)
    assert of_severe["test"] in (2, 3)


def test_the_order_of_the_rows_does_not_matter_and_the_seed_does() -> None:
    rng = np.random.default_rng(0)
    patients = [f"p{n // 2}" for n in range(120)]
    labels = rng.integers(0, 2, 120).tolist()

    def divide(order: Any, seed: int) -> dict[str, str]:
        rows = manifest([patients[i] for i in order], prognosis=[labels[i] for i in order])
        return sides(stratify({"a": site()}, {"a": rows}, seed)["a"])

    assert divide(range(120), 0) == divide(rng.permutation(120), 0)
    assert divide(range(120), 0) != divide(range(120), 1)


@pytest.mark.parametrize("n", [3, 4, 5, 9, 50])
def test_no_split_is_empty_with_three_patients_or_more(n: int) -> None:
    rows = manifest([f"p{i}" for i in range(n)], prognosis=[i % 2 for i in range(n)])
    found = Counter(sides(stratify({"a": site()}, {"a": rows}, 0)["a"]).values())
    assert set(found) == {"train", "val", "test"}
    assert {s: found[s] for s in ("test", "val")} == counts(n, 0.2, 0.2)


def test_quarters_of_a_score_and_rare_findings_are_in_every_split() -> None:
    scores = np.arange(80) / 80 * 3
    rare = [n % 16 == 0 for n in range(80)]  # 5 of 80
    findings = [[n % 2, found] for n, found in enumerate(rare)]
    patients = [f"p{n}" for n in range(80)]
    rows = manifest(patients, zones=np.stack([scores, scores], 1), findings=findings)
    divided = stratify({"a": site(zones=ZONES, findings=FINDINGS)}, {"a": rows}, 0)["a"]
    for split, n in (("train", 48), ("val", 16), ("test", 16)):
        inside = divided.splits == split
        assert inside.sum() == n
        quarters = Counter((scores[inside] // 0.75).tolist())
        assert max(quarters.values()) - min(quarters.values()) <= 3
    by_finding = manifest(patients, findings=findings)
    divided = stratify({"a": site(findings=FINDINGS)}, {"a": by_finding}, 0)["a"]
    assert Counter(divided.splits[np.array(rare)].tolist()) == {"train": 3, "val": 1, "test": 1}


def test_patients_of_several_sites_have_one_side_and_each_site_its_fractions() -> None:
    sites = {
        "a": site("a"),
        "b": site("b", zones=ZONES),
        "c": site("c", zones=ZONES),
    }
    own = [f"x{n}" for n in range(30)]
    manifests = {
        "a": manifest([f"p{n}" for n in range(40)], prognosis=[n % 2 for n in range(40)]),
        # The same forty patients with another label, and thirty of its own.
        "b": manifest([f"p{n}" for n in range(40)] + own, zones=[[n % 4, 1] for n in range(70)]),
        "c": replace(
            manifest(own[:10], Division(), zones=[[0, 0]] * 10),
            splits=np.array(["test"] * 5 + ["val"] * 5),
        ),
    }
    divided = stratify(sites, manifests, 0)
    found = [sides(m) for m in divided.values()]
    for one in found:
        for other in found:
            assert all(other.get(patient, side) == side for patient, side in one.items())
    assert divided["c"] is manifests["c"]  # its dataset gives the splits
    assert Counter(found[0].values()) == {"train": 24, "val": 8, "test": 8}
    assert Counter(found[1].values()) == {"train": 42, "val": 14, "test": 14}
    alone = stratify({"a": sites["a"]}, {"a": manifests["a"]}, 0)["a"]
    assert Counter(alone.splits.tolist()) == Counter(divided["a"].splits.tolist())


def table(root: Path, split: str | None = None, n: int = 30) -> Path:
    lines = ["image,p,prognosis" + (f",{split}" if split else "")]
    for i in range(n):
        (root / f"{i}.png").touch()
        side = f",{('train', 'test')[i % 3 == 0]}" if split else ""
        lines.append(f"{i}.png,p{i},{('MILD', 'SEVERE')[i % 2]}{side}")
    (root / "labels.csv").write_text("\n".join(lines))
    return root


def read(root: Path, **dataset: Any) -> Manifest:
    dataset = {"kind": "table", "root": root, "patient": "p"} | dataset
    tasks = {"prognosis": PROGNOSIS}
    config = SiteConfig.model_validate({"name": "a", "dataset": dataset, "tasks": tasks})
    return inspect_manifest(config, 5)[0]


def test_a_table_is_stratified_unless_it_asks_for_the_hash(tmp_path: Path) -> None:
    exact = read(table(tmp_path))
    assert Counter(exact.splits.tolist()) == {"train": 18, "val": 6, "test": 6}
    assert str(exact.division) == (
        "patients are split 60/20/20 in exact fractions, stratified by class"
    )
    hashed = read(tmp_path, split="hash")
    assert hashed.splits.tolist() == split_patients(hashed.patients.tolist(), 5, 0.2, 0.2)
    assert "60/20/20 by the hash of the patient id" in str(hashed.division)


def test_validation_is_carved_from_train_in_exact_fractions(tmp_path: Path) -> None:
    given = read(table(tmp_path, "side"), split="side", val_fraction=0)
    carved = read(tmp_path, split="side")
    assert ((given.splits == "test") == (carved.splits == "test")).all()
    assert Counter(carved.splits.tolist()) == {"train": 16, "val": 4, "test": 10}
    assert "20% of the training patients validate" in str(carved.division)
    hashed = read(tmp_path, split="side", validation="hash")
    assert hashed.splits.tolist() != carved.splits.tolist()
    assert str(given.division) == "the splits are those of the dataset"


def test_a_column_named_hash_is_not_mistaken(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has a column hash"):
        read(table(tmp_path, "hash"), split="hash")
