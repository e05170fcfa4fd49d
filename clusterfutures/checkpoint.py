"""The state that a task keeps from one attempt at it to the next.

Each attempt writes a file of its own, ``checkpoints/T/ATTEMPT`` in the run directory, and the next one takes
the newest that is whole: an attempt that was given up, and goes on somewhere all the same, spoils nothing.
"""

from __future__ import annotations

import os

from clusterfutures.logs import CorruptRecord, frame, parse
from clusterfutures.spool import RunDirectory, make_folder, publish, read_private

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_STATE = 40  # the kind of record that such a file holds


class Checkpoint:
    """What the running task has saved, in this attempt or in an earlier one; from `current_task`.

    >>> from clusterfutures import LocalExecutor, current_task
    >>> def count(upto):
    ...     checkpoint = current_task().checkpoint
    ...     done = checkpoint.load(default=0)
    ...     while done < upto:
    ...         done += 1
    ...         checkpoint.save(done)
    ...         if done == 2 and current_task().attempt == 0:
    ...             os._exit(1)  # the worker dies
    ...     return done, current_task().attempt
    >>> import os
    >>> with LocalExecutor(1) as ex:
    ...     ex.options(retries=1).submit(count, 3).result()
    (3, 1)
    """

    def __init__(self, run_dir: str, task: int, attempt: int) -> None:
        self._run_dir, self._attempt = run_dir, attempt
        self._folder = RunDirectory(run_dir, shared=True).checkpoints(task)

    def save(self, state: Any) -> None:
        """Keep `state` (any object that can be pickled) in place of what was saved before.

        Once this returns it is on the disk: a worker that dies in the middle leaves the earlier state.
        Raises the pickler's error, or OSError if it cannot be written; the earlier state stays then.
        """
        from clusterfutures import payload

        data = frame(_STATE, payload.dumps_result(state))
        make_folder(self._folder, self._run_dir)
        publish(self._path(self._attempt), data, sync=True)

    def load(self, default: Any = None) -> Any:
        """What was saved last, `default` if nothing was.

        Raises what its unpickling raises; PermissionError for a file that another user could have written.
        """
        from clusterfutures import payload

        for attempt in sorted(self._saved(), reverse=True):
            try:
                frames, _ = parse(read_private(self._path(attempt)))
            except (FileNotFoundError, CorruptRecord):
                continue
            if frames:
                return payload.loads_result(frames[0].body)
        return default

    def remove(self) -> None:
        """Forget what was saved; without this it stays as long as the run's directory does."""
        for attempt in self._saved():
            os.unlink(self._path(attempt))

    def _saved(self) -> list[int]:
        """The attempts up to this one that have saved something."""
        try:
            names = os.listdir(self._folder)
        except FileNotFoundError:
            return []
        return [int(name) for name in names if name.isdecimal() and int(name) <= self._attempt]

    def _path(self, attempt: int) -> str:
        return os.path.join(self._folder, str(attempt))
