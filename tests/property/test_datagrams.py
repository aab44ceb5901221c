"""Datagrams of any bytes: a message, or an error that says it is none, and the next one comes."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

import isthmus
from isthmus.socket._numbers import HEADER_SIZE

EXAMPLES = int(os.environ.get("ISTHMUS_TEST_EXAMPLES", "200"))
many = settings(max_examples=EXAMPLES)

LIMIT = 200


@many
@given(
    datagrams=st.lists(st.one_of(st.binary(max_size=60), st.sampled_from([bytes(LIMIT), bytes(LIMIT + 1)]))),
    changes=st.lists(st.tuples(st.integers(0, 30), st.binary(max_size=3)), max_size=5),
    numbered=st.booleans(),
)
def test_any_datagrams(
    datagrams: list[bytes], changes: list[tuple[int, bytes]], numbered: bool, tmp_path: Path
) -> None:
    path = tmp_path / "d"
    with (
        isthmus.Datagram(at=path, type=list[int], numbered=numbered, limit=LIMIT) as here,
        isthmus.Datagram(at=tmp_path / "tap") as tap,
        isthmus.Datagram(tmp_path / "tap", type=list[int], numbered=numbered) as valid,
        isthmus.Datagram(path) as there,
    ):
        valid.send([1, 2, 3])
        sent = tap.recv(0)
        for at, data in changes:
            datagrams.append(sent[:at] + data + sent[at + len(data) :])
        invalid: list[tuple[bytes, bytes]] = []
        too_large: list[tuple[int, int]] = []
        came = 0
        for datagram in datagrams:
            there.send(datagram)
            try:
                received = here.recv_from(0)
            except isthmus.InvalidMessage as error:
                invalid.append((error.data, datagram))
            except isthmus.TooLarge as error:
                too_large.append((error.size, len(datagram)))
            except isthmus.Empty:
                pass
            else:
                assert all(isinstance(number, int) for number in received.message)
                came += 1
        assert all(shown in {datagram, datagram[HEADER_SIZE:]} for shown, datagram in invalid)
        assert all(LIMIT < size == shown for shown, size in too_large)
        stats = here.stats()
        assert (stats.received, stats.invalid, stats.too_large) == (came, len(invalid), len(too_large))
        # Of those with a number one that comes twice is not given out; nothing else is left out.
        assert stats.received + stats.invalid + stats.too_large + stats.duplicate == len(datagrams)
        assert numbered or not stats.duplicate
        if not numbered:
            there.send(sent)
            assert here.recv(0) == [1, 2, 3]
