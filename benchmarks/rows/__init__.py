"""What is compared with what: a function per name gives its rows."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.bench import Bench
from benchmarks.rows.commands import cli, startup
from benchmarks.rows.data import cache, open_cache
from benchmarks.rows.job import job
from benchmarks.rows.profile import profile
from benchmarks.rows.rounds import deployment, rounds
from benchmarks.rows.scale import aggregation, scale, scale_ray
from benchmarks.rows.secure import secure
from benchmarks.rows.training import loader, private_round, site_round
from benchmarks.rows.wire import wire
from benchmarks.summary import Row

__all__ = ["ROWS"]

ROWS: dict[str, Callable[[Bench], list[Row]]] = {
    "site-round": site_round,
    "private-round": private_round,
    "loader": loader,
    "cache": cache,
    "open-cache": open_cache,
    "rounds": rounds,
    "job": job,
    "startup": startup,
    "deployment": deployment,
    "bytes": wire,
    "aggregation": aggregation,
    "secure": secure,
    "scale": scale,
    "scale-ray": scale_ray,
    "cli": cli,
    "profile": profile,
}
