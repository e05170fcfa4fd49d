"""Entry point of one measurement process; as `benchmarks.child`, for the scenarios on Slurm."""

if __name__ == "__main__":
    from benchmarks.slurm.scenarios import main

    main()
