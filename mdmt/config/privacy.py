"""Protections beyond the policies of the sites: secure aggregation and differential privacy."""

from typing import Annotated

from pydantic import Field

from mdmt.strict import Positive, Strict


class DifferentialPrivacy(Strict):
    """DP-SGD on patients, at every site (Abadi et al. 2016)."""

    noise_multiplier: Positive
    """σ: the standard deviation of the noise, divided by `clip`."""
    clip: Positive = 1.0
    """Largest norm of the gradient of one patient."""
    sample_rate: Annotated[float, Field(gt=0, le=1)]
    """q: the probability that a patient is in the batch of a step."""


class PrivacyConfig(Strict):
    """What the server of a federation cannot read."""

    secure_aggregation: bool = False
    """The server gets only the sum of the updates of all sites."""
    dp: DifferentialPrivacy | None = None
