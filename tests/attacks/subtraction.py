"""Secure aggregation against a coordinator who wants the update of one hospital.

Every attack returns the cosine of the update that it computed and the true one: 1 is the update
itself, 0 is noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from numpy.typing import NDArray

from mdmt.blob import Arrays, pack
from mdmt.config import FederationConfig
from mdmt.deployment.keys import new_key
from mdmt.messages import KeyStatement, SecureRound
from mdmt.privacy.masking import PIECE, Masks, pair_secrets
from mdmt.privacy.statements import sign_statement
from mdmt.privacy.tables import round_table, transcript
from server.secure_rounds import add_masked

from .hospital import Hospital, Patients, initial_arrays
from .recipes import federation
from .secure import Hospitals

Named = dict[str, NDArray[np.float32]]
VICTIM = "a-hospital"
SMALL = Patients(train=2, val=2, test=2, severe=1)
NO_RATE = 1e-9
"""A factor on the rate with which a site trains nothing. Here the schedule allows it."""


def recipe(weighting: str = "uniform") -> FederationConfig:
    """The ordinary recipe, with secure aggregation."""
    return federation(
        model={"backbone": "test_efficientnet_ln", "image_size": 32},
        aggregation={"weighting": weighting, "norm_layers": "frozen"},
        privacy={"secure_aggregation": True},
        training={
            "rounds": 3,
            "batch_size": 32,
            "optimizer": {"name": "sgd", "lr": 0.05},
            "scheduler": {"name": "plateau", "patience": 1, "gamma": NO_RATE},
        },
    )


def hospitals(
    folder: Path, count: int = 3, weighting: str = "uniform", **options: Any
) -> Hospitals:
    """Return hospitals with kits; the first one is the victim."""
    names = [VICTIM, *(f"{letter}-hospital" for letter in "bcd")][:count]
    patients = {name: SMALL if number else Patients() for number, name in enumerate(names)}
    options = {"deployed": True} | options
    return Hospitals(folder / "sites", recipe(weighting), patients, **options)


def likeness(found: Arrays, folder: Path, weighting: str = "uniform") -> float:
    """Return the cosine of an update and that of the victim, which is here sent in clear."""
    asked = recipe(weighting).model_copy(update={"privacy": federation().privacy})
    start = initial_arrays(asked)
    true = Hospital(folder / "clear", asked, name=VICTIM).train(start).arrays
    one = np.concatenate([(true[name] - start[name]).ravel() for name in start])
    other = np.concatenate([np.ravel(found[name]) for name in start]).astype(np.float64)
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))


def repeated_round(folder: Path) -> float:
    """Ask for a round twice, the second time at no rate, and subtract the masked answers."""
    sites, start = hospitals(folder), initial_arrays(recipe())
    first, second = sites.table(1), sites.table(1, rate=NO_RATE)
    one, other = (sites.masked(VICTIM, start, table) for table in (first, second))
    return likeness(_sum([_minus(one, other)], start), folder)


def one_answer(folder: Path) -> float:
    """Read the answer of the victim alone, as if the others had dropped out."""
    sites, start = hospitals(folder), initial_arrays(recipe())
    return likeness(_sum([sites.masked(VICTIM, start, sites.table(1))], start), folder)


def split_table(folder: Path) -> float:
    """Send the victim the table of the round, and the others one in which nobody trains."""
    sites, start = hospitals(folder), initial_arrays(recipe())
    tables = {name: sites.table(1, rate=NO_RATE) for name in sites.sites}
    tables[VICTIM] = sites.table(1)
    masked = [sites.masked(name, start, table) for name, table in tables.items()]
    return likeness(_sum(masked, start), folder)


def own_weights(folder: Path) -> float:
    """Send a table that gives the victim all the weight."""
    sites, start = hospitals(folder), initial_arrays(recipe())
    table = sites.table(1)
    weights = {name: {"backbone": float(name == VICTIM)} for name in table.statements}
    table = table.model_copy(update={"weights": weights})
    masked = [sites.masked(name, start, table) for name in table.statements]
    return likeness(_sum(masked, start), folder)


def dominating_weight(folder: Path, **policy: Any) -> float:
    """Run a federation in which one hospital has most of the images, and so of the weight."""
    sites = hospitals(folder, weighting="examples", changes=policy)
    start = initial_arrays(recipe("examples"))
    return likeness(_minus(sites.train(start).arrays, start), folder, "examples")


def two_runs(folder: Path, **options: Any) -> float:
    """Run the same round with and without the victim, in two runs, and subtract the sums."""
    sites, start = hospitals(folder, count=4, **options), initial_arrays(recipe())
    sums = []
    for run, names in enumerate((list(sites.sites), list(sites.sites)[1:]), 1):
        table = sites.table(run, names)
        masked = [sites.masked(name, start, table, run) for name in table.statements]
        scale = len(names) * np.float32(2.0) ** -table.exponent
        sums.append({name: scale * array for name, array in _sum(masked, start).items()})
    return likeness(_minus(*sums), folder)


def invented_sites(folder: Path, **options: Any) -> float:
    """Be both of the other sites, with new keys, and remove their masks."""
    sites = hospitals(folder, count=1, **options)
    keys = {"b-hospital": new_key(), "c-hospital": new_key()}
    return _unmask(sites, keys, folder)


def colluding_sites(folder: Path) -> float:
    """Be both of the other sites, whose keys the victim knows: these hospitals take part."""
    sites = hospitals(folder)
    keys = {name: key for name, key in sites.keys.items() if name != VICTIM}
    return _unmask(sites, keys, folder)


def _unmask(sites: Hospitals, signers: Mapping[str, Any], folder: Path) -> float:
    """Get the masked update of the victim in a cohort of sites whose keys the attacker has."""
    start, statements = initial_arrays(recipe()), sites.statements(1, [VICTIM])
    private = {name: X25519PrivateKey.generate() for name in signers}
    for name, signer in signers.items():
        statements[name] = _statement(name, signer, private[name], statements[VICTIM])
    table = round_table(recipe(), dict(sorted(statements.items())), 1.0)
    masked = sites.masked(VICTIM, start, table)
    return likeness(_remove_masks(masked, start, table, private), folder)


def _statement(name: str, signer: Any, key: X25519PrivateKey, like: KeyStatement) -> KeyStatement:
    facts = {"recipe": like.recipe, "run": like.run, "counts": dict(like.counts)}
    return sign_statement(signer, key.public_key(), name=name, **facts)


def _remove_masks(
    masked: Arrays, start: Arrays, table: SecureRound, private: Mapping[str, X25519PrivateKey]
) -> Named:
    """Add the masks of the other sites to a masked update: they cancel."""

    agreed = transcript(recipe().hash, f"{1:012x}", 1, pack(start), table)
    keys = {name: of.key for name, of in table.statements.items()}
    change = {}
    for name in start:
        total = np.array(masked[name])
        for site, key in private.items():
            secrets = {VICTIM: pair_secrets(site, key, keys)[VICTIM]}
            flat = total.reshape(-1)
            mask = Masks(site, secrets, agreed).of(name)
            for first in range(0, flat.size, PIECE):
                mask.apply(flat[first : first + PIECE])
        change[name] = total
    return _sum([change], start)


def _sum(masked: list[Arrays], start: Arrays) -> Named:
    """Return the sum of masked updates as signed integers: noise where the masks do not cancel."""
    totals = add_masked(masked)
    return {name: totals[name].view(np.int32).astype(np.float32) for name in start}


def _minus(one: Arrays, other: Arrays) -> Named:
    return {name: one[name] - other[name] for name in other}
