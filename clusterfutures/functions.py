"""The functions that a worker has loaded: once each, with the globals that the driver meant."""

from __future__ import annotations

from clusterfutures import payload

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from clusterfutures.logs import Location
    from clusterfutures.spool import RunDirectory


class Loaded:
    """A function, the pickle that it is from, and the state of ``__main__`` after its last use."""

    __slots__ = ("body", "call", "version")

    def __init__(self, call: Callable[..., Any], body: bytes) -> None:
        self.call, self.body = call, body
        self.version = payload.main_version()


class Functions:
    """Functions by where they stand in the journal."""

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._loaded: dict[Location, Loaded] = {}

    def get(self, place: Location) -> Callable[..., Any]:
        """The function at `place`, ready to be called; raises whatever its unpickling raises."""
        loaded = self._loaded.get(place)
        if loaded is None:
            body = self._run.read_task(place).body
            function = payload.loads_function(body, self._run.fetch_buffer)
            loaded = self._loaded[place] = Loaded(function, body)
        elif loaded.version != payload.main_version():
            # Another function has brought other values of the same names since.
            payload.apply_definitions(loaded.body, self._run.fetch_buffer)
            loaded.version = payload.main_version()
        return loaded.call
