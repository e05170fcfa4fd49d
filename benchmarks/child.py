"""Entry point of one measurement process.

Kept to these lines because a pool that spawns its workers imports the driver's main module again
in each of them: whatever stood here would be paid by that peer alone.
"""

if __name__ == "__main__":
    from benchmarks.scenarios import main

    main()
