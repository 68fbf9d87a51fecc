"""The Flower app bundle we submit: it ships no code, only the names of the installed apps.

So what runs at a site is what the hospital installed, and the bundle's SHA-256 is a constant of
the version, which a site's policy can list.
"""

from __future__ import annotations

import json
from pathlib import Path

from mdmt import __version__
from server.flower import bundle_hash

__all__ = ["app_hash", "write_app", "write_run_config"]

_APP = f"""\
[project]
name = "mdmt"
version = "{__version__}"
description = "MDMT as installed"
license = "Apache-2.0"

[tool.flwr.app]
publisher = "mdmt"

[tool.flwr.app.components]
serverapp = "server.app:app"
clientapp = "client.app:app"

[tool.flwr.app.config]
federation = ""
overrides = ""
out = ""
resume = false
expected = ""
"""


def write_app(folder: Path) -> None:
    """Write the app into `folder`, for ``flwr run``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pyproject.toml").write_text(_APP, encoding="utf-8")


def write_run_config(file: Path, **values: str | bool | Path) -> None:
    """Write the values of a run, for ``flwr run --run-config FILE``; a path is made absolute."""
    lines = [
        # TOML and JSON write strings and truth values alike.
        f"{key} = {json.dumps(str(v.resolve()) if isinstance(v, Path) else v, ensure_ascii=False)}"
        for key, v in values.items()
    ]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def app_hash() -> str:
    """SHA-256 of the bundle that ``flwr run`` makes of `write_app`'s folder."""
    return bundle_hash({"pyproject.toml": _APP.encode()})
