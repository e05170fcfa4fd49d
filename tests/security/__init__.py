"""Hostile input, and other users of the machine; what is promised is in docs/security.rst.

The fuzzers try the same examples in each run.  A hundred times as many, and new ones each time, by hand::

    python -m pytest tests/security --hypothesis-profile=long --timeout=0
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

LONG = "long"
settings.register_profile(LONG)


def examples(count: int) -> settings:
    """The settings of a fuzzer with so many examples, as long as nobody asks for more of them."""
    everyday = settings.default is not settings.get_profile(LONG)
    return settings(
        max_examples=count if everyday else 100 * count,
        derandomize=everyday,
        database=None,
        deadline=None,  # how fast the machine is does not matter
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )
