"""The tables of docs/privacy.md."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from .hospital import Refused
from .matrix import ATTACKS, PROTECTIONS, Attack
from .secure_matrix import SUBTRACTIONS

SUCCESS, FAILURE, REFUSED = "**yes**", "no", "refused"


def attack_table(measured: bool = False, folder: Path = Path()) -> str:
    """Return the table of attacks and protections as Markdown.

    Parameters
    ----------
    measured : bool
        Run every attack below `folder`, which takes a minute. Otherwise take what is expected,
        which the tests compare with what happens.
    folder : Path
    """
    rows = []
    for name, attack in ATTACKS.items():
        cells = [
            _measure(attack, protection, folder / name / protection)
            if measured
            else _expect(attack, protection)
            for protection in PROTECTIONS
        ]
        rows.append([attack.title, attack.who, *cells])
    return _table(["attack", "who", *PROTECTIONS], rows)


def secure_table() -> str:
    """Return the table of attacks on secure aggregation as Markdown."""
    rows = [
        [attack.title, attack.who, FAILURE if attack.check else SUCCESS, attack.check or "nothing"]
        for attack in SUBTRACTIONS.values()
    ]
    return _table(["attack", "who", "reads the update", "what prevents it"], rows)


def _expect(attack: Attack, protection: str) -> str:
    reason = attack.fails.get(protection)
    return SUCCESS if reason is None else REFUSED if reason else FAILURE


def _measure(attack: Attack, protection: str, folder: Path) -> str:
    try:
        score = attack.against(PROTECTIONS[protection], folder)
    except Refused:
        return REFUSED
    return SUCCESS if score >= attack.success else FAILURE


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
