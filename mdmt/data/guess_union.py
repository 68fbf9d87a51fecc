"""Bring the guesses for several tables into one federation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mdmt.data.guess import Guess, task_name
from mdmt.data.guess_labels import GuessedTask


def unite(guesses: Mapping[str, Guess]) -> dict[str, Guess]:
    """Let tasks of several sites have one name if they have one label space, else different names.

    Parameters
    ----------
    guesses : mapping of str to Guess
        By site.
    """
    known: dict[str, GuessedTask] = {}
    named: dict[str, list[GuessedTask]] = {site: [] for site in guesses}
    for site, guess in guesses.items():
        for task in guess.tasks:
            name = task.name
            if name in known and not known[name].same_space(task):
                name = task_name(f"{name}-{site}")
            (low, high), before = task.range, known.get(name, task).range
            ends = min(low, before[0]), max(high, before[1])
            known[name] = replace(task, name=name, range=ends)
            named[site].append(known[name])
    return {
        site: replace(
            guess, tasks=tuple(replace(t, range=known[t.name].range) for t in named[site])
        )
        for site, guess in guesses.items()
    }
