"""LocalExecutor side by side with its peers; ``python benchmarks/run.py`` prints the table."""
