"""What a caller has used up in one web worker it has used up in all of them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cds_service.admission import BURST_S
from cds_service.shared_buckets import SLOTS, SharedBuckets


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_two_workers_share_one_bucket_of_a_caller_and_not_the_others(tmp_path: Path) -> None:
    clock = Clock()
    one, two = (SharedBuckets(tmp_path / "buckets", 10.0, clock) for _ in range(2))
    assert one.take("a", 15) == 0.0
    assert two.take("a", 5) == 0.0  # 20 points: two seconds' worth
    assert two.take("a", 5) == pytest.approx(0.5)
    assert two.take("b", 20) == 0.0
    clock.now += 0.5
    assert one.take("a", 5) == 0.0
    assert one.take("a", 1) > 0.0


def test_many_threads_of_two_workers_take_no_more_than_there_is(tmp_path: Path) -> None:
    clock = Clock()
    workers = [SharedBuckets(tmp_path / "buckets", 50.0, clock) for _ in range(2)]
    with ThreadPoolExecutor(16) as pool:
        taken = list(pool.map(lambda n: workers[n % 2].take("a", 1.0), range(400)))
    assert taken.count(0.0) == int(50.0 * BURST_S)


def test_more_callers_than_there_is_room_for_are_still_held_to_something(tmp_path: Path) -> None:
    buckets = SharedBuckets(tmp_path / "buckets", 1.0, Clock())
    for n in range(SLOTS):
        assert buckets.take(f"caller-{n}", 2) == 0.0
    assert buckets.take("one more", 2) == 0.0
    assert buckets.take("one more", 2) > 0.0
