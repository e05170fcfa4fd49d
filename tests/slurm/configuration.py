"""The configuration files of a test cluster, as text.

Everything is in one directory and on the loopback interface, and the delays that a site can choose are short.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

CLUSTER = "test"
NEIGHBOUR = "north"  # another one in the same accounts, for a test to start
GPUS = 2  # of each node; links to /dev/null stand for the devices


class Ports(NamedTuple):
    """Where the daemons listen, all on the loopback interface."""

    slurmctld: int
    slurmdbd: int
    nodes: list[int]


class Site(NamedTuple):
    """What the configuration of one cluster depends on."""

    directory: Path
    user: str  # runs the daemons, and is the only one who can use them
    ports: Ports
    cpus: int  # of each node, however many the machine has
    memory: int  # of each node, in MiB
    accounting: bool
    cgroups: bool  # limit memory, and where the machine has so many CPUs, CPUs


PARTITIONS = [
    "main Default=YES MaxTime=INFINITE DefaultTime=12:00:00 PriorityTier=5 PreemptMode=OFF",
    "short MaxTime=00:01:00 PriorityTier=5 PreemptMode=OFF",
    # what runs in these two makes room for the third
    "low MaxTime=INFINITE DefaultTime=12:00:00 PriorityTier=1 PreemptMode=REQUEUE",
    "kill MaxTime=INFINITE DefaultTime=12:00:00 PriorityTier=1 PreemptMode=CANCEL",
    "high MaxTime=INFINITE DefaultTime=12:00:00 PriorityTier=10 PreemptMode=OFF",
]


def files(site: Site, extra: Mapping[str, object]) -> dict[str, str]:
    """The text of each file by its name; `extra` adds settings of slurm.conf or replaces them."""
    return {
        "slurm.conf": _slurm_conf(site, extra),
        "gres.conf": f"Name=gpu File={site.directory}/gpu[0-{GPUS - 1}]\n",
        "cgroup.conf": _cgroup_conf(site),
        "slurmdbd.conf": _slurmdbd_conf(site),
    }


def accounts(user: str) -> list[str]:
    """What sacctmgr is told: an account ``science``; a QOS ``few`` and an account ``tiny`` for few jobs."""
    return [
        f"add cluster {CLUSTER}",
        f"add cluster {NEIGHBOUR}",
        "add qos few MaxSubmitJobsPerUser=4",
        "add account science qos=normal,few defaultqos=normal",
        f"add user {user} account=science defaultaccount=science",
        "add account tiny qos=normal defaultqos=normal",
        f"add user {user} account=tiny maxsubmitjobs=4",
    ]


def _slurm_conf(site: Site, extra: Mapping[str, object]) -> str:
    settings = {**_general(site), **_quick(), **_limits(site), **_accounting(site), **extra}
    lines = [f"{name}={value}" for name, value in settings.items()]
    lines += [_node(site, number, port) for number, port in enumerate(site.ports.nodes, start=1)]
    lines += [f"PartitionName={text} Nodes=ALL State=UP" for text in PARTITIONS]
    return "\n".join(lines) + "\n"


def _general(site: Site) -> dict[str, object]:
    directory = site.directory
    return {
        "ClusterName": CLUSTER,
        "SlurmctldHost": "localhost(127.0.0.1)",
        "SlurmctldPort": site.ports.slurmctld,
        "SlurmUser": site.user,
        "SlurmdUser": site.user,
        "AuthType": "auth/munge",
        "AuthInfo": f"socket={directory}/munge.sock",
        "CredType": "cred/munge",
        "StateSaveLocation": f"{directory}/state",
        "SlurmdSpoolDir": f"{directory}/spool/%n",
        "SlurmctldPidFile": f"{directory}/slurmctld.pid",
        "SlurmdPidFile": f"{directory}/slurmd.%n.pid",
        "SlurmctldLogFile": f"{directory}/log/slurmctld.log",
        "SlurmdLogFile": f"{directory}/log/%n.log",
        "SlurmdParameters": "config_overrides",
        "SwitchType": "switch/none",
        "MpiDefault": "none",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_CPU_Memory",
        "DefMemPerCPU": max(1, site.memory // site.cpus // 2),
        "GresTypes": "gpu",
        "Licenses": "matlab:2",
        "PreemptType": "preempt/partition_prio",
        "PreemptMode": "REQUEUE",
        "ReturnToService": 2,
        "MailProg": "/bin/true",
        "MaxJobCount": 20000,
    }


def _quick() -> dict[str, object]:
    return {
        "SchedulerParameters": "sched_interval=1,bf_interval=1,sched_min_interval=0,batch_sched_delay=0",
        "KillWait": 2,
        "MinJobAge": 300,
        "SlurmdTimeout": 10,
        "MessageTimeout": 5,  # before a dead node counts as silent, and a client gives up
        "InactiveLimit": 0,
        "JobAcctGatherType": "jobacct_gather/linux",
        "JobAcctGatherFrequency": 1,
    }


def _limits(site: Site) -> dict[str, object]:
    if site.cgroups:
        return {"TaskPlugin": "task/cgroup", "ProctrackType": "proctrack/cgroup"}
    return {"TaskPlugin": "task/none", "ProctrackType": "proctrack/linuxproc"}


def _accounting(site: Site) -> dict[str, object]:
    if not site.accounting:
        return {"AccountingStorageType": "accounting_storage/none"}
    return {
        "AccountingStorageType": "accounting_storage/slurmdbd",
        "AccountingStorageHost": "127.0.0.1",
        "AccountingStoragePort": site.ports.slurmdbd,
        "AccountingStoragePass": f"{site.directory}/munge.sock",
        "AccountingStorageEnforce": "associations,limits,qos",
        "AccountingStoreFlags": "job_comment",
    }


def _node(site: Site, number: int, port: int) -> str:
    feature = "fast" if number % 2 else "slow"
    return (
        f"NodeName=n{number} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} "
        f"CPUs={site.cpus} RealMemory={site.memory} Feature={feature} Gres=gpu:{GPUS}"
    )


def _cgroup_conf(site: Site) -> str:
    """Its mount point is a directory of links, see `tests.slurm.cgroups`."""
    if not site.cgroups:
        return ""
    return f"""\
CgroupPlugin=cgroup/v1
CgroupMountpoint={site.directory}/cgroup
ConstrainRAMSpace=yes
ConstrainCores={"yes" if site.cpus <= (os.cpu_count() or 1) else "no"}
"""


def _slurmdbd_conf(site: Site) -> str:
    """The database is found by MYSQL_UNIX_PORT, and knows its user by whose process it is."""
    directory = site.directory
    return f"""\
AuthType=auth/munge
AuthInfo=socket={directory}/munge.sock
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={site.ports.slurmdbd}
SlurmUser={site.user}
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser={site.user}
StorageLoc=slurm
PidFile={directory}/slurmdbd.pid
LogFile={directory}/log/slurmdbd.log
CommitDelay=1
"""
