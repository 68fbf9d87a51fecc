"""How many sites a federation needs, at registration and in every round."""

from __future__ import annotations

import math

from mdmt.config import FederationConfig


def quorum(config: FederationConfig) -> tuple[int, str]:
    """Return the smallest number of sites, and what asks for it.

    `aggregation.min_sites`; the algorithm, such as three sites for a median; or
    `aggregation.max_weight`: the weights of too few sites cannot sum to 1.
    """
    options, algorithm = config.aggregation, config.algorithm
    fewest = {
        "aggregation.min_sites": options.min_sites,
        f"algorithm {algorithm.name}": algorithm.fewest_updates,
    }
    if options.max_weight is not None:
        key = f"aggregation.max_weight {options.max_weight:g}"
        fewest[key] = math.ceil(1 / options.max_weight - 1e-9)
    reason = max(fewest, key=lambda key: fewest[key])
    return fewest[reason], reason
