"""Named tuples that cost little to define: they are those of `typing`, as far as they go."""

from __future__ import annotations

import pickle
import typing

import pytest

from clusterfutures import light


class Place(light.NamedTuple):
    """One of ours."""

    segment: int
    offset: int
    length: int = 7
    name: str = "log"

    @property
    def end(self) -> int:
        return self.offset + self.length


class Model(typing.NamedTuple):
    """What it should be like."""

    segment: int
    offset: int
    length: int = 7
    name: str = "log"


GIVEN = [((1, 2), {}), ((1, 2, 3), {}), ((1, 2, 3, "a"), {}), ((1,), {"offset": 2}), ((1, 2), {"name": "a"})]
WRONG = [((), {}), ((1,), {}), ((1, 2, 3, "a", 5), {}), ((1, 2), {"offset": 3}), ((1, 2), {"size": 3})]


@pytest.mark.parametrize(("args", "kwargs"), GIVEN)
def test_making_one(args: typing.Any, kwargs: typing.Any) -> None:
    place, model = Place(*args, **kwargs), Model(*args, **kwargs)
    assert tuple(place) == tuple(model) and place == tuple(model)
    assert hash(place) == hash(model)
    assert (place.segment, place.offset, place.length, place.name) == tuple(model)
    assert repr(place) == repr(model).replace("Model", "Place")


@pytest.mark.parametrize(("args", "kwargs"), WRONG)
def test_making_none(args: typing.Any, kwargs: typing.Any) -> None:
    for kind in (Place, Model):
        with pytest.raises(TypeError):
            kind(*args, **kwargs)


def test_changing_a_copy() -> None:
    place = Place(1, 2)
    changed = place._replace(offset=5, name="out")
    assert (type(changed), changed) == (Place, (1, 5, 7, "out"))
    assert (place.end, changed.end) == (9, 12)
    with pytest.raises(ValueError, match="size"):
        place._replace(size=1)  # type: ignore[call-arg]
    with pytest.raises(AttributeError):
        place.offset = 3  # type: ignore[misc]
    with pytest.raises(AttributeError):
        place.other = 3  # type: ignore[attr-defined]


def test_going_through_a_pickle() -> None:
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        found = pickle.loads(pickle.dumps(Place(1, 2), protocol))
        assert (type(found), found) == (Place, (1, 2, 7, "log"))
