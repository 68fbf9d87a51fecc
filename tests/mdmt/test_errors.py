"""The tree of errors that the module draws."""

from __future__ import annotations

import re

from mdmt import errors
from mdmt.errors import MDMTError


def classes(base: type[MDMTError]) -> dict[str, str]:
    """Every class below `base` that the module defines, with the name of its parent."""
    found = {}
    for child in base.__subclasses__():
        if child.__module__ == errors.__name__:
            found |= {child.__name__: base.__name__} | classes(child)
    return found


def drawn() -> dict[str, str]:
    """Every class of the drawing, with the one that it hangs under."""
    found, path = {}, ["MDMTError"]
    for line in (errors.__doc__ or "").splitlines():
        if branch := re.match(r"    ((?:│   |    )*)[├└]── (\w+) ", line):
            depth = len(branch[1]) // 4 + 1
            found[branch[2]] = path[depth - 1]
            path[depth:] = [branch[2]]
    return found


def test_the_drawn_tree_is_the_tree_of_classes() -> None:
    assert drawn() == classes(MDMTError)


def test_every_error_is_exported() -> None:
    assert set(errors.__all__) == {"MDMTError", *classes(MDMTError)}


def test_only_bad_input_exits_with_2() -> None:
    below = classes(errors.BadInput)
    codes = {name: getattr(errors, name).exit_code for name in errors.__all__}
    assert codes == {name: 2 if name in {"BadInput", *below} else 1 for name in codes}
