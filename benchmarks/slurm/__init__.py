"""SlurmExecutor side by side with its peers on a real Slurm; ``python benchmarks/slurm/run.py`` prints it."""
