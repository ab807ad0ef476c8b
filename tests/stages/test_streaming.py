"""Streams: order, bounded look-ahead, and a batch that survives a bad member."""

from __future__ import annotations

import threading
import time
from itertools import count, islice

import pytest

from curation_features.stages.streaming import QUICK, BatchRunner, at_once, batched, bounded_map, in_order


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


def test_in_bursts_nothing_runs_while_the_caller_works() -> None:
    running: list[int] = []
    done: list[int] = []
    both = threading.Barrier(2, timeout=60)

    def run(n: int) -> int:
        running.append(n)
        both.wait()  # passes only where two run side by side
        done.append(n)
        running.remove(n)
        return n

    stream = bounded_map(run, range(8), workers=2, ahead=4, in_bursts=lambda: True)
    for n in range(8):
        assert next(stream) == n
        assert running == []
        assert len(done) == 4 * (n // 4 + 1)
    assert list(stream) == []


def test_bursts_may_begin_and_end_in_mid_stream() -> None:
    taken: list[int] = []
    stream = bounded_map(lambda n: n, range(60), workers=3, ahead=5, in_bursts=lambda: 10 < len(taken) < 40)
    for n in stream:
        taken.append(n)
    assert taken == list(range(60))


def test_futures_are_drawn_as_far_ahead_as_is_allowed_at_the_time() -> None:
    drawn: list[int] = []
    allowed = 1

    def source():
        for n in range(100):
            drawn.append(n)
            yield at_once(int, n)

    stream = in_order(source(), lambda: allowed)
    assert next(stream) == 0
    assert len(drawn) == 2
    allowed = 5
    assert [next(stream), next(stream)] == [1, 2]
    assert len(drawn) == 3 + 5


def work(n: int) -> None:
    """Takes time that is this thread's own."""
    end = time.thread_time() + 2 * QUICK
    while time.thread_time() < end:
        pass


def wait(n: int) -> None:
    """Takes time that is nobody's own."""
    time.sleep(2 * QUICK)


def test_quick_calls_are_made_in_the_callers_thread() -> None:
    threads = list(bounded_map(lambda n: threading.get_ident(), range(2000), workers=2, ahead=8))
    own = threads.count(threading.get_ident())
    assert own > 1000  # nearly all; but what else this machine does may make some calls slow
    assert threads[:8].count(threading.get_ident()) == 0


def test_calls_that_take_long_stay_in_threads() -> None:
    assert threading.get_ident() not in in_which_threads(work, 50)


def test_calls_that_wait_are_tried_in_the_callers_thread_ever_more_rarely() -> None:
    own = [n for n, thread in enumerate(in_which_threads(wait, 500)) if thread == threading.get_ident()]
    assert 1 <= len(own) <= 50  # some when 8 were quick in threads, then when 16 were, 32, 64, 128
    assert len(own) > 2 * len([n for n in own if n >= 250])


def in_which_threads(function, count: int) -> list[int]:
    def run(n: int) -> int:
        function(n)
        return threading.get_ident()

    return list(bounded_map(run, range(count), workers=2, ahead=8))


def test_one_long_call_after_quick_ones_sends_those_after_it_into_threads() -> None:
    def run(n: int) -> int:
        if n >= 1000:
            work(n)
        return threading.get_ident()

    threads = list(bounded_map(run, range(1100), workers=2, ahead=64))
    assert threads[1000:].count(threading.get_ident()) <= 1


def test_in_bursts_no_call_is_made_in_the_callers_thread() -> None:
    stream = bounded_map(lambda n: threading.get_ident(), range(100), workers=2, ahead=8, in_bursts=lambda: True)
    assert threading.get_ident() not in set(stream)


def test_an_error_in_the_callers_thread_comes_in_its_place() -> None:
    def fail(n: int) -> int:
        if n == 1000:
            raise ValueError("thousand")
        return n

    stream = bounded_map(fail, range(1100), workers=2, ahead=8)
    assert [next(stream) for _ in range(1000)] == list(range(1000))
    with pytest.raises(ValueError, match="thousand"):
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

    results = BatchRunner()(run, range(7))
    assert [isinstance(result, MemoryError) for result in results] == [n in bad for n in range(7)]
    assert [result for result in results if not isinstance(result, Exception)] == [
        n * 10 for n in range(7) if n not in bad
    ]


def test_a_good_batch_is_run_once() -> None:
    calls: list[int] = []

    def run(items):
        calls.append(len(items))
        return items

    BatchRunner()(run, range(8))
    assert calls == [8]


def lacking_memory_above(count: int, sizes: list[int]):
    """A function that runs out of memory for more than `count` items, and notes how many it is given."""

    def run(items):
        sizes.append(len(items))
        if len(items) > count:
            raise MemoryError
        return items

    return run


def test_a_batch_that_memory_did_not_suffice_for_is_not_tried_again() -> None:
    sizes: list[int] = []
    runner, run = BatchRunner(), lacking_memory_above(3, sizes)
    assert runner(run, range(16)) == list(range(16))
    assert sizes[:3] == [16, 8, 4]
    sizes.clear()
    assert runner(run, range(16)) == list(range(16))
    assert sizes == [2] * 8


def test_one_item_that_fails_alone_does_not_make_batches_small_for_ever() -> None:
    sizes: list[int] = []

    def run(items):
        sizes.append(len(items))
        if 0 in items:
            raise MemoryError
        return items

    runner = BatchRunner()
    assert [isinstance(result, MemoryError) for result in runner(run, range(8))] == [True] + [False] * 7
    sizes.clear()
    runner(run, range(1, 9))
    assert sizes == [4, 4]


def test_another_error_than_lack_of_memory_leaves_batches_as_they_are() -> None:
    sizes: list[int] = []

    def run(items):
        sizes.append(len(items))
        if 0 in items:
            raise ValueError
        return items

    runner = BatchRunner()
    runner(run, range(8))
    sizes.clear()
    runner(run, range(1, 9))
    assert sizes == [8]
