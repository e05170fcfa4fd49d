"""A command, such as qsub, on its user's side: it brings its words to the server, and prints the answer.

A program of its own, ``python -I -S client.py DIRECTORY DIALECT COMMAND [WORD ...]``, which imports little
because it is started often.  What commands know without a server is here: their version, and what they say
when nobody answers.
"""

from __future__ import annotations

import io
import marshal
import os
import socket
import sys
import time
from typing import Any

LENGTH = 8  # bytes before each message, which say how long it is

TORQUE_DOWN = """\
Unable to communicate with head(127.0.0.1)
Cannot connect to specified server host 'head'.
{}: cannot connect to server head (errno=111) Connection refused
"""

OPENPBS_DOWN = """\
Connection refused
{}: cannot connect to server head (errno=111)
"""

OPENPBS_NOTHING = '{\n\t"timestamp":\t%d,\n\t"pbs_version":\t"23.06.06",\n\t"pbs_server":\t"head"\n}\n'


def encode(value: Any) -> bytes:
    """A message.  It never leaves this machine nor this version of Python, for which marshal is made."""
    text = marshal.dumps(value)
    return len(text).to_bytes(LENGTH, "big") + text


def receive(stream: io.BufferedIOBase) -> Any:
    """The next message.  EOFError if there is none."""
    size = int.from_bytes(stream.read(LENGTH), "big")
    return marshal.loads(stream.read(size))


def ask(directory: str, command: str, words: list[str]) -> tuple[int, str, str]:
    """The server's answer: exit code, output, errors.  OSError or EOFError if it does not answer."""
    call = (command, words, os.getcwd(), dict(os.environ), os.getuid())
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(f"{directory}/server")
        with connection.makefile("rwb") as stream:
            stream.write(encode(call))
            stream.flush()
            answer = receive(stream)
            if answer is None:  # it wants the script that is on standard input
                stream.write(encode(sys.stdin.buffer.read()))
                stream.flush()
                answer = receive(stream)
    code, out, error = answer
    return code, out, error


def version(dialect: str) -> tuple[int, str, str]:
    """What ``--version`` prints."""
    if dialect == "torque":
        return 0, "", "Version: 6.1.3\nCommit: 4867ecd72d5f5ff81b4d7fb4d8ae40de0b9ac1cd\n"
    return 0, "pbs_version = 23.06.06\n", ""


def unanswered(dialect: str, command: str, words: list[str]) -> tuple[int, str, str]:
    """What a command says when there is no server."""
    if dialect == "torque":
        return 111, "", TORQUE_DOWN.format(command)
    if command == "qstat":
        out = OPENPBS_NOTHING % time.time() if "json" in " ".join(words) else ""
        return 255, out, OPENPBS_DOWN.format(command)
    if command == "qdel":
        return 111, "", "Connection refused\nCouldn't connect to cluster: head\n"
    return 111, "", OPENPBS_DOWN.format(command)


def main(directory: str, dialect: str, command: str, words: list[str]) -> int:
    """Be the command, and note that it was called."""
    with open(f"{directory}/calls", "ab", buffering=0) as calls:
        calls.write(ascii([command, *words]).encode() + b"\n")
    if words == ["--version"]:
        code, out, error = version(dialect)
    else:
        try:
            code, out, error = ask(directory, command, words)
        except (OSError, EOFError):
            code, out, error = unanswered(dialect, command, words)
    sys.stdout.buffer.write(out.encode("utf-8", "surrogateescape"))
    sys.stderr.buffer.write(error.encode("utf-8", "surrogateescape"))
    sys.stdout.flush()
    while os.path.exists(f"{directory}/held.{command}"):
        time.sleep(0.02)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:]))
