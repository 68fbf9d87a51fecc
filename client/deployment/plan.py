"""A recipe that an engineer is asked to approve, and the site's data that it would run on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from client.deployment.recipes import Change, changes, open_recipes, recipe_hash
from mdmt.config import FederationConfig, SiteConfig, load_federation, load_site
from mdmt.config.model import content_name
from mdmt.data.cohort import Cohort
from mdmt.data.manifest import Manifest
from mdmt.data.readers import read_manifest
from mdmt.deployment.kits import SiteKit
from mdmt.errors import BadInput, PolicyError
from mdmt.registry import permit_plugins


@dataclass(frozen=True)
class Plan:
    """A recipe, and the data of the site that it would run on.

    Attributes
    ----------
    kit : SiteKit
    site : SiteConfig
        ``site.yaml`` as it is now.
    federation : FederationConfig
    recipe : str
    manifest : Manifest
        The site's table. No image was read.
    """

    kit: SiteKit
    site: SiteConfig
    federation: FederationConfig
    recipe: str
    manifest: Manifest

    @property
    def sha256(self) -> str:
        """The hash that the engineer approves."""
        return recipe_hash(self.recipe)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks of this site."""
        return tuple(self.site.offered)

    @property
    def initial_weights(self) -> str:
        """Where the first weights come from; a file is named by its SHA-256."""
        return content_name(self.federation.model.weights)

    @property
    def approved(self) -> bool:
        """True if ``site.yaml`` lists the recipe."""
        return self.sha256 in (self.site.policy.recipes or ())

    @cached_property
    def cohort(self) -> Cohort:
        """The manifest as training sees it, without pixels."""
        import numpy as np

        return Cohort(self.manifest, np.empty((0, 0, 0), np.uint8))

    def changes(self) -> tuple[str, list[Change]] | None:
        """Compare with the recipe that was approved last: its hash, and the keys that differ.

        None if there is none, or if its text is not stored.
        """
        earlier = [sha for sha in self.site.policy.recipes or () if sha != self.sha256]
        if not earlier:
            return None
        text = open_recipes(self.site).read(earlier[-1])
        return None if text is None else (earlier[-1], changes(text, self.recipe))


def open_plan(kit: SiteKit, file: Path) -> Plan:
    """Read a federation's file, the site's file and its table.

    Parameters
    ----------
    kit : SiteKit
    file : Path
        The federation's file.

    Raises
    ------
    BadInput
        A file or the table cannot be used, or the site does not fit into the federation.
    """
    site = load_site(kit.site_file)
    plugins = site.policy.plugins or ()
    site = site.model_copy(update={"policy": site.policy.model_copy(update={"plugins": plugins})})
    try:
        with permit_plugins(plugins):
            federation = load_federation(file)
    except PolicyError as error:
        raise BadInput(
            f"{file}: {error}: if you trust this package, add it to policy.plugins in"
            f" {kit.site_file}"
        ) from error
    for task, own in site.offered.items():
        if task not in federation.tasks:
            raise BadInput(f"{kit.site_file}: tasks.{task}: {file} has no such task")
        if difference := federation.space(task).disagreement(own.space):
            raise BadInput(f"{kit.site_file}: tasks.{task}: {difference}")
    offered = site.model_copy(update={"tasks": site.offered})
    manifest = read_manifest(offered, federation.seed)
    return Plan(kit, site, federation, federation.recipe, manifest)
