"""A first run: misfits of real seismograms by event and station; ``clusterfutures demo``.

`misfit` is the computation, and the file to begin reading with.  `records` and `synthetics` are its data,
`measure` has the formulae, `figures` and `page` show what was found, `command` is the command.  All but the
last need the extra ``demo``.
"""
