"""The metadata arm: what columns of the table predict of a task without the image."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdmt.config import SiteConfig
from mdmt.data.manifest import Manifest
from mdmt.data.table import label_columns
from mdmt.errors import DataError
from mdmt.tasks.base import FloatArray


def predict_from_columns(
    manifest: Manifest, task: str, site: SiteConfig, columns: Sequence[str]
) -> FloatArray:
    """Fit a linear model on the training images' columns and predict the test images.

    Logistic regression for classes and findings, ridge regression (clipped to the range) for
    scores. A column of numbers is standardised, its gaps filled with the median and marked; any
    other is one-hot, a gap being one more category.

    Parameters
    ----------
    manifest : Manifest
        Of one site, divided by a fold.
    task : str
    site : SiteConfig
    columns : sequence of str

    Returns
    -------
    ndarray, float64, (test images, len(space.prediction_names))
    """
    space = site.tasks[task].space
    train, test = manifest.indices("train"), manifest.indices("test")
    features = np.column_stack([manifest.columns[name] for name in columns]).astype(object)
    targets = manifest.targets[task]
    if space.exclusive:
        labelled = train[np.isfinite(targets[train, 0])]
        model = _fitted(features[labelled], targets[labelled, 0].astype(int))
        return _probabilities(model, features[test], len(space.labels))
    predictions = np.empty((len(test), len(space.prediction_names)))
    for output in range(space.width):
        labelled = train[np.isfinite(targets[train, output])]
        values = targets[labelled, output]
        if output in space.binary_outputs:
            model = _fitted(features[labelled], values.astype(int))
            predictions[:, output] = _probabilities(model, features[test], 2)[:, 1]
        else:
            model = _fitted(features[labelled], values)
            predictions[:, output] = np.clip(model.predict(features[test]), *space.bounds)
    return predictions


def has_columns(manifest: Manifest, columns: Sequence[str]) -> bool:
    """Whether a site's dataset gives all columns."""
    return all(name in manifest.columns for name in columns)


def check_columns(manifest: Manifest, site: SiteConfig, columns: Sequence[str]) -> None:
    """Refuse columns that a site's dataset does not give, or that are the label itself.

    Raises
    ------
    DataError
        Names the column.
    """
    for name in columns:
        if name not in manifest.columns:
            raise DataError(
                f"site {site.name}: no column {name} for the metadata arm: name it in the site's"
                " dataset.metadata"
            )
        for task, entry in site.tasks.items():
            if name in label_columns(task, entry):
                raise DataError(f"site {site.name}: the column {name} is the label of {task}")


def _fitted(features: NDArray[Any], values: NDArray[Any]) -> Any:
    """Fit a classifier of integers, or a regression of other numbers."""
    from sklearn.compose import ColumnTransformer
    from sklearn.dummy import DummyClassifier
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

    numbers = [column for column in range(features.shape[1]) if _is_number(features[:, column])]
    others = [column for column in range(features.shape[1]) if column not in numbers]
    numeric = make_pipeline(
        FunctionTransformer(_numbers),
        SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True),
        StandardScaler(),
    )
    encoded = ColumnTransformer(
        [("numbers", numeric, numbers), ("names", OneHotEncoder(handle_unknown="ignore"), others)],
        sparse_threshold=0,
    )
    if values.dtype.kind == "f":
        model: Any = Ridge()
    elif len(set(values.tolist())) < 2:  # one finding of several may have no case
        model = DummyClassifier(strategy="prior")
    else:
        model = LogisticRegression(max_iter=1000)
    return make_pipeline(encoded, model).fit(features, values)


def _is_number(column: NDArray[Any]) -> bool:
    """Return True if a column contains numbers and empty cells only."""
    cells = column[column != ""]
    return len(cells) > 0 and bool(np.isfinite(_numbers(cells)).all())


def _numbers(cells: NDArray[Any]) -> NDArray[np.float64]:
    """Convert text to numbers; a gap, or other text, becomes NaN."""

    def number(text: str) -> float:
        try:
            return float(text)
        except ValueError:
            return math.nan

    return np.asarray(np.vectorize(number, otypes=[np.float64])(cells))


def _probabilities(model: Any, features: NDArray[Any], classes: int) -> FloatArray:
    """Probabilities (N, classes); a class without a training image has 0."""
    probabilities = np.zeros((len(features), classes))
    probabilities[:, model.classes_] = model.predict_proba(features)
    return probabilities
