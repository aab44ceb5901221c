"""What the processes of the frames demo compute, each by itself."""

import numpy as np
import pytest

import isthmus
from isthmus.cli import _frames_picture as picture
from isthmus.cli._frames_report import Sight, latency, percentile, report


@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 40), (200, 320), (1080, 1920)])
def test_the_square_is_found_wherever_it_is(height: int, width: int) -> None:
    frame, seen = np.empty((height, width, 3), np.uint8), np.empty((height, width, 3), np.uint8)
    still, check = picture.scenery(height, width), picture.Check(height, width)
    side = picture.side_of(height, width)
    rows = {1, 2, 7, height // 2, height - side - 1, height - side}
    columns = {0, 1, 9, width // 2 - 8, width - side - 1, width - side}
    for number, (y, x) in enumerate((y, x) for y in rows for x in columns if y <= height - side):
        picture.paint(frame, still, number, 10**15 + number, x, y)
        assert picture.find(frame) == (x, y)
        assert picture.read_stamp(frame) == (number, 10**15 + number)
        picture.develop(frame, seen, x, y)
        assert picture.read_stamp(seen) == (number, 10**15 + number)
        assert check.is_intact(seen, number, x, y)
        assert not check.is_intact(seen, number + 1, x, y)
        assert not check.is_intact(seen, number, x, y + 1 if y < height - side else y - 1)
    np.bitwise_xor(still, 0, out=frame)
    assert picture.find(frame) == (-1, -1)


def test_a_place_tells_shared_memory_from_copies() -> None:
    with isthmus.Queue("place", type=np.ndarray), isthmus.Queue.open("place", type=np.ndarray) as other:
        place = picture.Place("place")
        with other.reserve(20_000, np.uint8) as array:
            array[:] = 1
            assert place.has(array)
            assert place.has(array[5:])
        seen = other.get_view()
        assert place.has(seen)
        assert not place.has(seen.copy())
        assert not picture.Place("lace").has(seen)
        del seen, array


def test_percentiles_are_values_that_were_measured() -> None:
    values = list(range(1, 101))
    assert [percentile(values, share) for share in (50, 90, 99)] == [50, 90, 99]
    assert percentile([7], 50) == percentile([7], 99) == 7
    assert percentile([1, 2, 3], 50) == 2
    assert latency(Sight(1, 1)) == {}
    assert latency(Sight(1, 1, waits=[3_000_000, 1_000_000]))["max"] == 3.0


def test_a_film_with_faults_says_the_first_and_how_many() -> None:
    lines = report(Sight(64, 64, frames=2, copies=3, faults=["one", "two"]))
    assert "correct  NO: 2 faults, the first is: one" in lines
    assert any(line.startswith("copies   3 frames and pictures did not lie") for line in lines)
