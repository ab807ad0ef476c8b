"""Streams: order, bounded look-ahead, and a batch that survives a bad member."""

from __future__ import annotations

import threading
from itertools import count, islice

import pytest

from curation_features.stages.streaming import batched, bounded_map, each_or_error


def test_results_come_in_order() -> None:
    assert list(bounded_map(lambda n: n * n, range(100), workers=4, ahead=8)) == [n * n for n in range(100)]


def test_the_source_is_read_only_so_far_ahead() -> None:
    taken: list[int] = []

    def source():
        for n in count():
            taken.append(n)
            yield n

    stream = bounded_map(lambda n: n, source(), workers=2, ahead=5)
    for asked in range(1, 20):
        next(stream)
        assert len(taken) <= asked + 5
    stream.close()


def test_a_stream_that_is_left_leaves_no_thread() -> None:
    before = threading.active_count()
    stream = bounded_map(lambda n: n, count(), workers=3, ahead=9)
    list(islice(stream, 5))
    stream.close()
    assert threading.active_count() == before


def test_an_error_reaches_the_consumer() -> None:
    def fail(n: int) -> int:
        if n == 3:
            raise ValueError("three")
        return n

    stream = bounded_map(fail, range(10), workers=2, ahead=4)
    assert [next(stream) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(stream)


def test_batches() -> None:
    assert list(batched(range(5), 2)) == [[0, 1], [2, 3], [4]]
    assert list(batched([], 2)) == []


@pytest.mark.parametrize("bad", [set(), {0}, {6}, {2, 3}, set(range(7))])
def test_only_the_bad_members_of_a_batch_fail(bad: set[int]) -> None:
    def run(items):
        if bad & set(items):
            raise MemoryError
        return [item * 10 for item in items]

    results = each_or_error(run, range(7))
    assert [isinstance(result, MemoryError) for result in results] == [n in bad for n in range(7)]
    assert [result for result in results if not isinstance(result, Exception)] == [
        n * 10 for n in range(7) if n not in bad
    ]


def test_a_good_batch_is_run_once() -> None:
    calls: list[int] = []

    def run(items):
        calls.append(len(items))
        return items

    each_or_error(run, range(8))
    assert calls == [8]
