"""Batches that a thread makes while the one before is used."""

from __future__ import annotations

import threading
import time

import pytest

from mdmt.data.batches import prefetch


def test_nothing_is_lost_or_reordered():
    assert list(prefetch(iter(range(5)))) == [0, 1, 2, 3, 4]
    assert list(prefetch(iter(()))) == []
    assert list(prefetch(iter([None, None]))) == [None, None]


def test_the_next_item_is_made_while_this_one_is_used():
    made = threading.Event()

    def items():
        yield 1
        made.set()
        yield 2

    following = prefetch(items())
    assert next(following) == 1
    assert made.wait(10)
    assert list(following) == [2]


def test_no_more_than_the_next_one_is_made():
    made = []

    def items():
        for number in range(9):
            made.append(number)
            yield number

    following = prefetch(items())
    next(following)
    time.sleep(0.05)
    assert made == [0, 1]
    following.close()


def test_an_error_reaches_whoever_uses_the_items():
    def items():
        yield 1
        raise ValueError("a damaged image")

    following = prefetch(items())
    assert next(following) == 1
    with pytest.raises(ValueError, match="a damaged image"):
        next(following)


def test_no_thread_is_left():
    before = threading.active_count()
    list(prefetch(iter(range(3))))
    unfinished = prefetch(iter(range(3)))
    next(unfinished)
    unfinished.close()
    assert threading.active_count() == before
