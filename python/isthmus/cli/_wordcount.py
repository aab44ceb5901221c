r"""What the demo computes: which files are text, where they may be cut, how their words are counted.

Nothing here knows about processes or queues, and the rules are few so that two ways of counting must agree:

- A *word* is a run of letters, digits and underscores (``\w`` of Unicode), compared without regard to case.
- A *text file* is a regular file without a NUL byte, with one place to cut in about every `LONGEST_RUN`
  bytes. Bytes that are not UTF-8 are tolerated; they separate words.
- A file may be cut only behind an ASCII byte that is no part of a word. Such a byte never occurs inside a
  character of UTF-8 and always ends a word, so counting the pieces gives what counting the whole gives.
"""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from io import FileIO

PIECE = 64 << 10
LONGEST_RUN = 256 << 10

_WORD = re.compile(r"\w+")
_SIGN_OF_WORD = re.compile(r"\w")
_ENDS_A_WORD = bytes(
    0x0A if byte < 0x80 and not (chr(byte).isalnum() or byte == ord("_")) else 0x20 for byte in range(256)
)


class NotText(ValueError):
    """The file is not a text file; `reason` is ``"binary"`` or ``"unbroken"``."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def files_under(
    path: str, skip: frozenset[str] = frozenset(), unreadable: Callable[[OSError], None] | None = None
) -> Iterator[tuple[str, int]]:
    """Yield path and size of each regular file under `path`, in one order on every run.

    Symbolic links below `path` are not followed (nothing is counted twice, no circle is entered), and folders
    whose name is in `skip` not entered. Devices, FIFOs and sockets are left alone: opening one could block.
    `unreadable` is told about folders that cannot be listed.
    """
    if not Path(path).is_dir():
        yield from _if_regular(path, follow=True)
        return
    for folder, folders, names in os.walk(path, onerror=unreadable):
        folders[:] = sorted(name for name in folders if name not in skip)
        for name in sorted(names):
            yield from _if_regular(f"{folder}/{name}", follow=False)


def _if_regular(path: str, *, follow: bool) -> Iterator[tuple[str, int]]:
    try:
        status = os.stat(path, follow_symlinks=follow)  # noqa: PTH116  # a Path a file is half of the walk's time
    except FileNotFoundError:
        return  # removed since its folder was listed
    if stat.S_ISREG(status.st_mode):
        yield path, status.st_size


def pieces_of(path: str, size: int = PIECE) -> Iterator[bytes]:
    """Yield the bytes of a text file in pieces of about `size`, cut only between words.

    Raises `NotText` before the first piece if it is no text file, and `OSError` if it cannot be read.
    A larger file is read twice: once to learn whether all of it is text, and once to hand it out.
    """
    with Path(path).open("rb", buffering=0) as file:
        small = _small_text(file)
        if small is not None and len(small) <= size:
            if small:
                yield small
            return
        file.seek(0)
        rest = b""
        while block := _read(file, size):
            if b"\0" in block:
                raise NotText("binary")
            end = _behind_last_word(block)
            if end:
                yield rest + block[:end]
                rest = block[end:]
            else:
                rest += block
        if rest:
            yield rest


def _small_text(file: FileIO) -> bytes | None:
    """Return all of a small text file, None for a larger one; raise `NotText` for what is none."""
    block = start = _read(file, PIECE)
    run = 0
    while block:
        if b"\0" in block:
            raise NotText("binary")
        end = _behind_last_word(block)
        run = len(block) - end + (0 if end else run)
        if run > LONGEST_RUN:
            raise NotText("unbroken")
        block = _read(file, PIECE) if len(block) == PIECE else b""
    return start if len(start) < PIECE else None


def _behind_last_word(block: bytes) -> int:
    return block.translate(_ENDS_A_WORD).rfind(b"\n") + 1


def _read(file: FileIO, size: int) -> bytes:
    """Read `size` bytes, fewer only at the end of the file."""
    data = file.read(size)
    while 0 < len(data) < size and (more := file.read(size - len(data))):
        data += more
    return data


def count_words(text: str) -> Counter[str]:
    """Count the words of `text`; case is folded word by word, so that cuts between words change nothing."""
    counts: Counter[str] = Counter()
    for word, times in Counter(_WORD.findall(text)).items():
        counts[word.casefold()] += times
    return counts


def count_piece(piece: bytes) -> Counter[str]:
    """Count the words of one piece of a text file."""
    return count_words(piece.decode("utf-8", "replace"))


def count_file(path: str, progress: Callable[[int], None] | None = None) -> tuple[Counter[str], int]:
    """Count one text file the plain way, decoded as a stream, without the cuts of `pieces_of`: the check.

    Returns the counts and the number of bytes read; `progress` is told that number on the way.
    Only whether it is a text file at all is decided by the same code (`NotText`, `OSError`).
    """
    with Path(path).open("rb", buffering=0) as file:
        small = _small_text(file)
    if small is not None:
        return count_piece(small), len(small)
    counts: Counter[str] = Counter()
    with Path(path).open("rb") as raw:
        stream = TextIOWrapper(raw, encoding="utf-8", errors="replace", newline="")
        rest = ""
        while text := stream.read(1 << 20):
            text = rest + text
            end = len(text)
            while end and _SIGN_OF_WORD.match(text, end - 1):
                end -= 1
            counts.update(count_words(text[:end]))
            rest = text[end:]
            if progress:
                progress(raw.tell())
        counts.update(count_words(rest))
        return counts, raw.tell()
