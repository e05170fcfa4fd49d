"""The commands, as the server carries them out; `tests.pbs.client` brings their words here."""

from __future__ import annotations

import getopt
import os
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.pbs.dialect import TIMES, Answer, Call, Dialect, Option, Refused
from tests.pbs.engine import Engine
from tests.pbs.jobs import Job, State
from tests.pbs.qstat import Qstat
from tests.pbs.units import parse_time

NAMES = ("qsub", "qstat", "qdel", "qhold", "qrls", "qrerun", "qalter")


class Commands:
    """What each of NAMES does."""

    def __init__(self, engine: Engine, dialect: Dialect, qstat: type[Qstat]) -> None:
        self._engine = engine
        self._dialect = dialect
        self._qstat = qstat

    def wants_script(self, call: Call) -> bool:
        """Whether the command is to be asked for what is on its standard input."""
        if call.command != "qsub":
            return False
        try:
            return not self._parsed(call)[1]
        except Refused:  # which it is told when it is answered
            return False

    def answer(self, call: Call, script: bytes = b"") -> Answer:
        """Do it; `script` is what was on standard input, if that was asked for."""
        self._engine.forget()
        try:
            options, operands = self._parsed(call)
            if call.command == "qsub":
                return self._qsub(call, options, operands, script)
            if call.command == "qstat":
                return self._qstat(self._dialect, options, self._engine.jobs).answer(operands)
            return self._each(call.command, options, operands)
        except Refused as refusal:
            return Answer(refusal.code, "", f"{refusal.error}\n")

    def _parsed(self, call: Call) -> tuple[list[Option], list[str]]:
        try:
            found, operands = getopt.gnu_getopt(call.words, self._dialect.options[call.command])
        except getopt.GetoptError as error:
            raise Refused(2, f"{call.command}: {error.msg}\nusage: {call.command} ...") from error
        return [(name[1:], value) for name, value in found], [word for word in operands if word != "-"]

    # qsub

    def _qsub(self, call: Call, options: list[Option], operands: list[str], script: bytes) -> Answer:
        name = "STDIN"
        if operands:
            name = os.path.basename(operands[0])
            try:
                script = Path(call.directory, operands[0]).read_bytes()
            except OSError as error:
                raise self._dialect.no_script(operands[0], error) from error
        if call.uid == 0 and self._dialect.settings.refuses_root:
            raise self._dialect.root()
        options = [*self._directives(call, options, script), *options]
        request = self._dialect.request(call, options, script, name)
        unknown = [key for part in request.depend for key in part.ids if key not in self._engine.jobs]
        if unknown:
            self._dialect.check_parents(unknown)
        return Answer(0, f"{self._engine.submit(request).id}\n")

    def _directives(self, call: Call, options: list[Option], script: bytes) -> list[Option]:
        """The options in the comments with which a script begins."""
        prefix = dict(options).get("C", "#PBS")
        words = []
        for line in script.decode(errors="replace").splitlines():
            if line.startswith(prefix):
                words += shlex.split(line[len(prefix) :])
            elif line.strip() and not line.startswith(("#", ":")):
                break
        return self._parsed(call._replace(words=words))[0]

    # The others

    def _each(self, command: str, options: list[Option], operands: list[str]) -> Answer:
        """Do the same to each of the jobs that the operands name, whatever becomes of the others."""
        action = self._action(command, options)
        found: list[Job] = []
        errors: list[Refused] = []
        for operand in self._dialect.operands(options, operands):
            try:
                found += self._jobs(command, operand)
            except Refused as refusal:
                errors.append(refusal)
        if not (command == "qdel" and self._dialect.deletes_nothing(found)):
            for job in found:
                action(job)
        code = errors[-1].code if errors else 0
        return Answer(code, "", "".join(f"{refusal.error}\n" for refusal in errors))

    def _action(self, command: str, options: list[Option]) -> Callable[[Job], None]:
        engine = self._engine
        if command == "qalter":
            resources, attributes = self._dialect.asked(options)
            times = self._dialect.checked(resources, TIMES)
            walltime = parse_time(times["walltime"]) if "walltime" in times else None
            throttle = self._dialect.new_throttle(dict(options), attributes)
            return lambda job: engine.alter(job, walltime, throttle)
        return {
            "qdel": engine.delete,
            "qhold": engine.hold,
            "qrls": engine.release,
            "qrerun": engine.requeue,
        }[command]

    def _jobs(self, command: str, operand: str) -> Iterator[Job]:
        """The jobs of one operand: ``12``, ``12.head``, ``12[]``, ``12[3]`` or ``12[1-3]``."""
        for key in self._dialect.keys(operand):
            job = self._engine.jobs.get(key)
            if job is None:
                raise self._dialect.unknown(command, operand)
            if job.status.state is State.FINISHED:
                raise self._dialect.finished(command, job)
            yield job
