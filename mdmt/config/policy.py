"""What a site allows, whatever the server asks. It is the hospital's own and is never sent."""

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
    """What a site allows, whatever the server asks; a limit that is not given does not hold."""

    federations: Annotated[tuple[Name, ...], Field(min_length=1)] | None = None
    """Names of the federations this site takes part in; any unless given."""
    tasks: Annotated[tuple[Name, ...], Field(min_length=1)] | None = None
    """Which of the site's `tasks` it offers; all unless given."""
    backbones: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Backbones this site trains; any unless given."""
    apps: tuple[Sha256, ...] = ()
    """SHA-256 of the app bundles that a deployed site runs; none unless given."""
    plugins: tuple[str, ...] | None = None
    """Installed packages whose task kinds, backbones and algorithms a federation may use.

    If it is not given: none at a deployed site, any in a simulation.
    """
    max_rounds: Limit | None = None
    """Longest federation, in rounds."""
    max_local_epochs: Positive | None = None
    """Most passes over the training images in a round, however the federation counts them."""
    min_examples: Count = 0
    """Fewest labelled training images of a task; a task with fewer is not trained."""
    min_examples_per_metric: Count = 0
    """Fewest labelled images that a number is told of: metrics, losses, counts, histogram cells."""
    report_counts: bool = True
    """Tell how many images and labels there are; if not, the federation has to weigh uniformly."""
    report_histogram: bool = True
    """Tell how often each label occurs among the training labels."""
    max_upload: Positive | None = None
    """Largest message to the server, in MB (10^6 bytes)."""
    max_memory: Positive | None = None
    """Most memory of the training process, or of its share of the GPU, in GB (10^9 bytes)."""
