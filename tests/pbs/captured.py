"""Answers of a real TORQUE 6.1.3 and a real OpenPBS 23.06, shortened to the jobs that are compared.

`alike` makes of them and of a stand-in's answers what must be equal.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

TORQUE_RUNNING = """\
<?xml version="1.0"?>
<Data><Job><Job_Id>57.head</Job_Id><Job_Name>one</Job_Name><Job_Owner>user@localhost</Job_Owner>
<job_state>R</job_state><queue>batch</queue><server>head</server><Checkpoint>u</Checkpoint>
<ctime>1795175711</ctime><Error_Path>head:/home/user/w/one.e57</Error_Path><exec_host>localhost/0</exec_host>
<Hold_Types>n</Hold_Types><Join_Path>n</Join_Path><Keep_Files>n</Keep_Files><Mail_Points>a</Mail_Points>
<mtime>1795175711</mtime><Output_Path>head:/home/user/w/one.o57</Output_Path><Priority>0</Priority>
<qtime>1795175711</qtime><Rerunable>True</Rerunable>
<Resource_List><walltime>01:00:00</walltime><nodes>1</nodes><nodect>1</nodect></Resource_List>
<session_id>28840</session_id>
<Variable_List>PBS_O_QUEUE=batch,PBS_O_HOME=/home/user,PBS_O_LOGNAME=user,PBS_O_PATH=/usr/bin:/bin,\
PBS_O_MAIL=/var/mail/user,PBS_O_SHELL=/bin/bash,PBS_O_LANG=C.UTF-8,PBS_O_WORKDIR=/home/user/w,\
PBS_O_HOST=head,PBS_O_SERVER=head</Variable_List>
<euser>user</euser><egroup>user</egroup><queue_type>E</queue_type>
<comment>Job started on Fri Nov 20 at 11:55</comment><etime>1795175711</etime>
<submit_args>-N one fail3.sh</submit_args><start_time>1795175711</start_time>
<Walltime><Remaining>3599</Remaining></Walltime><start_count>1</start_count>
<fault_tolerant>False</fault_tolerant><job_radix>0</job_radix><submit_host>head</submit_host>
<init_work_dir>/home/user/w</init_work_dir><request_version>1</request_version></Job></Data>
"""

TORQUE_FINISHED = """\
<?xml version="1.0"?>
<Data><Job><Job_Id>57.head</Job_Id><Job_Name>one</Job_Name><Job_Owner>user@localhost</Job_Owner>
<resources_used><cput>00:00:00</cput><vmem>11640kb</vmem><walltime>00:00:01</walltime><mem>7888kb</mem>
<energy_used>0</energy_used></resources_used>
<job_state>C</job_state><queue>batch</queue><server>head</server><Checkpoint>u</Checkpoint>
<ctime>1795175711</ctime><Error_Path>head:/home/user/w/one.e57</Error_Path><exec_host>localhost/0</exec_host>
<Hold_Types>n</Hold_Types><Join_Path>n</Join_Path><Keep_Files>n</Keep_Files><Mail_Points>a</Mail_Points>
<mtime>1795175712</mtime><Output_Path>head:/home/user/w/one.o57</Output_Path><Priority>0</Priority>
<qtime>1795175711</qtime><Rerunable>True</Rerunable>
<Resource_List><walltime>01:00:00</walltime><nodes>1</nodes><nodect>1</nodect></Resource_List>
<session_id>28840</session_id>
<Variable_List>PBS_O_QUEUE=batch,PBS_O_HOME=/home/user,PBS_O_LOGNAME=user,PBS_O_PATH=/usr/bin:/bin,\
PBS_O_MAIL=/var/mail/user,PBS_O_SHELL=/bin/bash,PBS_O_LANG=C.UTF-8,PBS_O_WORKDIR=/home/user/w,\
PBS_O_HOST=head,PBS_O_SERVER=head</Variable_List>
<euser>user</euser><egroup>user</egroup><queue_type>E</queue_type>
<comment>Job started on Fri Nov 20 at 11:55</comment><etime>1795175711</etime><exit_status>3</exit_status>
<submit_args>-N one fail3.sh</submit_args><start_time>1795175711</start_time><start_count>1</start_count>
<fault_tolerant>False</fault_tolerant><comp_time>1795175712</comp_time><job_radix>0</job_radix>
<total_runtime>1.081186</total_runtime><submit_host>head</submit_host>
<init_work_dir>/home/user/w</init_work_dir><request_version>1</request_version></Job></Data>
"""

TORQUE_ELEMENT = """\
<?xml version="1.0"?>
<Data><Job><Job_Id>58[1].head</Job_Id><Job_Name>arr-1</Job_Name><Job_Owner>user@localhost</Job_Owner>
<resources_used><cput>00:00:00</cput><vmem>3848kb</vmem><walltime>00:00:00</walltime><mem>896kb</mem>
<energy_used>0</energy_used></resources_used>
<job_state>C</job_state><queue>batch</queue><server>head</server><Checkpoint>u</Checkpoint>
<ctime>1795175711</ctime><Error_Path>head:/home/user/w/arr.e58-1</Error_Path>
<exec_host>localhost/2</exec_host><Join_Path>n</Join_Path><Keep_Files>n</Keep_Files>
<Mail_Points>a</Mail_Points><mtime>1795175711</mtime><Output_Path>head:/home/user/w/arr.o58-1</Output_Path>
<Priority>0</Priority><qtime>1795175711</qtime><Rerunable>True</Rerunable>
<Resource_List><walltime>01:00:00</walltime><nodes>1</nodes><nodect>1</nodect></Resource_List>
<session_id>28847</session_id>
<Variable_List>PBS_ARRAYID=1,PBS_O_QUEUE=batch,PBS_O_HOME=/home/user,PBS_O_LOGNAME=user,\
PBS_O_PATH=/usr/bin:/bin,PBS_O_MAIL=/var/mail/user,PBS_O_SHELL=/bin/bash,PBS_O_LANG=C.UTF-8,\
PBS_O_WORKDIR=/home/user/w,PBS_O_HOST=head,PBS_O_SERVER=head</Variable_List>
<euser>user</euser><egroup>user</egroup><queue_type>E</queue_type>
<comment>Job started on Fri Nov 20 at 11:55</comment><etime>1795175711</etime><exit_status>1</exit_status>
<submit_args>-N arr -t 0-3 arr.sh</submit_args><job_array_id>1</job_array_id>
<start_time>1795175711</start_time><start_count>1</start_count><fault_tolerant>False</fault_tolerant>
<comp_time>1795175711</comp_time><job_radix>0</job_radix><total_runtime>0.082714</total_runtime>
<submit_host>head</submit_host><init_work_dir>/home/user/w</init_work_dir>
<request_version>1</request_version></Job></Data>
"""

TORQUE_HELD_AND_DELETED = """\
<?xml version="1.0"?>
<Data><Job><Job_Id>64.head</Job_Id><Job_Name>held</Job_Name><Job_Owner>user@localhost</Job_Owner>
<job_state>C</job_state><queue>batch</queue><server>head</server><Checkpoint>u</Checkpoint>
<ctime>1795175711</ctime><Error_Path>head:/home/user/w/held.e64</Error_Path><Hold_Types>u</Hold_Types>
<Join_Path>n</Join_Path><Keep_Files>n</Keep_Files><Mail_Points>a</Mail_Points><mtime>1795175712</mtime>
<Output_Path>head:/home/user/w/held.o64</Output_Path><Priority>0</Priority><qtime>1795175711</qtime>
<Rerunable>True</Rerunable>
<Resource_List><walltime>01:00:00</walltime><nodes>1</nodes><nodect>1</nodect></Resource_List>
<Variable_List>PBS_O_QUEUE=batch,PBS_O_HOME=/home/user,PBS_O_LOGNAME=user,PBS_O_PATH=/usr/bin:/bin,\
PBS_O_MAIL=/var/mail/user,PBS_O_SHELL=/bin/bash,PBS_O_LANG=C.UTF-8,PBS_O_WORKDIR=/home/user/w,\
PBS_O_HOST=head,PBS_O_SERVER=head</Variable_List>
<euser>user</euser><egroup>user</egroup><queue_type>E</queue_type>
<submit_args>-h -N held fail3.sh</submit_args><fault_tolerant>False</fault_tolerant><job_radix>0</job_radix>
<submit_host>head</submit_host><init_work_dir>/home/user/w</init_work_dir></Job></Data>
"""

TORQUE_TABLE = """\
Job ID                    Name             User            Time Use S Queue
------------------------- ---------------- --------------- -------- - -----
7.head                       one              user         00:00:00 C batch
8[0].head                    arr-0            user         00:00:00 C batch
8[1].head                    arr-1            user         00:00:00 C batch
8[2].head                    arr-2            user         00:00:00 C batch
8[3].head                    arr-3            user         00:00:00 C batch
9.head                       held             user                0 C batch
"""

OPENPBS_RUNNING = """\
{
	"timestamp":	1795175712,
	"pbs_version":	"23.06.06",
	"pbs_server":	"head",
	"Jobs":	{
		"77.head":	{
			"Job_Name":	"one",
			"Job_Owner":	"user@localhost",
			"job_state":	"R",
			"queue":	"workq",
			"server":	"head",
			"Checkpoint":	"u",
			"ctime":	"Fri Nov 20 11:55:11 2026",
			"Error_Path":	"localhost:/home/user/w/one.e77",
			"exec_host":	"localhost/0",
			"exec_vnode":	"(localhost:ncpus=1)",
			"Hold_Types":	"n",
			"Join_Path":	"n",
			"Keep_Files":	"n",
			"Mail_Points":	"a",
			"mtime":	"Fri Nov 20 11:55:11 2026",
			"Output_Path":	"localhost:/home/user/w/one.o77",
			"Priority":	0,
			"qtime":	"Fri Nov 20 11:55:11 2026",
			"Rerunable":	"True",
			"Resource_List":	{
				"ncpus":	1,
				"nodect":	1,
				"place":	"pack",
				"select":	"1:ncpus=1",
				"walltime":	"01:00:00"
			},
			"stime":	"Fri Nov 20 11:55:11 2026",
			"substate":	41,
			"Variable_List":	{
				"PBS_O_HOME":	"/home/user",
				"PBS_O_LANG":	"C.UTF-8",
				"PBS_O_LOGNAME":	"user",
				"PBS_O_PATH":	"/usr/bin:/bin",
				"PBS_O_MAIL":	"/var/mail/user",
				"PBS_O_SHELL":	"/bin/bash",
				"PBS_O_INTERACTIVE_AUTH_METHOD":	"resvport",
				"PBS_O_INTERACTIVE_ENCRYPT_METHOD":	"",
				"PBS_O_WORKDIR":	"/home/user/w",
				"PBS_O_SYSTEM":	"Linux",
				"PBS_O_QUEUE":	"workq",
				"PBS_O_HOST":	"localhost"
			},
			"comment":	"Job run at Fri Nov 20 at 11:55 on (localhost:ncpus=1)",
			"etime":	"Fri Nov 20 11:55:11 2026",
			"run_count":	1,
			"Submit_arguments":	"-N one fail3.sh",
			"project":	"_pbs_project_default",
			"Submit_Host":	"localhost"
		}
	}
}
"""

OPENPBS_FINISHED = """\
{
	"timestamp":	1795175737,
	"pbs_version":	"23.06.06",
	"pbs_server":	"head",
	"Jobs":	{
		"77.head":	{
			"Job_Name":	"one",
			"Job_Owner":	"user@localhost",
			"resources_used":	{
				"cpupercent":	0,
				"cput":	"00:00:00",
				"mem":	"7372kb",
				"ncpus":	1,
				"vmem":	"10380kb",
				"walltime":	"00:00:01"
			},
			"job_state":	"F",
			"queue":	"workq",
			"server":	"head",
			"Checkpoint":	"u",
			"ctime":	"Fri Nov 20 11:55:11 2026",
			"Error_Path":	"localhost:/home/user/w/one.e77",
			"exec_host":	"localhost/0",
			"exec_vnode":	"(localhost:ncpus=1)",
			"Hold_Types":	"n",
			"Join_Path":	"n",
			"Keep_Files":	"n",
			"Mail_Points":	"a",
			"mtime":	"Fri Nov 20 11:55:12 2026",
			"Output_Path":	"localhost:/home/user/w/one.o77",
			"Priority":	0,
			"qtime":	"Fri Nov 20 11:55:11 2026",
			"Rerunable":	"True",
			"Resource_List":	{
				"ncpus":	1,
				"nodect":	1,
				"place":	"pack",
				"select":	"1:ncpus=1",
				"walltime":	"01:00:00"
			},
			"stime":	"Fri Nov 20 11:55:11 2026",
			"obittime":	"Fri Nov 20 11:55:12 2026",
			"jobdir":	"/home/user",
			"substate":	93,
			"Variable_List":	{
				"PBS_O_HOME":	"/home/user",
				"PBS_O_LANG":	"C.UTF-8",
				"PBS_O_LOGNAME":	"user",
				"PBS_O_PATH":	"/usr/bin:/bin",
				"PBS_O_MAIL":	"/var/mail/user",
				"PBS_O_SHELL":	"/bin/bash",
				"PBS_O_INTERACTIVE_AUTH_METHOD":	"resvport",
				"PBS_O_INTERACTIVE_ENCRYPT_METHOD":	"",
				"PBS_O_WORKDIR":	"/home/user/w",
				"PBS_O_SYSTEM":	"Linux",
				"PBS_O_QUEUE":	"workq",
				"PBS_O_HOST":	"localhost"
			},
			"comment":	"Job run at Fri Nov 20 at 11:55 on (localhost:ncpus=1) and failed",
			"etime":	"Fri Nov 20 11:55:11 2026",
			"run_count":	1,
			"Stageout_status":	1,
			"Exit_status":	3,
			"Submit_arguments":	"-N one fail3.sh",
			"history_timestamp":	1795175712,
			"project":	"_pbs_project_default",
			"Submit_Host":	"localhost"
		}
	}
}
"""

OPENPBS_ARRAY = """\
{
	"timestamp":	1795175737,
	"pbs_version":	"23.06.06",
	"pbs_server":	"head",
	"Jobs":	{
		"78[].head":	{
			"Job_Name":	"arr",
			"Job_Owner":	"user@localhost",
			"job_state":	"F",
			"queue":	"workq",
			"server":	"head",
			"Checkpoint":	"u",
			"ctime":	"Fri Nov 20 11:55:11 2026",
			"Error_Path":	"localhost:/home/user/w/arr.e78.^array_index^",
			"Hold_Types":	"n",
			"Join_Path":	"n",
			"Keep_Files":	"n",
			"Mail_Points":	"a",
			"mtime":	"Fri Nov 20 11:55:11 2026",
			"Output_Path":	"localhost:/home/user/w/arr.o78.^array_index^",
			"Priority":	0,
			"qtime":	"Fri Nov 20 11:55:11 2026",
			"Rerunable":	"True",
			"Resource_List":	{
				"ncpus":	1,
				"nodect":	1,
				"place":	"pack",
				"select":	"1:ncpus=1",
				"walltime":	"01:00:00"
			},
			"stime":	"Fri Nov 20 11:55:11 2026",
			"obittime":	"Fri Nov 20 11:55:11 2026",
			"substate":	93,
			"Variable_List":	{
				"PBS_O_HOME":	"/home/user",
				"PBS_O_LANG":	"C.UTF-8",
				"PBS_O_LOGNAME":	"user",
				"PBS_O_PATH":	"/usr/bin:/bin",
				"PBS_O_MAIL":	"/var/mail/user",
				"PBS_O_SHELL":	"/bin/bash",
				"PBS_O_INTERACTIVE_AUTH_METHOD":	"resvport",
				"PBS_O_INTERACTIVE_ENCRYPT_METHOD":	"",
				"PBS_O_WORKDIR":	"/home/user/w",
				"PBS_O_SYSTEM":	"Linux",
				"PBS_O_QUEUE":	"workq",
				"PBS_O_HOST":	"localhost"
			},
			"comment":	"Job Array Began at Fri Nov 20 at 11:55 and failed",
			"etime":	"Fri Nov 20 11:55:11 2026",
			"Stageout_status":	1,
			"Exit_status":	1,
			"Submit_arguments":	"-N arr -J 0-3 arr.sh",
			"array":	"True",
			"array_state_count":	"Queued:0 Running:0 Exiting:0 Expired:0",
			"array_indices_submitted":	"0-3",
			"array_indices_remaining":	"-",
			"history_timestamp":	1795175711,
			"project":	"_pbs_project_default",
			"Submit_Host":	"localhost"
		}
	}
}
"""

OPENPBS_ELEMENT = """\
{
	"timestamp":	1795175737,
	"pbs_version":	"23.06.06",
	"pbs_server":	"head",
	"Jobs":	{
		"78[1].head":	{
			"Job_Name":	"arr",
			"Job_Owner":	"user@localhost",
			"resources_used":	{
				"cpupercent":	0,
				"cput":	"00:00:00",
				"mem":	"3476kb",
				"ncpus":	1,
				"vmem":	"7788kb",
				"walltime":	"00:00:00"
			},
			"job_state":	"F",
			"queue":	"workq",
			"server":	"head",
			"ctime":	"Fri Nov 20 11:55:11 2026",
			"Error_Path":	"localhost:/home/user/w/arr.e78.1",
			"exec_host":	"localhost/2",
			"exec_vnode":	"(localhost:ncpus=1)",
			"Join_Path":	"n",
			"Keep_Files":	"n",
			"Mail_Points":	"a",
			"mtime":	"Fri Nov 20 11:55:11 2026",
			"Output_Path":	"localhost:/home/user/w/arr.o78.1",
			"Priority":	0,
			"qtime":	"Fri Nov 20 11:55:11 2026",
			"Rerunable":	"True",
			"Resource_List":	{
				"ncpus":	1,
				"nodect":	1,
				"place":	"pack",
				"select":	"1:ncpus=1",
				"walltime":	"01:00:00"
			},
			"stime":	"Fri Nov 20 11:55:11 2026",
			"obittime":	"Fri Nov 20 11:55:11 2026",
			"jobdir":	"/home/user",
			"substate":	93,
			"Variable_List":	{
				"PBS_O_HOME":	"/home/user",
				"PBS_O_LANG":	"C.UTF-8",
				"PBS_O_LOGNAME":	"user",
				"PBS_O_PATH":	"/usr/bin:/bin",
				"PBS_O_MAIL":	"/var/mail/user",
				"PBS_O_SHELL":	"/bin/bash",
				"PBS_O_INTERACTIVE_AUTH_METHOD":	"resvport",
				"PBS_O_INTERACTIVE_ENCRYPT_METHOD":	"",
				"PBS_O_WORKDIR":	"/home/user/w",
				"PBS_O_SYSTEM":	"Linux",
				"PBS_O_QUEUE":	"workq",
				"PBS_O_HOST":	"localhost"
			},
			"comment":	"Job run at Fri Nov 20 at 11:55 on (localhost:ncpus=1) and failed",
			"etime":	"Fri Nov 20 11:55:11 2026",
			"run_count":	1,
			"Stageout_status":	1,
			"Exit_status":	1,
			"array_id":	"78[].head",
			"array_index":	1,
			"history_timestamp":	1795175711,
			"project":	"_pbs_project_default",
			"Submit_Host":	"localhost"
		}
	}
}
"""

OPENPBS_DELETED_TEXT = """\
Job Id: 80.head
    Job_Name = del
    Job_Owner = user@localhost
    resources_used.cpupercent = 0
    resources_used.cput = 00:00:00
    resources_used.mem = 7420kb
    resources_used.ncpus = 1
    resources_used.vmem = 10380kb
    resources_used.walltime = 00:00:01
    job_state = F
    queue = workq
    server = head
    Checkpoint = u
    ctime = Fri Nov 20 11:55:11 2026
    Error_Path = localhost:/home/user/w/del.e80
    exec_host = localhost/3
    exec_vnode = (localhost:ncpus=1)
    Hold_Types = n
    Join_Path = n
    Keep_Files = n
    Mail_Points = a
    mtime = Fri Nov 20 11:55:12 2026
    Output_Path = localhost:/home/user/w/del.o80
    Priority = 0
    qtime = Fri Nov 20 11:55:11 2026
    Rerunable = True
    Resource_List.ncpus = 1
    Resource_List.nodect = 1
    Resource_List.place = pack
    Resource_List.select = 1:ncpus=1
    Resource_List.walltime = 01:00:00
    stime = Fri Nov 20 11:55:11 2026
    obittime = Fri Nov 20 11:55:12 2026
    jobdir = /home/user
    substate = 91
    Variable_List = PBS_O_HOME=/home/user,PBS_O_LANG=C.UTF-8,
	PBS_O_LOGNAME=user,PBS_O_PATH=/opt/pbs/bin:/usr/bin:/bin,
	PBS_O_MAIL=/var/mail/user,PBS_O_SHELL=/bin/bash,
	PBS_O_INTERACTIVE_AUTH_METHOD=resvport,
	PBS_O_INTERACTIVE_ENCRYPT_METHOD=,PBS_O_WORKDIR=/home/user/w,
	PBS_O_SYSTEM=Linux,PBS_O_QUEUE=workq,PBS_O_HOST=localhost
    comment = Job run at Fri Nov 20 at 11:55 on (localhost:ncpus=1) and termina
	ted by user@localhost
    etime = Fri Nov 20 11:55:11 2026
    run_count = 1
    Stageout_status = 1
    Exit_status = 271
    Submit_arguments = -N del sleep60.sh
    history_timestamp = 1795175712
    project = _pbs_project_default
    Submit_Host = localhost

"""

# What differs from run to run, and what stands for it.
VARYING = {
    r"\b\d+(?=(\[\d*\])?\.head\b)": "N",
    r"\b(one|arr|held|del)\.([eo])\d+": r"\1.\2N",
    r"\b1\d{9}\b": "TIME",
    r"\b\w{3} \w{3} [ \d]\d \d\d:\d\d:\d\d \d{4}": "DATE",
    r"\b\w{3} \w{3} [ \d]\d at \d\d:\d\d": "DATE",
    r"\b\d+kb\b": "SIZE",
    r"\b00:0\d:\d\d\b": "SHORT",
    r"(?<=<Remaining>)3[56]\d\d": "LEFT",
    r"(?<=<session_id>)\d+": "SESSION",
    r"(?<=<total_runtime>)[\d.]+": "DURATION",
    r"\blocalhost/\d": "localhost/CPU",
    r"(PBS_O_PATH(?:=|\":\t\"))[^,\"]*": r"\1PATH",
    r">\n<": "><",  # the captures are in lines here
    r" +\n": "\n",
}


def alike(text: str, names: Mapping[str, str]) -> str:
    """`text` with marks for what differs from run to run, and `names` replaced by those of the captures."""
    for name, other in names.items():
        text = re.sub(rf"(?<![\w/]){re.escape(name)}(?![\w-])", other, text)
    for pattern, mark in VARYING.items():
        text = re.sub(pattern, mark, text)
    return text
