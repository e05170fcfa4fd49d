"""A worker reduced to its payloads: a fresh interpreter that loads calls from a pipe and answers them.

Scripts of the tests use it as their only worker, so that what crosses is what `clusterfutures.payload` makes.
"""

from __future__ import annotations

import hashlib
import pickle
import subprocess
import sys
from typing import IO, Any

from clusterfutures import payload


class Blobs:
    """A store of buffers in memory."""

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}
        self.asked = 0

    def store(self, view: memoryview) -> str:
        digest = hashlib.sha256(view).hexdigest()
        self.contents[digest] = bytes(view)
        return digest

    def fetch(self, digest: str, nbytes: int, readonly: bool) -> Any:
        self.asked += 1
        content = self.contents[digest]
        assert len(content) == nbytes
        return content if readonly else bytearray(content)


class Peer:
    """``with Peer() as peer: peer(fn, *args, **kwargs)`` calls `fn` in another process."""

    def __init__(self, *flags: str) -> None:
        self._flags = flags
        self.blobs = Blobs()

    def __enter__(self) -> Peer:
        program = "from tests.peer import serve; serve()"
        command = [sys.executable, *self._flags, "-c", program]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return self

    def __exit__(self, *error: object) -> None:
        self._process.communicate(timeout=30)
        assert self._process.returncode == 0

    def __call__(self, fn: Any, *args: Any, **kwargs: Any) -> Any:
        function = payload.dumps_function(fn, self.blobs.store)
        return self.send(function, payload.dumps_call(args, kwargs, self.blobs.store))

    def send(self, function: bytes, call: bytes) -> Any:
        """The result of a call that has been pickled before, or its exception."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        pickle.dump((function, call, self.blobs.contents), self._process.stdin)
        self._process.stdin.flush()
        failed, body = pickle.load(self._process.stdout)
        if failed:
            raise payload.loads_error(body)
        return payload.loads_result(body)


def serve() -> None:
    """Be the worker: answer calls until there are no more."""
    stdin, stdout = sys.stdin.buffer, sys.stdout.buffer
    sys.stdin, sys.stdout = open("/dev/null"), sys.stderr  # noqa: SIM115 - the pipe is ours alone
    payload.install_main()
    blobs = Blobs()
    while _answer(stdin, stdout, blobs):
        pass


def _answer(stdin: IO[bytes], stdout: IO[bytes], blobs: Blobs) -> bool:
    try:
        function, call, contents = pickle.load(stdin)
    except EOFError:
        return False
    blobs.contents.update(contents)
    try:
        fn = payload.loads_function(function, blobs.fetch)
        args, kwargs = payload.loads_call(call, blobs.fetch)
        answer = (False, payload.dumps_result(fn(*args, **kwargs)))
    except BaseException as error:
        answer = (True, payload.dumps_error(error))
    pickle.dump(answer, stdout)
    stdout.flush()
    return True
