"""Loaded by every Python a faulty site starts: breaks what the site answers, as a test says.

The product has no hooks for faults; a hospital may run whatever it likes, and so do these tests.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from typing import Any


class _BreakSite(importlib.abc.MetaPathFinder):
    """Replaces `Site.train` as soon as the site's module is there."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != "client.site":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        original = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            original(module)
            import site_faults

            site_faults.apply(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, _BreakSite())
