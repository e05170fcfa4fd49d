"""A Slurm to try things on: ``python -m tests.slurm``; Ctrl-C ends it."""

from __future__ import annotations

import argparse
import signal
import sys

from tests.slurm.cluster import Cluster, advice, missing

TRY = """\
export SLURM_CONF={conf}

# Nodes {nodes}; partitions main, short (one minute), high, and two whose jobs make room for those in high:
# low (they are requeued), kill (they are cancelled).
sinfo
sbatch --wrap 'hostname; sleep 5'
sbatch --mem=50M --wrap 'python3 -c "bytearray(2 * 10**8)"'     # OUT_OF_MEMORY
sbatch -p short --wrap 'sleep 1000'                             # TIMEOUT
sbatch --constraint=fast --gres=gpu:1 --wrap env                # features: fast, slow
squeue -t all
scontrol -o show job
{accounting}# Its logs are in {directory}/log.  Ctrl-C here ends it, and removes all of it.
"""

ACCOUNTING = """\
sacct -P -o JobID,State,ExitCode,MaxRSS
sbatch --qos=few --array=0-9 --wrap true                        # QOSMaxSubmitJobPerUserLimit
"""


def main() -> None:
    """Start a cluster, say how to use it, and wait for Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m tests.slurm", description=__doc__)
    parser.add_argument("--no-accounting", action="store_true", help="without slurmdbd: no sacct, no limits")
    parser.add_argument("--nodes", type=int, default=2, metavar="N", help="number of nodes (default 2)")
    options = parser.parse_args()
    if missing():
        sys.exit(advice())
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with Cluster(accounting=not options.no_accounting, nodes=options.nodes) as cluster:
            print(
                TRY.format(
                    conf=cluster.environ["SLURM_CONF"],
                    nodes=", ".join(cluster.nodes),
                    accounting=ACCOUNTING if cluster.accounting else "",
                    directory=cluster.directory,
                ),
                flush=True,
            )
            signal.pause()
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
