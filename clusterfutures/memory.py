"""Whether the kernel killed processes of this job for their memory: it counts them for each cgroup."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


class OutOfMemoryKills:
    """Notices when the kernel's out-of-memory killer has struck in this process's own memory cgroup.

    Sources: the kernel's documentation of cgroup-v2 (memory.events) and cgroup-v1 (memory.oom_control).
    """

    def __init__(self, root: str = "/sys/fs/cgroup", own: str = "/proc/self/cgroup") -> None:
        self._path = next((path for path in _candidates(root, own) if _count(path) is not None), "")
        self._seen = self._now()

    def _now(self) -> int:
        return _count(self._path) or 0

    def struck(self) -> bool:
        """Whether it has, once more than it was said to have; each of its deeds is told once."""
        if self._now() <= self._seen:
            return False
        self._seen += 1
        return True


def _candidates(root: str, own: str) -> Iterator[str]:
    try:
        with open(own) as file:
            lines = [line.rstrip("\n").split(":", 2) for line in file]
    except OSError:  # not Linux
        return
    for _, controllers, path in lines:
        if not controllers:
            yield f"{root}{path}/memory.events"
        elif "memory" in controllers.split(","):
            yield f"{root}/memory{path}/memory.oom_control"


def _count(path: str) -> int | None:
    """The number behind "oom_kill"; None if there is none."""
    try:
        with open(path) as file:
            for line in file:
                name, _, value = line.partition(" ")
                if name == "oom_kill":
                    return int(value)
    except (OSError, ValueError):
        pass
    return None
