"""Write an approval: the recipe and its weights are kept, and ``site.yaml`` lists its hash."""

from __future__ import annotations

import shutil
from pathlib import Path

from client.deployment.plan import Plan
from client.deployment.recipes import open_recipes
from client.deployment.site_file import add_recipe
from mdmt.config.model import BY_CONTENT, content_name
from mdmt.files import atomic_path


def write_approval(plan: Plan) -> bool:
    """Store the recipe and its weights, and list its hash in ``site.yaml``.

    Returns
    -------
    bool
        False if the recipe was approved already.

    Raises
    ------
    BadInput
        ``site.yaml`` cannot be edited; it was not changed.
    """
    open_recipes(plan.site).approve(plan.recipe)
    _keep_weights(plan)
    return add_recipe(plan.kit.site_file, plan.sha256)


def _keep_weights(plan: Plan) -> None:
    """Copy a file of weights into the kit, where the site looks for it."""
    weights = Path(plan.federation.model.weights)
    if not weights.is_file() or weights.parent == plan.kit.weights:
        return
    sha256 = content_name(str(weights)).removeprefix(BY_CONTENT)
    with atomic_path(plan.kit.weights / f"{sha256}{weights.suffix}") as temporary:
        shutil.copyfile(weights, temporary)
