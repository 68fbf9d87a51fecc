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
const light = (colour) => {
  const [r, g, b] = colour.match(/[\\d.]+/g).map((c) => c / 255).map(
    (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const seen = (colour) => !/, 0\\)$|transparent/.test(colour);
// Texts with a contrast below 4.5:1 (WCAG 2.2, 1.4.3) to the nearest background behind them.
const faint = (page) => [...page.querySelectorAll("body *:not(svg *)")].filter((e) =>
  [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim())).filter((e) => {
  const style = (of) => page.defaultView.getComputedStyle(of);
  let behind = e;
  while (behind && !seen(style(behind).backgroundColor)) behind = behind.parentElement;
  const paper = behind ? style(behind).backgroundColor : "rgb(255, 255, 255)";
  const [a, b] = [style(e).color, paper].map(light);
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) < 4.5;
}).map((e) => e.textContent.trim().slice(0, 60));
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
    headings: [...page.querySelectorAll("h1,h2,h3,h4,h5,h6")].map((h) => Number(h.tagName[1])),
    faint: faint(page),
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
    headings : list of int
        Levels of the headings, in their order.
    faint : list of str
        Texts with too little contrast to what is behind them.
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
    headings: list[int]
    faint: list[str]
    requests: list[str]
    complaints: list[str]


def _chromium() -> str:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no Chromium here; Debian's is `apt-get install chromium`")
    return chromium


def printed_pages(page: Path, folder: Path) -> int:
    """Print a file to PDF and count its pages; skips the test where there is no Chromium."""
    chromium = _chromium()
    folder.mkdir()
    out = folder / "page.pdf"
    flags = [flag for flag in _FLAGS if flag != "--dump-dom"]
    profile, pdf = f"--user-data-dir={folder / 'profile'}", f"--print-to-pdf={out}"
    command = [chromium, *flags, profile, pdf, page.as_uri()]
    subprocess.run(command, capture_output=True, timeout=120, check=True)
    return len(re.findall(rb"/Type\s*/Page\b", out.read_bytes()))


def open_page(page: Path, folder: Path, *, dark: bool = False) -> Found:
    """Open a file at the width of a phone; skips the test where there is no Chromium."""
    chromium = _chromium()
    folder.mkdir()
    probe = folder / "probe.html"
    probe.write_text(_PROBE.replace("%s", page.as_uri()).replace("%d", str(_PHONE)))
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    profile = f"--user-data-dir={folder / 'profile'}"
    command = [chromium, *_FLAGS, scheme, profile, probe.as_uri()]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    written = re.search(r'<pre id="found">(.*?)</pre>', run.stdout, re.DOTALL)
    assert written is not None, run.stderr
    found: dict[str, Any] = json.loads(unescape(written[1]))
    complaints = [line for line in run.stderr.splitlines() if ":CONSOLE" in line]
    return Found(**found, complaints=complaints)
