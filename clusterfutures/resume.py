"""`reattach`: an executor that goes on with the run of a program that is not there any more."""

from __future__ import annotations

import json
import os
import socket
import sys
from typing import TYPE_CHECKING, Any, Optional, Union

from clusterfutures.errors import RunDirectoryError
from clusterfutures.history import Past
from clusterfutures.lease import DriverLease
from clusterfutures.logs import FORMAT
from clusterfutures.session import Taken
from clusterfutures.spool import RunDirectory, read_own

if TYPE_CHECKING:
    from clusterfutures.executor import ClusterExecutor


def reattach(
    run_dir: Union[str, os.PathLike[str]], *, max_workers: Optional[int] = None
) -> ClusterExecutor:
    """An executor that goes on with the run in `run_dir`, whose program has ended or was killed.

    It is of the class that the run was made with, and has its options; `max_workers` may be another number.
    ``executor.futures`` has a future for each task that was submitted, items of a `map` among them, in that
    order, and by the names that ``options(name=...)`` gave.  What is done has its result or error; what runs
    is waited for; what was lost is tried again as its `retries` say; all else is run.  Then `submit` and
    `map` go on as ever.

    What was cancelled by itself stays so; what was cancelled together with the whole executor, as by Ctrl-C,
    is run.  A task that waited for a future of another executor fails with DependencyFailed.

    On the machine of that program a dead one is known at once; of one on another machine nothing must have
    been heard for 90 seconds, which are waited for.

    Raises RunInUse, with host and process, while that program lives, RunDirectoryError for what is no run
    directory, cannot be read, or is of another Python or of another machine's LocalExecutor, and
    SchedulerUnavailable if it must be asked whether a job was submitted, and does not answer.

    >>> from clusterfutures import LocalExecutor, reattach
    >>> with LocalExecutor(2, keep="always") as ex:
    ...     future = ex.options(name="square").submit(pow, 12, 2)
    >>> with reattach(ex.run_dir, max_workers=1) as again:
    ...     again.futures["square"].result(), again.submit(pow, 2, 10).result()
    (144, 1024)
    """
    path = os.path.abspath(os.fspath(run_dir))
    about = read_about(path)
    _check_here(path, about)
    lease = DriverLease(path)
    try:
        lease.take()
    except RunDirectoryError:
        raise
    except OSError as error:
        raise RunDirectoryError(f"cannot go on with {path}: {error}", path) from error
    try:
        return _executor(lease, RunDirectory(path, shared=bool(about["shared"])), max_workers)
    except BaseException:
        lease.release(lease.before)
        raise


def read_about(path: str) -> dict[str, Any]:
    """What a run says of itself; raises RunDirectoryError for what is no run of this user and version."""
    run = RunDirectory(path, shared=False)
    try:
        run.check()
        about = json.loads(read_own(run.about))
    except FileNotFoundError as error:
        text = f"{path} is no run directory: there is no {error.filename}"
        if not os.path.lexists(path):
            text += "; a run that ends well removes its own, unless it has keep='always'"
        raise RunDirectoryError(text, path) from error
    except (OSError, ValueError) as error:
        raise RunDirectoryError(f"{path} is no run directory that can be used: {error}", path) from error
    if not isinstance(about, dict) or "run_id" not in about or "shared" not in about:
        raise RunDirectoryError(f"{run.about} does not tell of a run", path)
    if about.get("format") != FORMAT:
        text = f"{path} was made by another version of clusterfutures: its format is {about.get('format')}"
        raise RunDirectoryError(f"{text}, and {FORMAT} is what this one reads", path)
    return about


def _check_here(path: str, about: dict[str, Any]) -> None:
    """Raise RunDirectoryError where this process cannot go on with a run."""
    version = "{}.{}".format(*sys.version_info[:2])
    if not str(about.get("python", "")).startswith(f"{version}."):
        text = f"{path} was made by Python {about.get('python')}"
        raise RunDirectoryError(f"{text}, whose pickles Python {version} may not understand", path)
    if not about["shared"] and about.get("host") != socket.gethostname():
        text = f"{path} is a run of one machine, {about.get('host')}: its workers are seen from there alone"
        raise RunDirectoryError(text, path)


def _executor(lease: DriverLease, run: RunDirectory, max_workers: Optional[int]) -> ClusterExecutor:
    past = Past(run)
    about = past.tasks.about
    if not about:
        text = f"nothing was submitted in {run.path}: there is nothing to go on with"
        raise RunDirectoryError(text, run.path)
    made: ClusterExecutor = about["executor"](
        max_workers=about["max_workers"] if max_workers is None else max_workers,
        run_dir=Taken(lease, past),
        **about["options"],
    )
    made._session.start()
    return made
