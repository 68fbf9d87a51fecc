"""How similar the updates of the sites are, as a heat map."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mdmt.report.canvas import panel
from mdmt.report.page import Block, Figure, Panel

_MANY_SITES = 12
"""More sites than this leave no room for numbers in the cells."""


def similarity_blocks(history: Sequence[Mapping[str, Any]]) -> list[Block]:
    """Draw the mean cosine of each pair of sites over the rounds of a run.

    Parameters
    ----------
    history : sequence of mapping
        Lines of ``history.jsonl``.

    Returns
    -------
    list of Block
        Empty if no line has cosines, as under secure aggregation.
    """
    means = mean_cosines(history)
    if not means:
        return []
    sites = sorted({site for pair in means for site in pair})
    table = np.full((len(sites), len(sites)), np.nan)
    np.fill_diagonal(table, 1.0)
    for (one, other), value in means.items():
        row, column = sites.index(one), sites.index(other)
        table[row, column] = table[column, row] = value
    panels: list[Panel] = []
    alt = "; ".join(f"{one} and {other} {value:.2f}" for (one, other), value in means.items())
    height = 120 + 24 * len(sites)
    with panel(panels, "Mean cosine of two updates", "", "", alt=alt, height=height) as axes:
        axes.pcolormesh(table, cmap="RdBu", vmin=-1, vmax=1, edgecolors="white", linewidth=2)
        if len(sites) <= _MANY_SITES:
            for (row, column), value in np.ndenumerate(table):
                colour = "white" if abs(value) > 0.6 else "black"  # on the map's colours
                text = "" if np.isnan(value) else f"{value:.2f}"
                axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=colour)
        axes.set_xticks(np.arange(len(sites)) + 0.5, sites, rotation=45, ha="right")
        axes.set_yticks(np.arange(len(sites)) + 0.5, sites)
        axes.invert_yaxis()
        axes.grid(visible=False)
        axes.tick_params(length=0)
    caption = (
        "Cosine between the updates that two sites sent in a round, over the trained arrays of the"
        " backbone; mean over the rounds with both. Near 1 both move the backbone in one direction,"
        " near 0 they have little in common, and below 0 one undoes what the other does. Large"
        " arrays are sampled."
    )
    return [Figure(caption, panels)]


def mean_cosines(history: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], float]:
    """Return the mean of the defined cosines of each pair of sites, in order of names."""
    values: dict[tuple[str, str], list[float]] = defaultdict(list)
    for line in history:
        for one, others in line.get("cosines", {}).items():
            for other, value in others.items():
                if value is not None:
                    values[one, other].append(value)
    return {pair: float(np.mean(of)) for pair, of in sorted(values.items())}
