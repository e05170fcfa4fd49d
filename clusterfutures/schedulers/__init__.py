"""What can start jobs: a module for each, behind :class:`clusterfutures.schedulers.base.Scheduler`."""
