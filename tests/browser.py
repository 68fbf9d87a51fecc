"""A page as headless Chromium finds it at the width of a phone."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

import pytest

_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--hide-scrollbars",  # a phone has none that take width
    "--allow-file-access-from-files",  # the probe looks into the page it frames
    *("--enable-logging=stderr", "--v=0", "--virtual-time-budget=10000", "--dump-dom"),
)
_PHONE = 390
"""CSS pixels of a phone held upright."""

# Runs beside the page, which itself needs no script. A resource is listed even if it cannot be had.
_PROBE = """<!DOCTYPE html><meta charset="utf-8">
<iframe id="page" src="%s" style="width:%dpx;height:900px;border:0"></iframe>
<pre id="found"></pre>
<script>
const frame = document.getElementById("page");
frame.addEventListener("load", () => {
  const page = frame.contentDocument, root = page.documentElement;
  const sizes = (selector) => [...page.querySelectorAll(selector)].map((element) => {
    const box = element.getBoundingClientRect();
    return [box.width, box.height];
  });
  document.getElementById("found").textContent = JSON.stringify({
    heading: page.querySelector("h1")?.innerText ?? "",
    width: root.clientWidth,
    content: root.scrollWidth,
    plots: sizes(".panel svg"),
    texts: sizes(".panel svg text"),
    tables: sizes(".table"),
    captions: sizes("figcaption"),
    requests: frame.contentWindow.performance.getEntriesByType("resource").map((r) => r.name),
  });
});
</script>
"""


@dataclass(frozen=True)
class Found:
    """What the browser found.

    Attributes
    ----------
    heading : str
    width, content : float
        Of the window, and of what it would have to show without scrolling sideways.
    plots, texts, tables, captions : list of (float, float)
        Widths and heights as drawn: plots, the text in them, the boxes of tables, what stands
        above tables and figures.
    requests : list of str
        Addresses the page asked for, beside its own.
    complaints : list of str
        Lines of the console.
    """

    heading: str
    width: float
    content: float
    plots: list[tuple[float, float]]
    texts: list[tuple[float, float]]
    tables: list[tuple[float, float]]
    captions: list[tuple[float, float]]
    requests: list[str]
    complaints: list[str]


def open_page(page: Path, folder: Path) -> Found:
    """Open a file at the width of a phone; skips the test where there is no Chromium."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no Chromium here; Debian's is `apt-get install chromium`")
    folder.mkdir()
    probe = folder / "probe.html"
    probe.write_text(_PROBE % (page.as_uri(), _PHONE))
    command = [chromium, *_FLAGS, f"--user-data-dir={folder / 'profile'}", probe.as_uri()]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    written = re.search(r'<pre id="found">(.*?)</pre>', run.stdout, re.DOTALL)
    assert written is not None, run.stderr
    found: dict[str, Any] = json.loads(unescape(written[1]))
    complaints = [line for line in run.stderr.splitlines() if ":CONSOLE" in line]
    return Found(**found, complaints=complaints)
