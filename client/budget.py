"""The budget of a site: how many messages about its patients may leave it, over all runs.

A message is paid before its order runs, and the payment is on the disk before that. The budget
belongs to an approved recipe: a coordinator can choose another run id, resume a run or start a new
one, but cannot choose another recipe without the approval of the site's engineer.

Two messages are free, because they tell nothing new: the order that was paid last, if it arrives
again (its process was killed before it answered), and a site card that equals the last one. An
earlier order is not free: the memory of the site has changed since.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from mdmt.config import SiteConfig
from mdmt.errors import PolicyError, StateError
from mdmt.files import read_json, sync_folder, write_json
from mdmt.strict import Strict

Purpose = Literal["card", "order"]


class _Account(Strict):
    """The payments of one recipe."""

    spent: Annotated[int, Field(ge=0)] = 0
    card: str = ""
    """SHA-256 of the last site card."""
    order: str = ""
    """SHA-256 of the order that was paid last."""


class _Book(Strict):
    """The content of the file."""

    recipes: dict[str, _Account] = {}


class Budget:
    """The messages of a site that were paid.

    Parameters
    ----------
    path : Path
        A JSON file. Without it, nothing was paid.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def spent(self, recipe: str) -> int:
        """Return the messages that were paid for the recipe with this SHA-256."""
        return self._read().recipes.get(recipe, _Account()).spent

    def pay(self, recipe: str, limit: int, purpose: Purpose, identity: str) -> None:
        """Pay one message, unless the last payment for this purpose was for the same one.

        Parameters
        ----------
        recipe : str
            SHA-256 of the recipe.
        limit : int
            `policy.max_messages`.
        purpose : {"card", "order"}
        identity : str
            SHA-256 of the card or of the order.

        Raises
        ------
        PolicyError
            Nothing is left. Nothing was paid.
        StateError
            The file is damaged.
        OSError
            The disk is full or read-only. The order must not run.
        """
        book = self._read()
        account = book.recipes.get(recipe, _Account())
        if getattr(account, purpose) == identity:
            return
        if account.spent >= limit:
            raise PolicyError(
                f"policy: max_messages allows {limit} messages for this recipe, all are used"
            )
        paid = account.model_copy(update={"spent": account.spent + 1, purpose: identity})
        write_json(self.path, _Book(recipes=book.recipes | {recipe: paid}).model_dump())
        sync_folder(self.path.parent)

    def _read(self) -> _Book:
        try:
            return _Book.model_validate(read_json(self.path))
        except FileNotFoundError:
            return _Book()
        except (ValueError, ValidationError) as error:
            raise StateError(
                f"{self.path} is damaged, so nobody knows how many messages were sent; restore it"
                " from a backup, or remove it to start a new budget"
            ) from error


def open_budget(site: SiteConfig) -> Budget:
    """Return the budget in the site's state folder."""
    return Budget(site.state_root / "budget.json")
