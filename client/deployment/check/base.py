"""The result of a check, and how a function becomes a check."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Literal, ParamSpec

from mdmt.errors import MDMTError

P = ParamSpec("P")


@dataclass(frozen=True)
class Check:
    """One line of `mdmt site check`. It may name paths: only the site sees it."""

    name: str
    outcome: Literal["pass", "warn", "fail"]
    found: str
    remedy: str = ""


class Failed(Exception):
    """What a check found, and what to do about it; by default the remedy of the check."""

    outcome: Literal["warn", "fail"] = "fail"

    def __init__(self, found: str, remedy: str = "") -> None:
        self.found, self.remedy = found, remedy


class Warned(Failed):
    """The site can take part, but something may become a problem."""

    outcome = "warn"


def check(name: str, remedy: str = "") -> Callable[[Callable[P, str]], Callable[P, Check]]:
    """Make a check of a function that returns what it found, or raises what is wrong.

    `remedy` is for errors of files and of their contents, which the check does not explain itself.
    """

    def decorate(function: Callable[P, str]) -> Callable[P, Check]:
        @wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> Check:
            try:
                return Check(name, "pass", function(*args, **kwargs))
            except Failed as error:
                return Check(name, error.outcome, error.found, error.remedy or remedy)
            except OSError as error:
                return Check(name, "fail", f"{error.filename}: {error.strerror}", remedy)
            except MDMTError as error:
                return Check(name, "fail", str(error), remedy)

        return checked

    return decorate
