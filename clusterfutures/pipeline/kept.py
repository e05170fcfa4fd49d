"""A pipeline's directory: its results, one file for each pair, and what they were computed with.

::

    pipeline.json                    the parts of the computation, and whose results count
    running.lock                     held by the run that is under way
    events/EVENT/STATION.result      what has come of a pair
    events/EVENT/setup-ID.pickle     the value of the event's set-up, while the event is computed
    logs/EVENT.log

A result is published whole under its name; nobody but this module makes names of files.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import secrets
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import NamedTuple, Optional

from clusterfutures.errors import ClusterFuturesError, RunDirectoryError
from clusterfutures.payload import loads_error, loads_result
from clusterfutures.pipeline import fingerprint
from clusterfutures.pipeline.codes import Code, Path
from clusterfutures.pipeline.report import Failure, Outcome
from clusterfutures.spool import make_folder, publish, read_own
from clusterfutures.writing.leases import remove
from clusterfutures.writing.locks import Lock
from clusterfutures.writing.names import file_name

SUFFIX = ".result"


class PipelineChanged(ClusterFuturesError):
    """The function or its configuration is not that with which the kept results were computed.

    Attributes: `changes` (list of str), what is different.
    """

    def __init__(self, message: str, changes: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.changes = list(changes)


class Record(NamedTuple):
    """An outcome as it is written, and as it travels: its value is still a pickle.

    `traceback` is None for a value, and the text of the traceback for an exception.
    """

    fingerprint: str
    event: str
    station: str
    body: bytes
    traceback: Optional[str]
    seconds: float
    host: str


def seal(record: Record) -> bytes:
    """The record's bytes, with a checksum."""
    data = pickle.dumps(tuple(record), 5)
    return hashlib.sha256(data).digest() + data


def unseal(data: bytes) -> Optional[Record]:
    """The record; None if the bytes are not those that were sealed."""
    digest, body = data[:32], data[32:]
    if hashlib.sha256(body).digest() != digest:
        return None
    return Record(*pickle.loads(body))


class Kept:
    """The directory of a pipeline, at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = os.path.abspath(os.fspath(path))

    # -- names ----------------------------------------------------------------------------------

    def log(self, event: str) -> str:
        """The path of an event's log."""
        return os.path.join(self.path, "logs", file_name(event) + ".log")

    def folder(self, event: str) -> str:
        """The directory with an event's results."""
        return os.path.join(self.path, "events", file_name(event) + ".event")

    def setup(self, event: str) -> str:
        """A new path for the value of an event's set-up."""
        return os.path.join(self.folder(event), f"setup-{secrets.token_hex(8)}.pickle")

    def _result(self, code: Code) -> str:
        return os.path.join(self.folder(code.event), file_name(code.station) + SUFFIX)

    # -- the beginning --------------------------------------------------------------------------

    def make(self, events: Iterable[str]) -> None:
        """Make the directories for these events.

        Raises RunDirectoryError if the directory is somebody else's, or others may write to it: its files
        are pickles, and a pickle is code.
        """
        make_folder(self.path)
        self._check_owner()
        make_folder(os.path.join(self.path, "logs"))
        for event in events:
            make_folder(self.folder(event))

    def alone(self) -> AbstractContextManager[object]:
        """Keep other runs waiting: they would compute the same, and remove set-ups that this one needs."""
        return Lock(os.path.join(self.path, "running.lock")).hold()

    def _check_owner(self) -> None:
        status = os.stat(self.path)
        if status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise RunDirectoryError(f"{self.path} must be yours, and writable for nobody else", self.path)

    def admit(self, parts: Mapping[str, str], on_change: str) -> tuple[str, set[str]]:
        """The fingerprint of a computation with these parts, and those of all whose results count.

        Where other parts were there before, `on_change` says what to do: "raise" PipelineChanged, "recompute"
        all, or "keep" what there is.
        """
        own = fingerprint.digest_of(dict(parts))
        before, accepted = self._manifest()
        changes = fingerprint.changes(before, parts) if accepted else []
        if changes and on_change == "raise":
            raise PipelineChanged(
                f"{self.path} has results of another computation; what is different: {', '.join(changes)}. "
                "on_change='recompute' computes all anew, on_change='keep' takes those results as they are",
                changes,
            )
        if changes and on_change == "recompute":
            accepted = []
        if own not in accepted or changes:
            accepted = list(dict.fromkeys([*accepted, own]))
            self._write_manifest({"parts": dict(parts), "accepted": accepted})
        return own, set(accepted)

    def accepted(self) -> set[str]:
        """The fingerprints of all computations whose results count."""
        return set(self._manifest()[1])

    def _manifest(self) -> tuple[dict[str, str], list[str]]:
        path = os.path.join(self.path, "pipeline.json")
        try:
            with open(path, encoding="utf-8") as file:
                manifest = json.load(file)
            return manifest["parts"], manifest["accepted"]
        except FileNotFoundError:
            return {}, []
        except (ValueError, KeyError, TypeError) as error:
            raise RunDirectoryError(f"{path} is not a pipeline's", self.path) from error

    def _write_manifest(self, manifest: Mapping[str, object]) -> None:
        text = json.dumps(manifest, indent=2)
        publish(os.path.join(self.path, "pipeline.json"), text.encode(), sync=True)

    # -- results --------------------------------------------------------------------------------

    def write(self, record: Record) -> bytes:
        """Keep a record, in place of an earlier one of its pair; its bytes."""
        data = seal(record)
        publish(self._result(Code(record.event, record.station)), data, sync=True)
        return data

    def discard(self, code: Code) -> None:
        """Forget what there is of a pair."""
        remove(self._result(code))

    def count(self, event: str) -> int:
        """How many pairs of an event have a file, whether it counts or not."""
        return sum(name.endswith(SUFFIX) for name in _listed(self.folder(event)))

    def outcomes(self, codes: Iterable[Code], accepted: set[str]) -> dict[Code, Outcome]:
        """What is there of these pairs, as far as it counts; raises RunDirectoryError as `make` does."""
        found: dict[Code, Outcome] = {}
        if not os.path.isdir(self.path):
            return found
        self._check_owner()
        names = {self._result(code): code for code in codes}
        # Only names that a listing shows are opened: a node may believe for long that one is not there.
        for folder in dict.fromkeys(map(os.path.dirname, names)):
            for path in (os.path.join(folder, name) for name in _listed(folder)):
                record = _read(path) if path in names else None
                if record is not None and record.fingerprint in accepted:
                    outcome = self.outcome(record)
                    if outcome.code == names[path]:
                        found[outcome.code] = outcome
        return found

    def outcome(self, record: Record) -> Outcome:
        """The outcome that a record is of.  A value that cannot be unpickled here is a failure."""
        code = Code(record.event, record.station)
        log = self.log(record.event)
        if record.traceback is not None:
            value = Failure(loads_error(record.body), record.traceback, log)
        else:
            try:
                value = loads_result(record.body)
            except Exception as error:  # of the user's classes: any
                value = Failure(error, "", log)
        return Outcome(code, value, record.seconds, record.host)

    def remove_setups(self, event: str) -> None:
        """Remove the values of an event's set-up."""
        folder = self.folder(event)
        for name in _listed(folder):
            if name.startswith("setup-"):
                remove(os.path.join(folder, name))


def _read(path: str) -> Optional[Record]:
    try:
        return unseal(read_own(path))
    except FileNotFoundError:  # somebody has just removed it
        return None
    except PermissionError as error:
        raise RunDirectoryError(str(error), path) from error


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []
