"""Streams: order, bounded look-ahead, and batches that survive a bad item."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from itertools import groupby, islice

import pytest

from curation_features import concurrency
from curation_features.concurrency import QUICK, BatchRunner, at_once, batched, bounded_map, in_order


def test_the_source_is_read_only_so_far_ahead() -> None:
    taken: list[int] = []

    def source():
        for n in range(1000):  # not endless: a test that fails must not fill the memory
            taken.append(n)
            yield n

    stream = bounded_map(lambda n: n, source(), workers=2, ahead=5)
    for asked in range(1, 20):
        next(stream)
        assert len(taken) <= asked + 5
    stream.close()


def test_a_closed_stream_leaves_no_thread() -> None:
    before = threading.active_count()
    stream = bounded_map(lambda n: n, range(1000), workers=3, ahead=9)
    list(islice(stream, 5))
    stream.close()
    assert threading.active_count() == before


def test_in_bursts_nothing_runs_while_the_caller_works() -> None:
    running: list[int] = []
    done: list[int] = []
    both = threading.Barrier(2, timeout=60)

    def run(n: int) -> int:
        running.append(n)
        both.wait()  # passes only if two calls run in parallel
        done.append(n)
        running.remove(n)
        return n

    stream = bounded_map(run, range(8), workers=2, ahead=4, in_bursts=lambda: True)
    for n in range(8):
        assert next(stream) == n
        assert running == []
        assert len(done) == 4 * (n // 4 + 1)
    assert list(stream) == []


def test_results_come_in_order_also_if_bursts_start_and_end() -> None:
    taken: list[int] = []
    for n in bounded_map(lambda n: n * n, range(60), workers=3, ahead=5, in_bursts=lambda: 10 < len(taken) < 40):
        taken.append(n)
    assert taken == [n * n for n in range(60)]


def test_the_look_ahead_may_change_over_time() -> None:
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


class Clocks:
    """Simulated clocks, which advance only by the time that a call claims."""

    def __init__(self) -> None:
        self._own = threading.local()
        self._wall = 0.0

    def thread_time(self) -> float:
        return getattr(self._own, "seconds", 0.0)

    def perf_counter(self) -> float:
        return self._wall

    def work(self) -> None:
        """Use CPU time of this thread."""
        self._own.seconds = self.thread_time() + 2 * QUICK
        self._wall += 2 * QUICK

    def wait(self) -> None:
        """Use wall-clock time only."""
        self._wall += 2 * QUICK


@pytest.fixture
def clocks(monkeypatch) -> Clocks:
    simulated = Clocks()
    monkeypatch.setattr(concurrency, "time", simulated)
    return simulated


def run_by_caller(function: Callable[[int], object], count: int) -> list[bool]:
    """Return for each call whether it ran in the caller's thread."""
    caller = threading.get_ident()

    def run(n: int) -> bool:
        function(n)
        return threading.get_ident() == caller

    return list(bounded_map(run, range(count), workers=2, ahead=8))


def test_quick_calls_run_in_the_callers_thread(clocks) -> None:
    by_caller = run_by_caller(lambda n: None, 200)
    assert not any(by_caller[:8])
    assert all(by_caller[16:])  # eight calls are done when this one starts


def test_slow_calls_stay_in_threads(clocks) -> None:
    assert not any(run_by_caller(lambda n: clocks.work(), 200))


def test_waiting_calls_are_tried_ever_more_rarely_in_the_caller(clocks) -> None:
    by_caller = run_by_caller(lambda n: clocks.wait(), 500)
    runs = [(own, len(list(calls))) for own, calls in groupby(by_caller)]
    assert [own for own, _ in runs[:4]] == [False, True, False, True]
    in_threads = [length for own, length in runs if not own]
    assert all(length >= least for length, least in zip(in_threads[:-1], (8, 16, 32, 64, 128, 256), strict=False))
    assert sum(by_caller) <= 8 * len(runs)


def test_one_slow_call_sends_the_next_calls_to_threads(clocks) -> None:
    by_caller = run_by_caller(lambda n: clocks.work() if n >= 100 else None, 200)
    assert by_caller[99:101] == [True, True]
    assert not any(by_caller[101:])


def test_slow_calls_do_not_count_while_threads_are_busy(clocks) -> None:
    entered, release = threading.Event(), threading.Event()

    def run_until_released() -> None:
        entered.set()
        release.wait(60)

    pace = concurrency._Pace(lambda action: action())
    for _ in range(8):
        pace.run_in_thread(lambda: None)
    thread = threading.Thread(target=pace.run_in_thread, args=(run_until_released,))
    thread.start()
    assert entered.wait(60)
    for _ in range(8):
        pace.run_in_caller(clocks.wait)
    assert pace.is_quick
    release.set()
    thread.join()
    for _ in range(8):
        pace.run_in_caller(clocks.wait)
    assert not pace.is_quick


def test_calls_interrupted_now_and_then_stay_in_the_caller(clocks) -> None:
    by_caller = run_by_caller(lambda n: clocks.wait() if n % 4 else None, 400)
    assert all(by_caller[16:])


def test_in_bursts_no_call_runs_in_the_callers_thread() -> None:
    stream = bounded_map(lambda n: threading.get_ident(), range(100), workers=2, ahead=8, in_bursts=lambda: True)
    assert threading.get_ident() not in set(stream)


@pytest.mark.parametrize("bad", [3, 1000], ids=["in a thread", "in the caller's thread"])
def test_an_error_keeps_its_position(clocks, bad: int) -> None:
    def fail(n: int) -> int:
        if n == bad:
            raise ValueError("bad")
        return n

    stream = bounded_map(fail, range(1100), workers=2, ahead=8)
    assert [next(stream) for _ in range(bad)] == list(range(bad))
    with pytest.raises(ValueError, match="bad"):
        next(stream)


def test_batches() -> None:
    assert list(batched(range(5), 2)) == [[0, 1], [2, 3], [4]]
    assert list(batched([], 2)) == []


class Model:
    """Runs on batches; records their sizes, and fails above a size or with a bad item in the batch."""

    def __init__(self, *, most: int = 99, bad: frozenset[int] = frozenset(), error: type[Exception] = MemoryError):
        self.most, self.bad, self.error = most, bad, error
        self.sizes: list[int] = []

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.sizes.append(len(items))
        if len(items) > self.most or self.bad.intersection(items):
            raise self.error
        return [item * 10 for item in items]


@pytest.mark.parametrize("bad", [set(), {0}, {6}, {2, 3}, set(range(7))])
def test_only_the_bad_members_of_a_batch_fail(bad: set[int]) -> None:
    results = BatchRunner()(Model(bad=frozenset(bad)), range(7))
    expected = [None if n in bad else n * 10 for n in range(7)]
    assert [None if isinstance(result, MemoryError) else result for result in results] == expected


def test_a_good_batch_is_run_once() -> None:
    model = Model()
    BatchRunner()(model, range(8))
    assert model.sizes == [8]


def test_a_batch_size_that_ran_out_of_memory_is_not_retried() -> None:
    runner, model = BatchRunner(), Model(most=3)
    assert runner(model, range(16)) == [n * 10 for n in range(16)]
    assert model.sizes[:3] == [16, 8, 4]
    model.sizes.clear()
    assert runner(model, range(16)) == [n * 10 for n in range(16)]
    assert model.sizes == [2] * 8


@pytest.mark.parametrize(("error", "later"), [(MemoryError, [4, 4]), (ValueError, [8])])
def test_one_bad_item_halves_later_batches_if_memory_ran_out(error: type[Exception], later: list[int]) -> None:
    runner, model = BatchRunner(), Model(bad=frozenset({0}), error=error)
    assert [isinstance(result, error) for result in runner(model, range(8))] == [True] + [False] * 7
    model.sizes.clear()
    runner(model, range(1, 9))
    assert model.sizes == later
