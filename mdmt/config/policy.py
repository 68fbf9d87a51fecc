"""The policy: what a site allows. It is in the hospital's own file and is never sent."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mdmt.config.types import Name, Positive
from mdmt.strict import Strict

__all__ = ["Policy"]

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Limit = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]


class Policy(Strict):
    """What a site allows, independently of the server. A limit that is not set does not apply."""

    federations: Annotated[tuple[Name, ...], Field(min_length=1)] | None = None
    """Names of the federations that the site takes part in. The default is any."""
    tasks: Annotated[tuple[Name, ...], Field(min_length=1)] | None = None
    """Tasks that the site offers. The default is all of its `tasks`."""
    backbones: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Backbones that the site trains. The default is any."""
    apps: tuple[Sha256, ...] = ()
    """SHA-256 of the app bundles that a deployed site answers. The default is none."""
    plugins: tuple[str, ...] | None = None
    """Installed packages whose task kinds, backbones and algorithms a federation may use.

    The default is none at a deployed site, and any in a simulation.
    """
    max_rounds: Limit | None = None
    """Largest number of rounds of a federation."""
    max_local_epochs: Positive | None = None
    """Largest number of passes over the training images per round, also for `local_steps`."""
    min_examples: Count = 0
    """Smallest number of labelled training images of a task. With fewer the site refuses."""
    min_examples_per_metric: Count = 0
    """Smallest number of labelled images behind a reported metric, loss, count or cell."""
    report_counts: bool = True
    """Report the numbers of images and labels. Without them the weights must be uniform."""
    report_histogram: bool = True
    """Report how often each label occurs in the training split."""
    max_upload: Positive | None = None
    """Largest message to the server, in MB (10^6 bytes)."""
    max_memory: Positive | None = None
    """Largest memory of the training process, or of its share of the GPU, in GB (10^9 bytes)."""
