"""Task kinds: a label space and what follows from it. A new kind is one class in one file."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mdmt.tasks.base import Task
from mdmt.tasks.classification import Classification
from mdmt.tasks.multilabel import Multilabel
from mdmt.tasks.ordinal import Ordinal
from mdmt.tasks.regression import Regression

__all__ = ["AnyTask", "Classification", "Multilabel", "Ordinal", "Regression", "Task"]

AnyTask = Annotated[Classification | Regression | Ordinal | Multilabel, Field(discriminator="kind")]
"""A task as a configuration declares it, told apart by ``kind``."""
