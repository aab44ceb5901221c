"""What the demo computes: pieces never split a word, and both ways of counting one file agree."""

import os
import random
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.cli import _wordcount
from isthmus.cli._wordcount import (
    LONGEST_RUN,
    PIECE,
    NotText,
    count_file,
    count_piece,
    count_words,
    files_under,
    pieces_of,
)

# How long an example takes decides nothing.

ODD = "aZ_9 \t\n.,-'´“”。、日本語naïveßẞİıΣσς́ͅ\u0345\u2028\ufeff😀\x00\x85 "


def whole(data: bytes) -> Counter[str]:
    """The definition: decode all, find all words, fold each."""
    return Counter(word.casefold() for word in re.findall(r"\w+", data.decode("utf-8", "replace")))


def in_pieces(path: Path, size: int) -> Counter[str]:
    total: Counter[str] = Counter()
    for piece in pieces_of(str(path), size):
        total.update(count_piece(piece))
    return total


def written(folder: Path, data: bytes) -> Path:
    path = folder / "file"
    path.write_bytes(data)
    return path


def test_words_are_compared_without_regard_to_case() -> None:
    assert count_words("Straße STRASSE don't _x1 x-y") == {
        "strasse": 2,
        "don": 1,
        "t": 1,
        "_x1": 1,
        "x": 1,
        "y": 1,
    }


@given(st.lists(st.sampled_from(ODD.replace("\x00", "")), max_size=300), st.integers(1, 40))
def test_every_size_of_piece_counts_the_same(
    tmp_path_factory: pytest.TempPathFactory, letters: list[str], size: int
) -> None:
    data = "".join(letters).encode()
    path = written(tmp_path_factory.mktemp("pieces"), data)
    assert b"".join(pieces_of(str(path), size)) == data
    assert in_pieces(path, size) == whole(data)
    assert count_file(str(path)) == (whole(data), len(data))


@given(st.binary(max_size=400).map(lambda data: data.replace(b"\0", b"")), st.integers(1, 40))
def test_bytes_that_are_no_utf8_count_the_same_in_pieces(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, size: int
) -> None:
    path = written(tmp_path_factory.mktemp("pieces"), data)
    assert in_pieces(path, size) == whole(data) == count_file(str(path))[0]


@pytest.mark.parametrize("length", [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 7, (1 << 20) + 3])
def test_files_around_the_size_of_a_piece(tmp_path: Path, length: int) -> None:
    chooser = random.Random(length)
    text = "".join(chooser.choices(["word ", "naïve\n", "日本 ", "x", "_", "7.", "\U0001f600 "], k=length))
    data = text.encode()[:length]
    path = written(tmp_path, data)
    assert in_pieces(path, PIECE) == whole(data)
    assert count_file(str(path)) == (whole(data), length)
    assert all(len(piece) <= 2 * PIECE for piece in pieces_of(str(path)))


def test_a_word_over_several_pieces_stays_one_word(tmp_path: Path) -> None:
    word = "long" * (LONGEST_RUN // 8)
    data = f"before {word} after".encode()
    path = written(tmp_path, data)
    assert in_pieces(path, 1024) == in_pieces(path, PIECE) == whole(data) == count_file(str(path))[0]
    assert whole(data)[word] == 1


def test_what_is_not_text_is_refused_before_the_first_piece(tmp_path: Path) -> None:
    late_nul = written(tmp_path, b"word " * PIECE + b"\0")
    with pytest.raises(NotText, match="binary"):
        next(pieces_of(str(late_nul)))
    with pytest.raises(NotText, match="binary"):
        count_file(str(late_nul))
    unbroken = written(tmp_path, b"fine " * PIECE + b"x" * (LONGEST_RUN + 2 * PIECE) + b" fine")
    with pytest.raises(NotText, match="unbroken"):
        next(pieces_of(str(unbroken)))
    with pytest.raises(NotText, match="unbroken"):
        count_file(str(unbroken))


@pytest.mark.parametrize("size", [1 << 10, 4 << 10, PIECE])
def test_whether_a_file_is_text_does_not_depend_on_the_size_of_the_pieces(tmp_path: Path, size: int) -> None:
    """A run a little over the limit may or may not pass, as blocks fall; but always the same way."""
    for run in range(LONGEST_RUN - PIECE, LONGEST_RUN + 2 * PIECE, PIECE // 2):
        path = written(tmp_path, b"ab " * 5000 + b"x" * run + b" end")

        def verdict(piece: int, path: Path = path) -> str | Counter[str]:
            try:
                return in_pieces(path, piece)
            except NotText as error:
                return error.reason

        assert verdict(size) == verdict(PIECE)


def test_the_walk_is_in_order_and_leaves_links_and_pipes_alone(tmp_path: Path) -> None:
    for name in ("b/2", "b/1", "a", "c/site-packages/x", "b.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x" * len(name))
    (tmp_path / "b" / "link").symlink_to(tmp_path / "a")
    (tmp_path / "b" / "gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "circle").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    found = list(files_under(str(tmp_path), frozenset({"site-packages"})))
    assert found == [(f"{tmp_path}/{name}", len(name)) for name in ("a", "b.txt", "b/1", "b/2")]
    everything = [name for name, _ in files_under(str(tmp_path))]
    assert f"{tmp_path}/c/site-packages/x" in everything


def test_a_file_as_path_is_walked_too_also_by_a_link(tmp_path: Path) -> None:
    path = written(tmp_path, b"one two")
    link = tmp_path / "link"
    link.symlink_to(path)
    assert list(files_under(str(path))) == [(str(path), 7)]
    assert list(files_under(str(link))) == [(str(link), 7)]


def test_progress_within_one_file_grows_to_its_length(tmp_path: Path) -> None:
    path = written(tmp_path, b"some words " * 300_000)
    told: list[int] = []
    count_file(str(path), told.append)
    assert told == sorted(told)
    assert told[-1] == path.stat().st_size
    assert len(told) > 2


def test_the_cuts_are_behind_every_ascii_byte_that_is_no_word() -> None:
    for byte in range(128):
        ends = not re.match(r"\w", chr(byte))
        assert (_wordcount._ENDS_A_WORD[byte] == 0x0A) == ends
    assert all(_wordcount._ENDS_A_WORD[byte] != 0x0A for byte in range(128, 256))
