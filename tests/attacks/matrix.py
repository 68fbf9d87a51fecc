"""Every attack against every protection, and what is expected.

This is the source of the table in docs/privacy.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mdmt.config import FederationConfig

from . import inversion, labels, linear_solve, membership, replay, trap_weights
from .hospital import Hospital, Patients
from .recipes import federation
from .secure import Hospitals


@dataclass(frozen=True)
class Protection:
    """What a hospital and its federation have switched on."""

    limits: bool = False
    """The limits of the kit's policy."""
    approval: bool = False
    """The hospital approved the ordinary recipe of its federation, and no other."""
    privacy: Mapping[str, Any] = field(default_factory=dict)
    """The section `privacy` of every recipe that the hospital accepts."""
    policy: Mapping[str, Any] = field(default_factory=dict)
    """Other keys of the site's policy."""


PROTECTIONS = {
    "nothing": Protection(),
    "policy": Protection(limits=True),
    "approval": Protection(approval=True),
    "default kit": Protection(limits=True, approval=True),
    "secure aggregation": Protection(privacy={"secure_aggregation": True}),
    "DP": Protection(
        privacy={"dp": {"noise_multiplier": 3.0, "sample_rate": 0.5}}, policy={"max_epsilon": 6}
    ),
}


OTHERS = Patients(train=8, val=4, test=2, severe=4)
"""The patients of each other hospital in a federation with secure aggregation."""


@dataclass(frozen=True)
class Attack:
    """One row of the table."""

    title: str
    who: str
    """Who can do it."""
    recipe: Callable[[], FederationConfig]
    """What the coordinator asks for."""
    run: Callable[[Any], float]
    """Returns the score."""
    success: float
    """Smallest score of a success."""
    fails: Mapping[str, str]
    """Protection that the attack fails against → the refusal, or what is left of the score.

    A refusal is a part of its text, such as a key of the policy. The empty text stands for an
    attack that the site answers, and whose score is too low. It succeeds against the others.
    """
    ordinary: bool = False
    """The recipe is the one that the hospital approved."""
    patients: Patients = field(default_factory=Patients)

    def against(self, protection: Protection, folder: Path) -> float:
        """Run the attack and return its score.

        Raises
        ------
        Refused
        """
        asked = self.recipe()
        approved = asked if self.ordinary else ordinary(asked)
        asked, approved = (_with(config, protection.privacy) for config in (asked, approved))
        options: dict[str, Any] = {
            "approved": approved.hash if protection.approval else None,
            "limits": protection.limits,
            "changes": protection.policy,
        }
        if asked.privacy.secure_aggregation:
            patients = {"a-hospital": self.patients, "b-hospital": OTHERS, "c-hospital": OTHERS}
            return self.run(Hospitals(folder, asked, patients, **options))
        return self.run(Hospital(folder, asked, patients=self.patients, **options))


def ordinary(asked: FederationConfig) -> FederationConfig:
    """The recipe that an honest coordinator would propose for the same backbone."""
    return federation(model=asked.model.model_dump(mode="json"))


def _with(config: FederationConfig, privacy: Mapping[str, Any]) -> FederationConfig:
    changed = config.model_dump(mode="json") | ({"privacy": dict(privacy)} if privacy else {})
    return FederationConfig.model_validate(changed)


FEW = "min_patients_per_update"
RECIPE = "recipes does not list"
TABLE = "do not follow"
TABLE = "do not follow"
RATE = "rate factor"
FIRST = "is not the initial value"
COORDINATOR = "coordinator"
MASKED = {"secure aggregation": "", "DP": ""}
ONE_IMAGE = {"policy": FEW, "approval": RECIPE, "default kit": RECIPE} | MASKED

ATTACKS = {
    "exact image": Attack(
        title="One training image, pixel for pixel, from the update of one image (ViT)",
        who=COORDINATOR,
        recipe=linear_solve.recipe,
        run=linear_solve.attack,
        success=0.95,
        fails=ONE_IMAGE,
    ),
    "coefficients": Attack(
        title="One training image, pixel for pixel, from a batch: a coefficient of 0 for the task"
        " that most patients have (ViT)",
        who=COORDINATOR,
        recipe=linear_solve.recipe_of_two_tasks,
        run=linear_solve.attack_with_coefficients,
        success=0.95,
        fails={"policy": FEW, "default kit": FEW, "secure aggregation": TABLE, "DP": ""},
        ordinary=True,
        patients=Patients(train=60, severe=30, rare=10),
    ),
    "inversion": Attack(
        title="The likeness of one training image, by optimisation (ResNet, update of one image)",
        who=COORDINATOR,
        recipe=inversion.recipe,
        run=inversion.attack,
        success=0.5,
        fails=ONE_IMAGE,
    ),
    "trap in round 1": Attack(
        title="Image patches from a batch of all patients: trap weights in round 1",
        who=COORDINATOR,
        recipe=trap_weights.recipe,
        run=trap_weights.in_round_1,
        success=0.25,
        fails={"approval": FIRST, "default kit": FIRST, "DP": ""},
        ordinary=True,
    ),
    "trap in round 2": Attack(
        title="Image patches from a batch of all patients: trap weights in a later round",
        who=COORDINATOR,
        recipe=trap_weights.recipe,
        run=trap_weights.in_round_2,
        success=0.25,
        fails={"DP": ""},
        ordinary=True,
    ),
    "one label": Attack(
        title="The label of one patient per message, from the loss",
        who=COORDINATOR,
        recipe=labels.recipe_of_one_image,
        run=labels.one_label_per_message,
        success=0.95,
        fails=ONE_IMAGE,
    ),
    "tiny split": Attack(
        title="The label of the only validation patient, from a metric",
        who=COORDINATOR,
        recipe=labels.recipe_of_a_transformer,
        run=labels.label_of_a_tiny_split,
        success=1.0,
        fails={"policy": "", "default kit": ""} | MASKED,
        ordinary=True,
        patients=Patients(val=1),
    ),
    "rare label": Attack(
        title="How many patients have a rare label, from the site card",
        who=COORDINATOR,
        recipe=labels.recipe_of_a_transformer,
        run=labels.smallest_class,
        success=1.0,
        fails={"policy": "", "default kit": "", "DP": ""},
        ordinary=True,
        patients=Patients(severe=3),
    ),
    "label count": Attack(
        title="How many patients have a label, from the losses of two crafted later rounds",
        who=COORDINATOR,
        recipe=labels.recipe_of_a_transformer,
        run=labels.count_of_a_label,
        success=1.0,
        fails=MASKED | {"policy": "", "approval": RATE, "default kit": RATE},
        ordinary=True,
        patients=Patients(severe=3),
    ),
    "membership": Attack(
        title="Whether a known image was in the training data, from the release",
        who="whoever has the release and the image",
        recipe=membership.recipe,
        run=membership.attack,
        success=0.75,
        fails={"DP": ""},
        ordinary=True,
        patients=Patients(test=24),
    ),
    "more runs": Attack(
        title="More looks at the same patients than approved, by new run ids",
        who=COORDINATOR,
        recipe=replay.recipe,
        run=replay.attack,
        success=float(replay.MANY),
        fails={"policy": "", "default kit": "", "DP": ""},
        ordinary=True,
    ),
}
