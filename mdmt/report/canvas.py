"""How every plot looks: its size, type and colours; and the SVG it becomes."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["BLACK", "GUIDE", "arm_colours", "draw_svg"]

_WIDTH, _HEIGHT = 340, 250
"""Size of a panel in CSS pixels."""

# Okabe and Ito's colours, which colour-blind readers can tell apart.
_BLUE, _ORANGE, _GREEN, _VERMILION = "#0072b2", "#e69f00", "#009e73", "#d55e00"
_SKY, _PURPLE, _GREY = "#56b4e9", "#cc79a7", "#6e7781"

BLACK = "#1b1f24"
GUIDE = "#8c959f"
"""Of lines that are no data: the diagonal, a reference."""

_ARMS = {
    "constant": _GREY,
    "metadata": _PURPLE,
    "local": _BLUE,
    "finetune": _ORANGE,
    "average_init": _SKY,
    "pooled": _GREEN,
    "federated": _VERMILION,
}
_OTHERS = ("#8c6d1f", "#5e3c99", "#a6611a", "#01665e", "#7b3294", "#4d4d4d")

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: searchable, and small
    "svg.hashsalt": "mdmt",  # the same plot is the same bytes
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "sans-serif"],
    "font.size": 10,
    "axes.labelsize": 10,
    "axes.edgecolor": "#57606a",
    "axes.labelcolor": BLACK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e7eb",
    "xtick.color": BLACK,
    "ytick.color": BLACK,
    "text.color": BLACK,
    "text.parse_math": False,  # a dollar in a name is a dollar
}


def arm_colours(arms: Iterable[str]) -> dict[str, str]:
    """Give every arm a colour that is its own in all plots of all reports."""
    others = iter(_OTHERS * 4)
    return {arm: _ARMS.get(arm) or next(others) for arm in arms}


def draw_svg(
    draw: Callable[[Axes], None], x_label: str, y_label: str, height: float = _HEIGHT
) -> str:
    """SVG element of what `draw` draws; its ids are no other plot's."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH / 72, height / 72), layout="constrained")
        axes = figure.subplots()
        draw(axes)
        axes.set(xlabel=x_label, ylabel=y_label)
        written = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(written, format="svg", metadata=nothing)
    svg = written.getvalue()
    svg = svg[svg.index("<svg") :]
    prefix = hashlib.sha256(svg.encode()).hexdigest()[:8]
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>p{prefix}-", svg)
    # Without width and height it takes its panel's; the namespaces are implied in HTML.
    return re.sub(
        r'<svg [^>]*(viewBox="[^"]*")[^>]*>', r"<svg \1 aria-hidden='true'>", svg, count=1
    )
