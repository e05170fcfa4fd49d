"""Each worker's own part of what its job was granted: CPUs, GPUs, and as many threads as CPUs."""

from __future__ import annotations

import os

from clusterfutures.cpus import usable_cpus

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import MutableMapping, Sequence
    from typing import TypeVar

    T = TypeVar("T")

GPUS = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "ZE_AFFINITY_MASK")
"""Variables that list the GPUs that a process may use; schedulers set those that fit the node."""

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Variables that numerical libraries read, once, when they are loaded."""


def take(slot: int, slots: int, cores: int, environment: MutableMapping[str, str]) -> None:
    """Let this process have its part: the one of `slot` (from 0) among `slots` workers of a job.

    `cores` is how many CPUs each was asked for, 0 if that was left to the site.  What the user set of the
    variables for threads stays; fewer CPUs or GPUs than workers are used by all of them.
    """
    own = cores or max(1, usable_cpus() // slots)
    if hasattr(os, "sched_setaffinity"):
        try:
            os.sched_setaffinity(0, part(sorted(os.sched_getaffinity(0)), slot, slots))
        except OSError:
            pass  # a sandbox that forbids it: the workers share, as they would without this
    for name in GPUS:
        listed = [gpu for gpu in environment.get(name, "").split(",") if gpu]
        if listed:
            environment[name] = ",".join(part(listed, slot, slots))
    for name in THREADS:
        environment.setdefault(name, str(own))


def part(things: Sequence[T], slot: int, slots: int) -> Sequence[T]:
    """The part of `slot`: as large as all others, and disjoint; everything if there are too few."""
    each = len(things) // slots
    return things[slot * each : (slot + 1) * each] if each and slot < slots else things
