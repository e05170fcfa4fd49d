"""The contract of ``concurrent.futures``, tested on every executor that promises it.

`executors` lists the executors and says where each differs on purpose; `work` holds what runs in the
workers; one ``test_*`` module for each topic.  A test asks for `executor` (a pool shared by its module,
which it must not harm) or `make` (a factory of its own pools, shut down after it).
"""
