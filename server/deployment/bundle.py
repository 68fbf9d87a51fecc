"""The Flower app bundle we submit: it ships no code, only the names of the installed apps.

So what runs at a site is what the hospital installed, and the bundle's SHA-256 is a constant of
the version, which a site's policy can list.
"""

from __future__ import annotations

from mdmt import __version__
from server.flower import build_bundle

_PROJECT = f"""\
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


APP = {"pyproject.toml": _PROJECT.encode()}
"""The files of the bundle."""


def app_hash() -> str:
    """SHA-256 of the bundle that Flower makes of `APP`."""
    return build_bundle(APP)[1]
