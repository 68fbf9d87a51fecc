"""The meaning of names in YAML files: built in, or from an installed package.

A package extends MDMT with an entry point in one of the groups ``mdmt.tasks``, ``mdmt.readers``,
``mdmt.backbones`` and ``mdmt.algorithms``. Its code is imported when a configuration first uses
the name, never before.
"""

import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from mdmt.errors import ConfigError, PolicyError

T = TypeVar("T")
MOST_LISTED = 30
"""An error lists all known names up to this many."""
LONGEST_NAME = 64
"""An error shows this many characters of an unknown name, which may come from another machine."""

_permitted: ContextVar[frozenset[str] | None] = ContextVar("permitted_plugins", default=None)


@contextmanager
def permit_plugins(distributions: Collection[str] | None) -> Iterator[None]:
    """Within the block, use only plug-ins of these distributions; None permits all.

    A lookup that needs another plug-in raises `PolicyError`, before any of its code is imported.
    """
    names = None if distributions is None else frozenset(map(_normalised, distributions))
    token = _permitted.set(names)
    try:
        yield
    finally:
        _permitted.reset(token)


class Registry(Generic[T]):
    """A dictionary of one kind of thing, filled by a decorator and by entry points.

    Parameters
    ----------
    what : str
        Name of an entry in error messages, such as ``task kind``.
    group : str
        Group of entry points. A built-in name cannot be replaced by a plug-in.
    listing : str
        Where the names are listed if there are too many for a message.

    Examples
    --------
    >>> colours: Registry[str] = Registry("colour", "mdmt.example")
    >>> colours.register("sky")("blue")
    'blue'
    >>> colours["sky"]
    'blue'
    """

    def __init__(self, what: str, group: str, listing: str = "the documentation") -> None:
        self.what = what
        self.group = group
        self._listing = listing
        self._entries: dict[str, T] = {}
        self._plugins: dict[str, str] = {}

    def register(self, *names: str) -> Callable[[T], T]:
        """Register the decorated object under `names`.

        Raises
        ------
        ValueError
            A name is registered already.
        """

        def add(entry: T) -> T:
            if taken := [name for name in names if name in self._entries]:
                raise ValueError(f"the {self.what} {taken[0]} is registered already")
            self._entries.update(dict.fromkeys(names, entry))
            return entry

        return add

    def __getitem__(self, name: str) -> T:
        """Look up `name`. If it belongs to a plug-in, import the plug-in.

        Raises
        ------
        ConfigError
            The name is unknown, or its plug-in cannot be imported.
        PolicyError
            The name belongs to a plug-in that `permit_plugins` does not list.
        """
        if name in self._plugins:
            self._check(name, self._plugins[name])
        elif name not in self._entries:
            self._import(name)
        return self._entries[name]

    def names(self) -> list[str]:
        """Return all names, including those of plug-ins, sorted."""
        return sorted({*self._entries, *entry_points(group=self.group).names})

    def _import(self, name: str) -> None:
        points = {_distribution(p): p for p in entry_points(group=self.group, name=name)}
        if not points:
            raise ConfigError(self._unknown(name))
        if len(points) > 1:
            packages = " and ".join(sorted(points))
            raise ConfigError(f"{packages} both have a {self.what} {name}; uninstall one of them")
        ((distribution, point),) = points.items()
        self._check(name, distribution)
        try:
            entry = point.load()
        except Exception as error:  # the import of a plug-in can raise any error
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise ConfigError(
                f"the {self.what} {name} of {distribution} cannot be imported: {reason}"
            ) from error
        self._entries[name], self._plugins[name] = entry, distribution

    def _check(self, name: str, distribution: str) -> None:
        permitted = _permitted.get()
        if permitted is not None and _normalised(distribution) not in permitted:
            raise PolicyError(
                f"policy: plugins does not list {distribution}, whose {self.what} {name} is needed"
            )

    def _unknown(self, name: str) -> str:
        name, known = name[:LONGEST_NAME], self.names()
        near = get_close_matches(name, known, n=4)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        listed = f"known: {', '.join(known)}" if len(known) <= MOST_LISTED else ""
        return f"unknown {self.what} {name}{hint}; {listed or f'see {self._listing}'}"


def _distribution(point: EntryPoint) -> str:
    return point.dist.name if point.dist else point.module


def _normalised(distribution: str) -> str:
    """Write a distribution's name as PEP 503 does: ``My_Plugin`` is ``my-plugin``."""
    return re.sub(r"[-_.]+", "-", distribution).lower()
