"""`Lanes`: waitress's threads, divided so that hook calls cannot keep health checks and feedback waiting.

Calls that would wait beyond their budget are answered at once, on a thread that does nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Protocol

from waitress.task import ThreadedTaskDispatcher

from cds_service.admission import Admission

FEEDBACK_THREADS = 4
QUICK_THREADS = 4
MOST_FEEDBACK_WAITING = 256
_CALL = re.compile(r"/+cds-services/+([^/]+)/*")
_FEEDBACK = re.compile(r"/+cds-services/+([^/]+)/+feedback/*")


class Overloaded(Exception):
    """Stands where waitress keeps the fault of a request. `retry_after_s` is what the caller is told."""

    code = 503

    def __init__(self, retry_after_s: int) -> None:
        super().__init__()
        self.retry_after_s = retry_after_s


class _Channel(Protocol):
    requests: list[Any]

    def service(self) -> None: ...
    def cancel(self) -> None: ...


class Lanes:
    """A task dispatcher for waitress.

    calls     hook calls: `admission.threads` of them at a time, and as many waiting as can be answered in time
    feedback  shed last: only when hundreds wait
    quick     health, discovery and whatever there is none of
    refusals  the answer to those who are turned away; `refused` is told the service's id and whether it is feedback
    """

    def __init__(
        self,
        admission: Admission,
        budget_s: Callable[[str], float],
        refused: Callable[[str, bool], None] = lambda service_id, feedback: None,
    ) -> None:
        self._admission = admission
        self._budget_s = budget_s
        self._refused = refused
        self.calls = _lane(admission.threads)
        self.feedback = _lane(FEEDBACK_THREADS)
        self.quick = _lane(QUICK_THREADS)
        self.refusals = _lane(1)

    def add_task(self, task: _Channel) -> None:
        """On the thread that reads all sockets: it must not wait here."""
        self._lane_for(task.requests[0]).add_task(task)

    def waiting(self) -> int:
        """Hook calls that no thread has taken yet."""
        return _waiting(self.calls)

    def _lane_for(self, request: Any) -> ThreadedTaskDispatcher:
        if request.error is not None or request.command != "POST":
            return self.quick
        call, feedback = _CALL.fullmatch(request.path), _FEEDBACK.fullmatch(request.path)
        if call is not None:
            waiting = self.waiting()
            if waiting < 0 or self._admission.room_to_wait(waiting, self._budget_s(call[1])):
                return self.calls
        elif feedback is None:
            return self.quick
        elif _waiting(self.feedback) < MOST_FEEDBACK_WAITING:
            return self.feedback
        asked = call or feedback
        if asked is not None:
            self._refused(asked[1], feedback is not None)
        request.error = Overloaded(self._admission.turned_away("queue").retry_after_s or 1)
        return self.refusals

    def shutdown(self, cancel_pending: bool = True, timeout: float = 5) -> bool:
        cancelled = [lane.shutdown(cancel_pending, timeout) for lane in (self.refusals, self.quick, self.feedback)]
        return bool(self.calls.shutdown(cancel_pending, timeout)) or any(cancelled)


def _lane(threads: int) -> ThreadedTaskDispatcher:
    lane = ThreadedTaskDispatcher()
    lane.set_thread_count(threads)
    return lane


def _waiting(lane: ThreadedTaskDispatcher) -> int:
    """Below zero: so many threads are idle."""
    with lane.lock:
        idle: int = len(lane.threads) - lane.stop_count - lane.active_count
        return len(lane.queue) - idle
