"""What OpenPBS 23.06, TORQUE 6.1.3 and Debian's Torque commands over Slurm 22.05 printed.

Lines that end with a backslash go on.  The same was submitted to both PBS: an array whose elements exit with
their index (78 in OpenPBS, 58 in TORQUE), a job that exits with 3 (77, 57), one with a wall time of 3 seconds
(79, 59), one that was deleted while it ran (80, 60), one that was held and then deleted (83, 64).
"""

from __future__ import annotations

# ---- OpenPBS ------------------------------------------------------------------------------------

# qstat -x -f 77.head 80.head
OPENPBS_TWO = """\
Job Id: 77.head
    Job_Name = one
    Job_Owner = user@localhost
    resources_used.cpupercent = 0
    resources_used.cput = 00:00:00
    resources_used.mem = 7372kb
    resources_used.ncpus = 1
    resources_used.vmem = 10380kb
    resources_used.walltime = 00:00:01
    job_state = F
    queue = workq
    server = head
    Checkpoint = u
    ctime = Fri Nov 20 11:55:11 2026
    Error_Path = localhost:/home/user/w/one.e77
    exec_host = localhost/0
    exec_vnode = (localhost:ncpus=1)
    Hold_Types = n
    Join_Path = n
    Keep_Files = n
    Mail_Points = a
    mtime = Fri Nov 20 11:55:12 2026
    Output_Path = localhost:/home/user/w/one.o77
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
    substate = 93
    Variable_List = PBS_O_HOME=/home/user,PBS_O_LANG=C.UTF-8,
	PBS_O_LOGNAME=user,PBS_O_PATH=/opt/pbs/bin:/usr/bin:/bin,
	PBS_O_MAIL=/var/mail/user,PBS_O_SHELL=/bin/bash,
	PBS_O_INTERACTIVE_AUTH_METHOD=resvport,
	PBS_O_INTERACTIVE_ENCRYPT_METHOD=,PBS_O_WORKDIR=/home/user/w,
	PBS_O_SYSTEM=Linux,PBS_O_QUEUE=workq,PBS_O_HOST=localhost
    comment = Job run at Fri Nov 20 at 11:55 on (localhost:ncpus=1) and failed
    etime = Fri Nov 20 11:55:11 2026
    run_count = 1
    Stageout_status = 1
    Exit_status = 3
    Submit_arguments = -N one fail3.sh
    history_timestamp = 1795175712
    project = _pbs_project_default
    Submit_Host = localhost

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

# Of these, JSON was kept (qstat -f -t -F json); this is the same as text, without what does not matter here.
OPENPBS_LIVE = """\
Job Id: 79.head
    Job_Name = long
    job_state = R
    queue = workq
    server = head
    exec_host = localhost/2
    Hold_Types = n
    Resource_List.ncpus = 1
    Resource_List.nodect = 1
    Resource_List.place = pack
    Resource_List.select = 1:ncpus=1
    Resource_List.walltime = 00:00:03
    stime = Fri Nov 20 11:55:11 2026
    substate = 41
    comment = Job run at Fri Nov 20 at 11:55 on (localhost:ncpus=1)
    run_count = 1
    Submit_arguments = -N long -l walltime=00:00:03 sleep60.sh

Job Id: 83.head
    Job_Name = held
    job_state = H
    queue = workq
    server = head
    Hold_Types = u
    Resource_List.ncpus = 1
    Resource_List.nodect = 1
    Resource_List.place = pack
    Resource_List.select = 1:ncpus=1
    Resource_List.walltime = 01:00:00
    substate = 20
    Submit_arguments = -h -N held fail3.sh

"""

# qstat -x -f -t 78[].head
OPENPBS_ARRAY = """\
Job Id: 78[].head
    Job_Name = arr
    job_state = F
    queue = workq
    server = head
    Hold_Types = n
    Resource_List.ncpus = 1
    Resource_List.nodect = 1
    Resource_List.place = pack
    Resource_List.select = 1:ncpus=1
    Resource_List.walltime = 01:00:00
    stime = Fri Nov 20 11:55:11 2026
    substate = 93
    comment = Job Array Began at Fri Nov 20 at 11:55 and failed
    Exit_status = 1
    Submit_arguments = -N arr -J 0-3 arr.sh
    array = True
    array_indices_submitted = 0-3
    array_indices_remaining = -

Job Id: 78[0].head
    Job_Name = arr
    resources_used.cpupercent = 0
    resources_used.cput = 00:00:00
    resources_used.mem = 0kb
    resources_used.ncpus = 1
    resources_used.vmem = 0kb
    resources_used.walltime = 00:00:00
    job_state = F
    queue = workq
    server = head
    exec_host = localhost/1
    Resource_List.ncpus = 1
    Resource_List.nodect = 1
    Resource_List.place = pack
    Resource_List.select = 1:ncpus=1
    Resource_List.walltime = 01:00:00
    stime = Fri Nov 20 11:55:11 2026
    substate = 92
    comment = Job run at Fri Nov 20 at 11:55 on (localhost:ncpus=1) and finishe
	d
    run_count = 1
    Exit_status = 0
    array_id = 78[].head
    array_index = 0

Job Id: 78[3].head
    Job_Name = arr
    resources_used.cpupercent = 0
    resources_used.cput = 00:00:00
    resources_used.mem = 616kb
    resources_used.ncpus = 1
    resources_used.vmem = 3848kb
    resources_used.walltime = 00:00:00
    job_state = F
    queue = workq
    server = head
    exec_host = localhost/1
    Resource_List.ncpus = 1
    Resource_List.nodect = 1
    Resource_List.place = pack
    Resource_List.select = 1:ncpus=1
    Resource_List.walltime = 01:00:00
    stime = Fri Nov 20 11:55:11 2026
    substate = 93
    comment = Job run at Fri Nov 20 at 11:55 on (localhost:ncpus=1) and failed
    run_count = 1
    Exit_status = 3
    array_id = 78[].head
    array_index = 3

"""

OPENPBS_WALLTIME = """\
Job Id: 79.head
    Job_Name = long
    resources_used.cpupercent = 0
    resources_used.cput = 00:00:00
    resources_used.mem = 7160kb
    resources_used.ncpus = 1
    resources_used.vmem = 10380kb
    resources_used.walltime = 00:00:13
    job_state = F
    queue = workq
    server = head
    exec_host = localhost/2
    Hold_Types = n
    Resource_List.ncpus = 1
    Resource_List.nodect = 1
    Resource_List.place = pack
    Resource_List.select = 1:ncpus=1
    Resource_List.walltime = 00:00:03
    stime = Fri Nov 20 11:55:11 2026
    substate = 93
    comment = Job run at Fri Nov 20 at 11:55 on (localhost:ncpus=1) and exceede
	d resource walltime
    run_count = 1
    Exit_status = -29
    Submit_arguments = -N long -l walltime=00:00:03 sleep60.sh

"""

OPENPBS_REMOVED = """\
Job Id: 83.head
    Job_Name = held
    job_state = F
    queue = workq
    server = head
    Hold_Types = u
    Resource_List.ncpus = 1
    Resource_List.nodect = 1
    Resource_List.place = pack
    Resource_List.select = 1:ncpus=1
    Resource_List.walltime = 01:00:00
    substate = 91
    Submit_arguments = -h -N held fail3.sh

"""

# Standard error, and the exit code.
OPENPBS_UNKNOWN = (153, "qstat: Unknown Job Id 99999.head\n")
OPENPBS_QDEL_UNKNOWN = (153, "qdel: Unknown Job Id 99999.head\n")
OPENPBS_BAD_QUEUE = (170, "qsub: Unknown queue\n")
OPENPBS_BAD_RESOURCE = (187, "qsub: Unknown resource Resource_List.foo\n")
OPENPBS_BAD_MEMORY = (166, "qsub: Illegal attribute or resource value Resource_List.mem\n")

# ---- TORQUE -------------------------------------------------------------------------------------

# qstat -x 57.head 60.head
TORQUE_TWO = """\
<?xml version="1.0"?>
<Data><Job><Job_Id>57.head</Job_Id><Job_Name>one</Job_Name><Job_Owner>user@localhost</Job_Owner>\
<resources_used><cput>00:00:00</cput><vmem>11640kb</vmem><walltime>00:00:01</walltime><mem>7888kb</mem>\
<energy_used>0</energy_used></resources_used><job_state>C</job_state><queue>batch</queue><server>head\
</server><Checkpoint>u</Checkpoint><ctime>1795175711</ctime><Error_Path>head:/home/user/tw/one.e57\
</Error_Path><exec_host>localhost/0</exec_host><Hold_Types>n</Hold_Types><Join_Path>n</Join_Path>\
<Keep_Files>n</Keep_Files><Mail_Points>a</Mail_Points><mtime>1795175712</mtime>\
<Output_Path>head:/home/user/tw/one.o57</Output_Path><Priority>0</Priority><qtime>1795175711</qtime>\
<Rerunable>True</Rerunable><Resource_List><walltime>01:00:00</walltime><nodes>1</nodes><nodect>1\
</nodect></Resource_List><session_id>28840</session_id><Variable_List>PBS_O_QUEUE=batch,\
PBS_O_HOME=/home/user,PBS_O_LOGNAME=user,\
PBS_O_PATH=/usr/local/torque/bin:/usr/local/torque/sbin:/usr/sbin:/usr/bin:/sbin:/bin,\
PBS_O_MAIL=/var/mail/user,PBS_O_SHELL=/bin/bash,PBS_O_LANG=C.UTF-8,PBS_O_WORKDIR=/home/user/tw,\
PBS_O_HOST=head,PBS_O_SERVER=head</Variable_List><euser>user</euser><egroup>user</egroup><queue_type>E\
</queue_type><comment>Job started on Fri Nov 20 at 11:55</comment><etime>1795175711</etime>\
<exit_status>3</exit_status><submit_args>-N one fail3.sh</submit_args><start_time>1795175711\
</start_time><start_count>1</start_count><fault_tolerant>False</fault_tolerant><comp_time>1795175712\
</comp_time><job_radix>0</job_radix><total_runtime>1.081186</total_runtime><submit_host>head\
</submit_host><init_work_dir>/home/user/tw</init_work_dir><request_version>1</request_version></Job>\
</Data><?xml version="1.0"?>
<Data><Job><Job_Id>60.head</Job_Id><Job_Name>del</Job_Name><Job_Owner>user@localhost</Job_Owner>\
<resources_used><cput>00:00:00</cput><vmem>11640kb</vmem><walltime>00:00:01</walltime><mem>8088kb</mem>\
<energy_used>0</energy_used></resources_used><job_state>C</job_state><queue>batch</queue><server>head\
</server><Checkpoint>u</Checkpoint><ctime>1795175711</ctime><Error_Path>head:/home/user/tw/del.e60\
</Error_Path><exec_host>localhost/3</exec_host><Hold_Types>n</Hold_Types><Join_Path>n</Join_Path>\
<Keep_Files>n</Keep_Files><Mail_Points>a</Mail_Points><mtime>1795175712</mtime>\
<Output_Path>head:/home/user/tw/del.o60</Output_Path><Priority>0</Priority><qtime>1795175711</qtime>\
<Rerunable>True</Rerunable><Resource_List><walltime>01:00:00</walltime><nodes>1</nodes><nodect>1\
</nodect></Resource_List><session_id>28908</session_id><Variable_List>PBS_O_QUEUE=batch,\
PBS_O_HOME=/home/user,PBS_O_LOGNAME=user,\
PBS_O_PATH=/usr/local/torque/bin:/usr/local/torque/sbin:/usr/sbin:/usr/bin:/sbin:/bin,\
PBS_O_MAIL=/var/mail/user,PBS_O_SHELL=/bin/bash,PBS_O_LANG=C.UTF-8,PBS_O_WORKDIR=/home/user/tw,\
PBS_O_HOST=head,PBS_O_SERVER=head</Variable_List><euser>user</euser><egroup>user</egroup><queue_type>E\
</queue_type><comment>Job started on Fri Nov 20 at 11:55</comment><etime>1795175711</etime>\
<exit_status>271</exit_status><submit_args>-N del sleep60.sh</submit_args><start_time>1795175711\
</start_time><start_count>1</start_count><fault_tolerant>False</fault_tolerant><comp_time>1795175712\
</comp_time><job_radix>0</job_radix><total_runtime>0.794348</total_runtime><submit_host>head\
</submit_host><init_work_dir>/home/user/tw</init_work_dir><request_version>1</request_version></Job>\
</Data>
"""

# qstat -t -x, of which some jobs are left out; early on
TORQUE_LIVE = """\
<?xml version="1.0"?>
<Data><Job><Job_Id>57.head</Job_Id><Job_Name>one</Job_Name><Job_Owner>user@localhost</Job_Owner>\
<job_state>R</job_state><queue>batch</queue><server>head</server><Checkpoint>u</Checkpoint>\
<ctime>1795175711</ctime><Error_Path>head:/home/user/tw/one.e57</Error_Path><exec_host>localhost/0\
</exec_host><Hold_Types>n</Hold_Types><Join_Path>n</Join_Path><Keep_Files>n</Keep_Files><Mail_Points>a\
</Mail_Points><mtime>1795175711</mtime><Output_Path>head:/home/user/tw/one.o57</Output_Path><Priority>0\
</Priority><qtime>1795175711</qtime><Rerunable>True</Rerunable><Resource_List><walltime>01:00:00\
</walltime><nodes>1</nodes><nodect>1</nodect></Resource_List><session_id>28840</session_id>\
<Variable_List>PBS_O_QUEUE=batch,PBS_O_HOME=/home/user,PBS_O_LOGNAME=user,\
PBS_O_PATH=/usr/local/torque/bin:/usr/local/torque/sbin:/usr/sbin:/usr/bin:/sbin:/bin,\
PBS_O_MAIL=/var/mail/user,PBS_O_SHELL=/bin/bash,PBS_O_LANG=C.UTF-8,PBS_O_WORKDIR=/home/user/tw,\
PBS_O_HOST=head,PBS_O_SERVER=head</Variable_List><euser>user</euser><egroup>user</egroup><queue_type>E\
</queue_type><comment>Job started on Fri Nov 20 at 11:55</comment><etime>1795175711</etime>\
<submit_args>-N one fail3.sh</submit_args><start_time>1795175711</start_time><Walltime><Remaining>3599\
</Remaining></Walltime><start_count>1</start_count><fault_tolerant>False</fault_tolerant><job_radix>0\
</job_radix><submit_host>head</submit_host><init_work_dir>/home/user/tw</init_work_dir>\
<request_version>1</request_version></Job><Job><Job_Id>58[1].head</Job_Id><Job_Name>arr-1</Job_Name>\
<Job_Owner>user@localhost</Job_Owner><resources_used><cput>00:00:00</cput><vmem>3848kb</vmem>\
<walltime>00:00:00</walltime><mem>896kb</mem><energy_used>0</energy_used></resources_used><job_state>C\
</job_state><queue>batch</queue><server>head</server><Checkpoint>u</Checkpoint><ctime>1795175711\
</ctime><Error_Path>head:/home/user/tw/arr.e58-1</Error_Path><exec_host>localhost/2</exec_host>\
<Join_Path>n</Join_Path><Keep_Files>n</Keep_Files><Mail_Points>a</Mail_Points><mtime>1795175711</mtime>\
<Output_Path>head:/home/user/tw/arr.o58-1</Output_Path><Priority>0</Priority><qtime>1795175711</qtime>\
<Rerunable>True</Rerunable><Resource_List><walltime>01:00:00</walltime><nodes>1</nodes><nodect>1\
</nodect></Resource_List><session_id>28847</session_id><Variable_List>PBS_ARRAYID=1,PBS_O_QUEUE=batch,\
PBS_O_HOME=/home/user,PBS_O_LOGNAME=user,\
PBS_O_PATH=/usr/local/torque/bin:/usr/local/torque/sbin:/usr/sbin:/usr/bin:/sbin:/bin,\
PBS_O_MAIL=/var/mail/user,PBS_O_SHELL=/bin/bash,PBS_O_LANG=C.UTF-8,PBS_O_WORKDIR=/home/user/tw,\
PBS_O_HOST=head,PBS_O_SERVER=head</Variable_List><euser>user</euser><egroup>user</egroup><queue_type>E\
</queue_type><comment>Job started on Fri Nov 20 at 11:55</comment><etime>1795175711</etime>\
<exit_status>1</exit_status><submit_args>-N arr -t 0-3 arr.sh</submit_args><job_array_id>1\
</job_array_id><start_time>1795175711</start_time><start_count>1</start_count><fault_tolerant>False\
</fault_tolerant><comp_time>1795175711</comp_time><job_radix>0</job_radix><total_runtime>0.082714\
</total_runtime><submit_host>head</submit_host><init_work_dir>/home/user/tw</init_work_dir>\
<request_version>1</request_version></Job><Job><Job_Id>64.head</Job_Id><Job_Name>held</Job_Name>\
<Job_Owner>user@localhost</Job_Owner><job_state>H</job_state><queue>batch</queue><server>head</server>\
<Checkpoint>u</Checkpoint><ctime>1795175711</ctime><Error_Path>head:/home/user/tw/held.e64</Error_Path>\
<Hold_Types>u</Hold_Types><Join_Path>n</Join_Path><Keep_Files>n</Keep_Files><Mail_Points>a\
</Mail_Points><mtime>1795175711</mtime><Output_Path>head:/home/user/tw/held.o64</Output_Path>\
<Priority>0</Priority><qtime>1795175711</qtime><Rerunable>True</Rerunable><Resource_List>\
<walltime>01:00:00</walltime><nodes>1</nodes><nodect>1</nodect></Resource_List>\
<Variable_List>PBS_O_QUEUE=batch,PBS_O_HOME=/home/user,PBS_O_LOGNAME=user,\
PBS_O_PATH=/usr/local/torque/bin:/usr/local/torque/sbin:/usr/sbin:/usr/bin:/sbin:/bin,\
PBS_O_MAIL=/var/mail/user,PBS_O_SHELL=/bin/bash,PBS_O_LANG=C.UTF-8,PBS_O_WORKDIR=/home/user/tw,\
PBS_O_HOST=head,PBS_O_SERVER=head</Variable_List><euser>user</euser><egroup>user</egroup><queue_type>E\
</queue_type><submit_args>-h -N held fail3.sh</submit_args><fault_tolerant>False</fault_tolerant>\
<job_radix>0</job_radix><submit_host>head</submit_host><init_work_dir>/home/user/tw</init_work_dir>\
<request_version>1</request_version></Job></Data>
"""

# and later.
TORQUE_ENDED = """\
<?xml version="1.0"?>
<Data><Job><Job_Id>58[0].head</Job_Id><Job_Name>arr-0</Job_Name><Job_Owner>user@localhost</Job_Owner>\
<resources_used><cput>00:00:00</cput><vmem>0kb</vmem><walltime>00:00:00</walltime><mem>0kb</mem>\
<energy_used>0</energy_used></resources_used><job_state>C</job_state><queue>batch</queue><server>head\
</server><Checkpoint>u</Checkpoint><ctime>1795175711</ctime><Error_Path>head:/home/user/tw/arr.e58-0\
</Error_Path><exec_host>localhost/1</exec_host><Join_Path>n</Join_Path><Keep_Files>n</Keep_Files>\
<Mail_Points>a</Mail_Points><mtime>1795175711</mtime><Output_Path>head:/home/user/tw/arr.o58-0\
</Output_Path><Priority>0</Priority><qtime>1795175711</qtime><Rerunable>True</Rerunable><Resource_List>\
<walltime>01:00:00</walltime><nodes>1</nodes><nodect>1</nodect></Resource_List><session_id>28844\
</session_id><Variable_List>PBS_ARRAYID=0,PBS_O_QUEUE=batch,PBS_O_HOME=/home/user,PBS_O_LOGNAME=user,\
PBS_O_PATH=/usr/local/torque/bin:/usr/local/torque/sbin:/usr/sbin:/usr/bin:/sbin:/bin,\
PBS_O_MAIL=/var/mail/user,PBS_O_SHELL=/bin/bash,PBS_O_LANG=C.UTF-8,PBS_O_WORKDIR=/home/user/tw,\
PBS_O_HOST=head,PBS_O_SERVER=head</Variable_List><euser>user</euser><egroup>user</egroup><queue_type>E\
</queue_type><comment>Job started on Fri Nov 20 at 11:55</comment><etime>1795175711</etime>\
<exit_status>0</exit_status><submit_args>-N arr -t 0-3 arr.sh</submit_args><job_array_id>0\
</job_array_id><start_time>1795175711</start_time><start_count>1</start_count><fault_tolerant>False\
</fault_tolerant><comp_time>1795175711</comp_time><job_radix>0</job_radix><total_runtime>0.093643\
</total_runtime><submit_host>head</submit_host><init_work_dir>/home/user/tw</init_work_dir>\
<request_version>1</request_version></Job><Job><Job_Id>58[3].head</Job_Id><Job_Name>arr-3</Job_Name>\
<Job_Owner>user@localhost</Job_Owner><resources_used><cput>00:00:00</cput><vmem>0kb</vmem>\
<walltime>00:00:00</walltime><mem>0kb</mem><energy_used>0</energy_used></resources_used><job_state>C\
</job_state><queue>batch</queue><server>head</server><Checkpoint>u</Checkpoint><ctime>1795175711\
</ctime><Error_Path>head:/home/user/tw/arr.e58-3</Error_Path><exec_host>localhost/1</exec_host>\
<Join_Path>n</Join_Path><Keep_Files>n</Keep_Files><Mail_Points>a</Mail_Points><mtime>1795175711</mtime>\
<Output_Path>head:/home/user/tw/arr.o58-3</Output_Path><Priority>0</Priority><qtime>1795175711</qtime>\
<Rerunable>True</Rerunable><Resource_List><walltime>01:00:00</walltime><nodes>1</nodes><nodect>1\
</nodect></Resource_List><session_id>28892</session_id><Variable_List>PBS_ARRAYID=3,PBS_O_QUEUE=batch,\
PBS_O_HOME=/home/user,PBS_O_LOGNAME=user,\
PBS_O_PATH=/usr/local/torque/bin:/usr/local/torque/sbin:/usr/sbin:/usr/bin:/sbin:/bin,\
PBS_O_MAIL=/var/mail/user,PBS_O_SHELL=/bin/bash,PBS_O_LANG=C.UTF-8,PBS_O_WORKDIR=/home/user/tw,\
PBS_O_HOST=head,PBS_O_SERVER=head</Variable_List><euser>user</euser><egroup>user</egroup><queue_type>E\
</queue_type><comment>Job started on Fri Nov 20 at 11:55</comment><etime>1795175711</etime>\
<exit_status>3</exit_status><submit_args>-N arr -t 0-3 arr.sh</submit_args><job_array_id>3\
</job_array_id><start_time>1795175711</start_time><start_count>1</start_count><fault_tolerant>False\
</fault_tolerant><comp_time>1795175711</comp_time><job_radix>0</job_radix><total_runtime>0.061834\
</total_runtime><submit_host>head</submit_host><init_work_dir>/home/user/tw</init_work_dir>\
<request_version>1</request_version></Job><Job><Job_Id>59.head</Job_Id><Job_Name>long</Job_Name>\
<Job_Owner>user@localhost</Job_Owner><resources_used><cput>00:00:00</cput><energy_used>0</energy_used>\
<mem>106616kb</mem><vmem>342640kb</vmem><walltime>00:00:05</walltime></resources_used><job_state>C\
</job_state><queue>batch</queue><server>head</server><Checkpoint>u</Checkpoint><ctime>1795175711\
</ctime><Error_Path>head:/home/user/tw/long.e59</Error_Path><exec_host>localhost/2</exec_host>\
<Hold_Types>n</Hold_Types><Join_Path>n</Join_Path><Keep_Files>n</Keep_Files><Mail_Points>a\
</Mail_Points><mtime>1795175716</mtime><Output_Path>head:/home/user/tw/long.o59</Output_Path>\
<Priority>0</Priority><qtime>1795175711</qtime><Rerunable>True</Rerunable><Resource_List>\
<walltime>00:00:03</walltime><nodes>1</nodes><nodect>1</nodect></Resource_List><session_id>28901\
</session_id><Variable_List>PBS_O_QUEUE=batch,PBS_O_HOME=/home/user,PBS_O_LOGNAME=user,\
PBS_O_PATH=/usr/local/torque/bin:/usr/local/torque/sbin:/usr/sbin:/usr/bin:/sbin:/bin,\
PBS_O_MAIL=/var/mail/user,PBS_O_SHELL=/bin/bash,PBS_O_LANG=C.UTF-8,PBS_O_WORKDIR=/home/user/tw,\
PBS_O_HOST=head,PBS_O_SERVER=head</Variable_List><euser>user</euser><egroup>user</egroup><queue_type>E\
</queue_type><comment>Job started on Fri Nov 20 at 11:55</comment><etime>1795175711</etime>\
<exit_status>-11</exit_status><submit_args>-N long -l walltime=00:00:03 sleep60.sh</submit_args>\
<start_time>1795175711</start_time><start_count>1</start_count><fault_tolerant>False</fault_tolerant>\
<comp_time>1795175716</comp_time><job_radix>0</job_radix><total_runtime>5.042870</total_runtime>\
<submit_host>head</submit_host><init_work_dir>/home/user/tw</init_work_dir><request_version>1\
</request_version></Job><Job><Job_Id>64.head</Job_Id><Job_Name>held</Job_Name><Job_Owner>user@localhost\
</Job_Owner><job_state>C</job_state><queue>batch</queue><server>head</server><Checkpoint>u</Checkpoint>\
<ctime>1795175711</ctime><Error_Path>head:/home/user/tw/held.e64</Error_Path><Hold_Types>u</Hold_Types>\
<Join_Path>n</Join_Path><Keep_Files>n</Keep_Files><Mail_Points>a</Mail_Points><mtime>1795175712</mtime>\
<Output_Path>head:/home/user/tw/held.o64</Output_Path><Priority>0</Priority><qtime>1795175711</qtime>\
<Rerunable>True</Rerunable><Resource_List><walltime>01:00:00</walltime><nodes>1</nodes><nodect>1\
</nodect></Resource_List><Variable_List>PBS_O_QUEUE=batch,PBS_O_HOME=/home/user,PBS_O_LOGNAME=user,\
PBS_O_PATH=/usr/local/torque/bin:/usr/local/torque/sbin:/usr/sbin:/usr/bin:/sbin:/bin,\
PBS_O_MAIL=/var/mail/user,PBS_O_SHELL=/bin/bash,PBS_O_LANG=C.UTF-8,PBS_O_WORKDIR=/home/user/tw,\
PBS_O_HOST=head,PBS_O_SERVER=head</Variable_List><euser>user</euser><egroup>user</egroup><queue_type>E\
</queue_type><submit_args>-h -N held fail3.sh</submit_args><fault_tolerant>False</fault_tolerant>\
<job_radix>0</job_radix><submit_host>head</submit_host><init_work_dir>/home/user/tw</init_work_dir>\
<request_version>1</request_version></Job></Data>
"""

TORQUE_UNKNOWN = (153, "qstat: Unknown Job Id Error 99999.head\n")
TORQUE_QDEL_UNKNOWN = (153, "qdel: nonexistent job id: 99999\n")
TORQUE_BAD_QUEUE = (172, "qsub: submit error (Unknown queue MSG=requested queue not found)\n")
TORQUE_BAD_RESOURCE = (189, "qsub: submit error (Unknown resource type  Resource_List.foo)\n")
TORQUE_BAD_MEMORY = (168, "qsub: submit error (Illegal attribute or resource value for Resource_List.mem)\n")

# ---- Debian's Torque commands -------------------------------------------------------------------

# qstat -f 413 414 415 419 420 421: one was ended for its memory, one was cancelled while it ran, one was
# cancelled while it was held, one was ended for its wall time, one runs, one waits.
DEBIAN_JOBS = """\
Job Id:	413
	Job_Name = oom.sh
	Job_Owner = root@localhost
	job_state = U
	queue = main
	qtime = Sat Nov 21 14:54:23 2026
	mtime = Sat Nov 21 14:54:23 2026
	ctime = Sat Nov 21 14:54:25 2026
	Account_Name = science
	exec_host = n1/1
	Priority = 4294901601
	euser = root(0)
	egroup = root(0)
	Resource_List.walltime = 12:00:00
	Resource_List.nodect = 1
	Resource_List.ncpus = 1

Job Id:	414
	Job_Name = sl.sh
	Job_Owner = root@localhost
	job_state = C
	queue = main
	qtime = Sat Nov 21 14:54:23 2026
	mtime = Sat Nov 21 14:54:23 2026
	ctime = Sat Nov 21 14:54:27 2026
	Account_Name = science
	exec_host = n1/1
	Priority = 4294901600
	euser = root(0)
	egroup = root(0)
	Resource_List.walltime = 12:00:00
	Resource_List.nodect = 1
	Resource_List.ncpus = 1

Job Id:	415
	Job_Name = sl.sh
	Job_Owner = root@localhost
	job_state = C
	queue = main
	qtime = Sat Nov 21 14:54:24 2026
	mtime = Sat Nov 21 14:54:27 2026
	ctime = Sat Nov 21 14:54:27 2026
	Account_Name = science
	Priority = 0
	euser = root(0)
	egroup = root(0)
	Resource_List.walltime = 12:00:00
	Resource_List.nodect = 1
	Resource_List.ncpus = 1

Job Id:	419
	Job_Name = sl.sh
	Job_Owner = root@localhost
	job_state = C
	queue = main
	qtime = Sat Nov 21 15:03:37 2026
	mtime = Sat Nov 21 15:03:38 2026
	ctime = Sat Nov 21 15:04:49 2026
	Account_Name = science
	exec_host = n1/1
	Priority = 4294901596
	euser = root(0)
	egroup = root(0)
	Resource_List.walltime = 00:01:00
	Resource_List.nodect = 1
	Resource_List.ncpus = 1

Job Id:	420
	Job_Name = sl.sh
	Job_Owner = root@localhost
	job_state = R
	queue = main
	qtime = Sat Nov 21 15:05:12 2026
	mtime = Sat Nov 21 15:05:13 2026
	ctime = Sat Nov 21 16:05:13 2026
	Account_Name = science
	exec_host = n1/1
	Priority = 4294901595
	euser = root(0)
	egroup = root(0)
	Resource_List.walltime = 01:00:00
	Resource_List.nodect = 1
	Resource_List.ncpus = 1

Job Id:	421
	Job_Name = sl.sh
	Job_Owner = root@localhost
	job_state = Q
	queue = main
	qtime = Sat Nov 21 15:05:13 2026
	Account_Name = science
	Priority = 0
	euser = root(0)
	egroup = root(0)
	Resource_List.walltime = 12:00:00
	Resource_List.nodect = 1
	Resource_List.ncpus = 1

"""

# Standard output of qsub -q nope, which exits with 1.
DEBIAN_BAD_QUEUE = """\
There was an error running the Slurm sbatch command.
The command was:
'/usr/bin/sbatch -e sl.sh.e%A -o sl.sh.o%A -p nope sl.sh 2>&1'
and the output was:
'sbatch: error: invalid partition specified: nope
 sbatch: error: Batch job submission failed: Invalid partition name specified
'
"""

# The beginning of what qstat --version prints to standard error, and its exit code.
DEBIAN_VERSION = (2, "Unknown option: version\nUsage:\n")
