"""What the supervisors and workers of a job have to know, as one file in the run directory."""

from __future__ import annotations

from clusterfutures import payload
from clusterfutures.light import NamedTuple
from clusterfutures.logs import CorruptRecord, Location, frame, parse
from clusterfutures.spool import RunDirectory, publish, read_own

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional


SLOTS = 4096
"""Workers that a job can have at most: places in its map of markers, and more than any machine has cores."""


class Specification(NamedTuple):
    """Plain data; written once a job, before it is submitted.

    `workers` is how many to start at first; `max_tasks` ends a worker after so many tasks (0: never);
    `initializer` is None, or where its function and its arguments stand in the journal; `orphan` ("kill",
    "drain" or "keep") says what happens `orphan_timeout` seconds after the driver was last heard of;
    `slots` workers share the job's CPUs and GPUs, `cores` CPUs each (0: what there is), or leave them
    alone if it is 0; `tasks` are packed assignments, one for each element where each has a task of its own;
    `job_id` is the element's own, for its supervisor to fill in; `authkey` is that of the driver's
    `multiprocessing`, empty if it has no managers; `argv` is the program's `sys.argv`.  `kind` of tasks,
    `elements` and `throttle` are for another driver, as the last one asked the scheduler for them.
    """

    run_id: str
    shared: bool
    workers: int
    max_tasks: int
    initializer: Optional[tuple[Location, Location]]
    sys_path: list[str]
    orphan: str
    orphan_timeout: float
    job_id: str = ""
    authkey: bytes = b""
    slots: int = 0
    cores: int = 0
    tasks: bytes = b""
    argv: tuple[str, ...] = ()
    kind: int = 0
    elements: int = 1
    throttle: int = 0

    def write(self, run: RunDirectory, job: int) -> None:
        """Publish it as the specification of `job`."""
        publish(run.specification(job), frame(1, payload.dumps_result(tuple(self))), sync=run.shared)

    @classmethod
    def read(cls, run: RunDirectory, job: int) -> Specification:
        """The specification of `job`; OSError or CorruptRecord if it is not there, or may be another's."""
        frames, _ = parse(read_own(run.specification(job)))
        if not frames:
            raise CorruptRecord(f"{run.specification(job)} is cut short")
        return cls(*payload.loads_result(frames[0].body))
