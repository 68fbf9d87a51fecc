"""All errors that this package raises on purpose.

::

    MDMTError
    ├── BadInput                exit 2: something the user gave cannot be used
    │   ├── ConfigError         a YAML file or an override
    │   ├── DataError           a table, a label, a split
    │   │   └── ImageError      one image
    │   ├── WeightsError        a file of weights
    │   └── RegistrationError   sites that cannot form this federation
    ├── PolicyError             exit 1: a site's policy forbids what the server asks
    ├── StateError              exit 1: saved state that does not belong here
    │   └── DamagedError        a saved file that differs from what was written
    ├── DiskFullError           exit 1: a disk without space; nothing that was there is lost
    ├── RunError                exit 1: a run that started and failed
    │   └── IncompleteError     a trained run whose final test lacks a site
    └── Refused                 a site's answer that the server cannot use; written to the history

A message is one line. It names the file, key or image and says what to do. It can contain paths and
patient ids: it is for the machine where the error occurred and is never sent. The one exception is
`PolicyError`, whose text is written for the server.
"""

from __future__ import annotations

from mdmt.untrusted import shown

__all__ = [
    "BadInput",
    "ConfigError",
    "DamagedError",
    "DataError",
    "DiskFullError",
    "ImageError",
    "IncompleteError",
    "MDMTError",
    "PolicyError",
    "Refused",
    "RegistrationError",
    "RunError",
    "StateError",
    "WeightsError",
]


class MDMTError(Exception):
    """Base of all errors that are raised on purpose."""

    exit_code = 1


class BadInput(MDMTError):
    """What the user gave cannot be used; nothing was run or written."""

    exit_code = 2


class ConfigError(BadInput):
    """A configuration file, key, value or override is wrong."""


class DataError(BadInput):
    """A table, label or split is wrong."""


class ImageError(DataError):
    """One image cannot be used as a radiograph."""


class WeightsError(BadInput):
    """A weights file does not fit the backbone."""


class RegistrationError(BadInput):
    """The sites that answered cannot form this federation."""


class PolicyError(MDMTError):
    """A site's policy forbids what the server asks.

    The text is sent to the server: the key of the policy, its limit and the requested value.
    """


class StateError(MDMTError):
    """Saved state belongs to another federation, run or backbone."""


class DamagedError(StateError):
    """A saved file differs from what was written."""


class DiskFullError(MDMTError, OSError):
    """There is no space for a file. It is an `OSError`, as it was before it had a path."""


class RunError(MDMTError):
    """A run that had started cannot continue."""


class IncompleteError(RunError):
    """All rounds are trained and what was measured is written, but a site's results are missing."""


class Refused(MDMTError):
    """The server cannot use a site's answer.

    The round continues without the site. The text is a sentence for the history. It can quote what
    the site sent, so it is bounded and control characters are escaped.
    """

    def __init__(self, text: str) -> None:
        super().__init__(shown(text))
