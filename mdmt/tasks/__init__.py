"""Task kinds: a label space and what follows from it. A new kind is one class in one file."""

from typing import Annotated

from pydantic import BeforeValidator, SerializeAsAny

from mdmt.strict import Names, by_kind
from mdmt.tasks.base import FloatArray, Task, task_kinds
from mdmt.tasks.classification import Classification
from mdmt.tasks.families import Numbers, Probabilities
from mdmt.tasks.multilabel import Multilabel
from mdmt.tasks.ordinal import Ordinal
from mdmt.tasks.regression import Regression

__all__ = [
    "AnyTask",
    "Classification",
    "FloatArray",
    "Multilabel",
    "Names",
    "Numbers",
    "Ordinal",
    "Probabilities",
    "Regression",
    "Task",
    "task_kinds",
]

AnyTask = Annotated[SerializeAsAny[Task], BeforeValidator(by_kind(task_kinds))]
"""A task as a configuration declares it; its ``kind`` names the class."""
