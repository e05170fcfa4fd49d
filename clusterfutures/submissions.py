"""Jobs on their way to the scheduler: one at a time, at its pace, and never twice."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Optional

from clusterfutures.clerk import Clerk
from clusterfutures.errors import SchedulerUnavailable, SubmitLimitReached
from clusterfutures.schedulers.base import JobRequest, Scheduler

log = logging.getLogger("clusterfutures")

GROWTH_INTERVAL = 1.0  # seconds between two submissions for the same cause, however fast tasks come in
PATIENCE = (5.0, 60.0)  # seconds until a submission that was put off is tried again: at first, at most
MAX_ELEMENTS = 1000  # of one job: what most sites allow, and not too many for a directory


class Submission(NamedTuple):
    """A job for tasks of a `kind`: its elements begin with `each` workers, then have `wants`."""

    request: JobRequest
    kind: int
    each: int
    wants: list[int]


class TooLarge(Exception):
    """The scheduler takes arrays of up to `limit` elements."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"the scheduler takes arrays of up to {limit} elements")
        self.limit = limit


class Submissions:
    """Hands jobs in, one at a time; what comes of it is told in the watching thread, to which `post` leads.

    `accepted` gets the ids of a job's elements, `refused` the reason for which it will never be taken.
    """

    def __init__(
        self,
        clerk: Clerk,
        scheduler: Scheduler,
        post: Callable[[Callable[[], None]], None],
        accepted: Callable[[Submission, list[str]], None],
        refused: Callable[[Submission, Exception], None],
    ) -> None:
        self._clerk, self._scheduler, self._post = clerk, scheduler, post
        self._accepted, self._refused = accepted, refused
        self._current: Optional[Submission] = None
        self._with_clerk = self._given_up = False
        self._next = -math.inf  # when the next one may be handed in
        self._pause = 0.0
        self._largest = self.most = MAX_ELEMENTS
        """Elements that the scheduler takes at a time, as far as is known."""

    @property
    def current(self) -> Optional[Submission]:
        """What was handed in and is not settled: it may have been accepted or not."""
        return self._current

    @property
    def wait(self) -> float:
        """Seconds until something may be handed in; without end while something is."""
        return math.inf if self._with_clerk else max(self._next - time.monotonic(), 0.0)

    @property
    def ready(self) -> bool:
        """Whether a job as large as can be may be handed in: it need not wait for more to come together."""
        return not self._with_clerk and not (self._pause and self.wait)

    def hand_in(self, submission: Submission) -> None:
        """Submit this job."""
        self._current = submission
        self._hand_in(submission)

    def retry(self) -> None:
        """Submit what got no answer once more, if there is such and it is time: that finds out."""
        if self._current is not None and not self.wait:
            self._hand_in(self._current)

    def hurry(self) -> None:
        """The scheduler answers again: what got no answer need not wait for long any more."""
        if self._current is not None:
            self._next = min(self._next, time.monotonic() + GROWTH_INTERVAL)

    def hold(self, reason: Exception) -> None:
        """Hand nothing in for a while: what was accepted last came to nothing."""
        self._wait_longer(reason)

    def give_up(self) -> None:
        """What got no answer is not asked for any more."""
        self._given_up = True
        if not self._with_clerk:
            self._current = None

    def _hand_in(self, submission: Submission) -> None:
        self._with_clerk = True

        def then(ids: Any, error: Optional[Exception]) -> None:
            self._post(lambda: self._answered(submission, ids, error))

        self._clerk.do(then, self._submit, submission.request)

    def _submit(self, request: JobRequest) -> list[str]:
        """In the clerk's thread."""
        if request.elements > 1 and request.elements > self._scheduler.max_array:
            raise TooLarge(self._scheduler.max_array)
        return self._scheduler.submit(request)

    def _answered(
        self, submission: Submission, ids: Optional[list[str]], error: Optional[Exception]
    ) -> None:
        self._with_clerk = False
        self._next = time.monotonic() + GROWTH_INTERVAL
        if isinstance(error, SchedulerUnavailable) and not self._given_up:
            self._wait_longer(error)  # and keep it: the same once more finds out whether it was accepted
            return
        self._current = None
        size = len(submission.wants)
        if ids is not None:
            self._pause = 0.0
            self.most = min(max(self.most, 2 * size), self._largest)
            self._accepted(submission, ids)
            return
        if isinstance(error, TooLarge):
            self._largest = self.most = error.limit
        elif isinstance(error, SubmitLimitReached):
            self.most = max(size // 2, 1)
            if size == 1:
                self._wait_longer(error)
        self._refused(submission, error or RuntimeError("no answer"))

    def _wait_longer(self, error: Exception) -> None:
        first, most = PATIENCE
        level = logging.INFO if self._pause else logging.WARNING  # it may go on for hours
        self._pause = min(max(first, 2 * self._pause), most)
        self._next = time.monotonic() + self._pause
        log.log(level, "no new job yet, trying again in %.0f s: %s", self._pause, error)
