"""What Slurm 22.05 printed, word for word; lines that end with a backslash go on.

The jobs: 110 an array whose elements exit with their index, two at a time; 111 one that exits with 3; 112 one
that ends by SIGKILL; 113 one that takes too much memory; 114 one whose log's directory is missing; 115 one
that waits for 111 to end well; 116 one with a time limit above its partition's; 117 a held array of ten, of
which the elements 2 to 4 were cancelled; 120 one that runs; 121 one that was just cancelled.
"""

from __future__ import annotations

# squeue --noheader --states=all --Format=JobArrayID:0|,State:0|,exit_code:0|,TimeLeft:0|,RestartCnt:0|,...
QUEUE = """\
110_0|COMPLETED|0|11:59:57|0|n1|None
121|COMPLETING|0|11:59:59|0|n1|None
110_1|FAILED|256|11:59:57|0|n1|NonZeroExitCode
111|FAILED|768|12:00:00|0|n1|NonZeroExitCode
112|FAILED|9|12:00:00|0|n1|JobLaunchFailure
114|FAILED|4021|12:00:00|0|n2|JobLaunchFailure
113|OUT_OF_MEMORY|253|11:59:59|0|n2|OutOfMemory
110_[4-5%2]|PENDING|0|12:00:00|0|n/a|JobArrayTaskLimit
115|PENDING|0|12:00:00|0|n/a|DependencyNeverSatisfied
117_[0-1,5-9]|PENDING|0|12:00:00|0|n/a|JobHeldUser
110_2|RUNNING|0|12:00:00|0|n2|None
110_3|RUNNING|0|12:00:00|0|n2|None
120|RUNNING|0|1-01:59:59|0|n1|None
116|PENDING|0|10:00|0|n/a|PartitionTimeLimit
"""

# sacct --noheader --parsable2 --allocations --format=JobID,State,ExitCode,NodeList
RECORDS = """\
111|FAILED|3:0|n1
112|FAILED|0:9|n1
113|OUT_OF_MEMORY|0:125|n2
114|FAILED|0:53|n2
115|PENDING|0:0|None assigned
116|PENDING|0:0|None assigned
110_0|COMPLETED|0:0|n1
110_1|FAILED|1:0|n1
110_2|FAILED|2:0|n2
110_3|FAILED|3:0|n2
110_5|RUNNING|0:0|n1
117_[0-1,5-9]|PENDING|0:0|None assigned
120|RUNNING|0:0|n1
121|CANCELLED by 0|0:0|n1
"""

# The same with other jobs: ended by a time limit; an array that was cancelled before any element began.
MORE_RECORDS = """\
318|TIMEOUT|0:0|n2
29_[0-20:2]|CANCELLED by 0|0:0|None assigned
"""

# scontrol show config
CONFIG = """\
Configuration data as of 2026-11-20T11:57:54
AccountingStorageBackupHost = (null)
MaxArraySize            = 10001
MaxDBDMsgs              = 40008
SchedulerParameters     = sched_interval=1,bf_interval=1,sched_min_interval=0,batch_sched_delay=0
SchedulerTimeSlice      = 30 sec
"""

# Standard error.
ACCOUNTS_DISABLED = "Slurm accounting storage is disabled\n"
UNKNOWN_ID = "slurm_load_jobs error: Invalid job id specified\n"
SQUEUE_DOWN = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n"
SBATCH_DOWN = """\
sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)
"""
SCANCEL_DOWN = """\
scancel: error: Kill job error on job id 1: Unable to contact slurm controller (connect failure)
"""
SUBMIT_LIMIT = """\
sbatch: error: QOSMaxSubmitJobPerUserLimit
sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's \
size and/or time limits)
"""
WILL_RUN = "sbatch: Job 32 to start at 2026-11-21T13:30:10 using 1 processors on nodes n1 in partition main\n"

REFUSED_PARTITION = """\
sbatch: error: invalid partition specified: nope
sbatch: error: Batch job submission failed: Invalid partition name specified
"""
REFUSED_ARRAY = "sbatch: error: Batch job submission failed: Invalid job array specification\n"
REFUSED_FEATURE = "sbatch: error: Batch job submission failed: Invalid feature specification\n"
REFUSED_ACCOUNT = """\
sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified
"""
REFUSED_QOS = "sbatch: error: Batch job submission failed: Invalid qos specification\n"
REFUSED_MEMORY = """\
sbatch: error: Memory specification can not be satisfied
sbatch: error: Batch job submission failed: Requested node configuration is not available
"""
REFUSED_OPTION = """\
sbatch: unrecognized option '--mme=1G'
Try "sbatch --help" for more information
"""
REFUSED_TIME = "sbatch: error: Invalid --time specification\n"
REFUSED_TEST = "allocation failure: Invalid feature specification\n"
NO_CLUSTER = """\
sbatch: error: resolve_ctls_from_dns_srv: res_nsearch error: Unknown host
sbatch: error: fetch_config: DNS SRV lookup failed
sbatch: error: _establish_config_source: failed to fetch config
sbatch: fatal: Could not establish a configuration source
"""
