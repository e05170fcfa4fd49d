"""A stand-in to try things on: ``python -m tests.pbs torque``; Ctrl-C ends it."""

from __future__ import annotations

import argparse
import signal
import sys

from tests.pbs.site import DIALECTS, Site

TRY = """\
export PATH={bin}:$PATH

# One node of {slots} CPUs, one queue; jobs start in {home}.
echo 'hostname; sleep 5; exit 3' | qsub -N one
echo 'sleep 1000' | qsub -l walltime=5
{more}
# Its log is {directory}/log.  Ctrl-C here ends it, and removes all of it.
"""

MORE = {
    "torque": "echo 'exit $PBS_ARRAYID' | qsub -t 0-9%2\nqstat -x -t\n",
    "openpbs": "echo 'exit $PBS_ARRAY_INDEX' | qsub -J 0-9%2\nqstat -x -t -f -F json\n",
}


def main() -> None:
    """Start a site, say how to use it, and wait for Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m tests.pbs", description=__doc__)
    parser.add_argument("dialect", choices=DIALECTS)
    parser.add_argument("--slots", type=int, default=4, metavar="N", help="number of CPUs (default 4)")
    parser.add_argument("--lag", type=float, default=0.0, metavar="S", help="age of what qstat shows")
    parser.add_argument("--keep", type=float, default=300.0, metavar="S", help="how long jobs are remembered")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with Site(options.dialect, options.slots, options.lag, keep=options.keep) as site:
            print(
                TRY.format(
                    bin=site.directory / "bin",
                    slots=options.slots,
                    home=site.directory / "home",
                    more=MORE[options.dialect],
                    directory=site.directory,
                ),
                flush=True,
            )
            signal.pause()
    except KeyboardInterrupt:
        sys.exit()


if __name__ == "__main__":
    main()
