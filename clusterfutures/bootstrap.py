# The first thing that runs in an allocation.  It is started by its path with whatever interpreter the user
# named, so it must be readable by any Python, and it says at once what is wrong with that one.
import gc
import sys


def import_pickle():  # type: ignore[no-untyped-def]
    # `_pickle` wants but `partial` of `functools`, whose own imports would be a quarter of ours.
    if "functools" in sys.modules:
        return
    try:
        import _functools  # type: ignore[import-not-found]

        sys.modules["functools"] = _functools
        import _pickle  # noqa: F401
    except (ImportError, AttributeError):
        pass  # another Python, or one whose `_pickle` wants more: it is imported with all that it needs
    finally:
        sys.modules.pop("functools", None)


def main():  # type: ignore[no-untyped-def]
    version, run_dir, job, index, restart, job_id = sys.argv[1:7]
    found = "%d.%d" % sys.version_info[:2]
    if found != version:
        sys.exit(
            "clusterfutures: the worker's Python is %s (%s), but the program that submits runs Python %s; "
            "functions can only travel between equal versions. Give the same one with python=..."
            % (found, sys.executable, version)
        )
    gc.disable()  # while modules are imported: nothing of them becomes garbage
    import_pickle()  # type: ignore[no-untyped-call]
    package = sys.path.pop(0)  # the package's own folder: its modules must not be importable by bare name
    parent = package.rpartition("/")[0]
    sys.path.insert(0, parent)  # this very package, and not another version that this Python has installed
    try:
        from clusterfutures import supervisor

        sys.path.remove(parent)  # for all else it comes where the driver has it
    except ImportError as error:
        sys.exit(
            "clusterfutures: the worker's Python (%s) cannot import clusterfutures or what it needs: %s"
            % (sys.executable, error)
        )
    supervisor.leave(supervisor.main(run_dir, int(job), int(index), int(restart), job_id))


if __name__ == "__main__":
    main()  # type: ignore[no-untyped-call]
