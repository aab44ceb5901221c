"""Files that are not what they should be: truncated, foreign, of another version or kind, with bits flipped.

The answer is an error that names the file and both sides; never a crash, never a wait without an end.
"""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

import isthmus
from support import Peer, object_files

Start = Callable[..., Peer]

HEADER = 12288  # header and attachments; what follows is the queue's own
CONTROL_WORDS = 64  # with which a queue's own begins: locks, positions, wait points
Refused = (isthmus.IncompatibleError, isthmus.CorruptError)


@pytest.fixture
def stored(namespace: Path) -> Path:
    """The file of a persistent queue with messages in it that nobody has open."""
    with isthmus.Queue("stored", type=bytes, persistent=True, capacity=256 << 10) as handle:
        handle.put_many([b"a" * 10, b"b" * 10_000, b"c"])
    return namespace / "stored"


def put_word(path: Path, offset: int, value: int, size: int = 8) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(value.to_bytes(size, "little"))


def get_word(path: Path, offset: int, size: int = 8) -> int:
    with path.open("rb") as file:
        file.seek(offset)
        return int.from_bytes(file.read(size), "little")


def check_refused(path: Path, *words: str) -> None:
    """Every way to open it says the same and leaves it alone; the listing shows why."""
    before = path.stat().st_size
    for make in (isthmus.Queue.open, isthmus.Queue):
        with pytest.raises(Refused) as caught:
            make("stored")
        text = str(caught.value)
        for word in ("stored", *words):
            assert word in text, f"{word!r} is not in {text!r}"
    assert path.stat().st_size == before
    (entry,) = [entry for entry in isthmus.objects() if entry.name == "stored"]
    assert entry.problem is not None
    isthmus.clean()
    with isthmus.Queue("sound", type=bytes) as handle:  # the rest of the namespace goes on
        handle.put(b"x")
        assert handle.get() == b"x"


@pytest.mark.parametrize("size", [0, 1, 100, 4096, HEADER - 1, HEADER, HEADER + 4096])
def test_a_truncated_file_is_refused_with_both_sizes(stored: Path, size: int) -> None:
    whole = stored.stat().st_size
    os.truncate(stored, size)
    check_refused(stored)
    if size >= 4096:  # the header is there, and says what it should be
        check_refused(stored, str(size), str(whole))


def test_a_file_that_grew_is_refused_with_both_sizes(stored: Path) -> None:
    whole = stored.stat().st_size
    os.truncate(stored, whole + 4096)
    check_refused(stored, str(whole), str(whole + 4096))


@pytest.mark.parametrize("content", [b"hello\n", b"\x7fELF" * 10_000, bytes(100_000), b"\xff" * 100_000])
def test_a_foreign_file_is_refused_and_left_alone(namespace: Path, content: bytes) -> None:
    path = namespace / "stored"
    path.write_bytes(content)
    check_refused(path)
    assert path.read_bytes() == content


def test_another_layout_version_is_refused_with_both_named(stored: Path) -> None:
    version = get_word(stored, 8, 4)
    put_word(stored, 8, version + 41, 4)
    check_refused(stored, "version", str(version), str(version + 41))


def test_an_unknown_kind_is_refused(stored: Path) -> None:
    put_word(stored, 12, 77, 4)
    check_refused(stored)


def test_another_registry_is_refused(stored: Path) -> None:
    put_word(stored, 0x10, get_word(stored, 0x10) ^ 1)
    check_refused(stored, "registry")


def test_a_header_that_lies_about_its_size_is_refused(stored: Path) -> None:
    put_word(stored, 0x20, 1 << 40)
    check_refused(stored)


def test_attributes_that_cannot_be_are_refused(spawn: Start, stored: Path) -> None:
    """Each attribute word of the header, one by one, set to odd values: refused, or used without harm."""
    original = stored.read_bytes()
    for index in range(16):
        for value in (1, 3, 1 << 20, 1 << 40, (1 << 64) - 1, get_word(stored, 0x80 + 8 * index) + 64):
            if value > (1 << 64) - 1:
                continue
            stored.write_bytes(original)
            stored.chmod(0o600)
            put_word(stored, 0x80 + 8 * index, value)
            assert use(spawn) == 0, f"attribute {index} = {value:#x}"


@pytest.mark.parametrize("what", ["directory", "fifo", "socket", "symlink", "dangling symlink"])
def test_what_is_no_file_is_refused_without_waiting(namespace: Path, tmp_path: Path, what: str) -> None:
    path = namespace / "stored"
    match what:
        case "directory":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "socket":
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(path))
        case "symlink":
            (tmp_path / "target").write_bytes(bytes(100_000))
            path.symlink_to(tmp_path / "target")
        case _:
            path.symlink_to(tmp_path / "absent")
    try:
        for make in (isthmus.Queue.open, isthmus.Queue, isthmus.Mutex):
            with pytest.raises((OSError, isthmus.IsthmusError)) as caught:
                make("stored")
            assert "stored" in str(caught.value)
        isthmus.objects()
        isthmus.clean()
        assert path.is_symlink() or path.exists()
        assert not (tmp_path / "absent").exists()
    finally:
        path.rmdir() if what == "directory" else path.unlink()


def test_a_file_without_permission_is_a_permission_error_for_those_it_concerns(
    namespace: Path, spawn: Start
) -> None:
    if os.geteuid() != 0:
        (namespace / "stored").write_bytes(bytes(100))
        (namespace / "stored").chmod(0)
        with pytest.raises(PermissionError):
            isthmus.Queue.open("stored", type=bytes)
        return
    # Root may read everything: what it must not do is use what belongs to another user.
    path = namespace / "stored"
    path.write_bytes(bytes(100_000))
    os.chown(path, 65534, 65534)
    with pytest.raises((PermissionError, *Refused)):
        isthmus.Queue.open("stored", type=bytes)


USE = """
import faulthandler, sys, warnings, isthmus
warnings.simplefilter("ignore")
faulthandler.dump_traceback_later(60, exit=True)
def attempt(call):
    try:
        return call()
    except (isthmus.IsthmusError, OSError, MemoryError):
        return None
q = attempt(lambda: isthmus.Queue.open("stored", type=bytes))
if q is not None:
    for _ in range(3):
        attempt(lambda: q.stats())
        attempt(lambda: q.qsize())
        attempt(lambda: q.put(b"x" * 50, timeout=0.01))
        attempt(lambda: q.put(b"x" * 9000, timeout=0.01))
        attempt(lambda: q.get(timeout=0.01))
        attempt(lambda: q.get_many(5, timeout=0.01))
        attempt(lambda: q.put_many([b"y"] * 5, timeout=0.01))
    attempt(lambda: isthmus.objects())
    attempt(q.shutdown)
    attempt(lambda: q.get(timeout=0.01))
    attempt(q.close)
"""


def use(spawn: Start) -> int:
    """Uses the file in every way in a process of its own; returns its exit code."""
    peer = spawn(USE)
    code, _, errors = peer.end(90)
    if code:
        print(errors)
    return code


MANY = """
import os, random, sys, traceback
from pathlib import Path
path = Path(sys.argv[1])
original = path.read_bytes()
first, last = int(sys.argv[2]), int(sys.argv[3])
{damage}
for seed in range(first, last):
    data = bytearray(original)
    damage(seed, data)
    path.write_bytes(data)
    path.chmod(0o600)
    pid = os.fork()
    if pid == 0:
        try:
            exec(compile({code!r}, "use", "exec"))
        except BaseException:
            traceback.print_exc()
            os._exit(99)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    if status:
        print("seed", seed, "status", os.waitstatus_to_exitcode(status), flush=True)
        sys.exit(1)
print("survived", flush=True)
"""

ANYWHERE = """
def damage(seed, data):
    choose = random.Random(seed)
    for _ in range(choose.choice([1, 1, 2, 8, 100])):
        where = choose.randrange({start}, len(data) if choose.random() < 0.3 else {near})
        if choose.random() < 0.5:
            data[where] ^= 1 << choose.randrange(8)
        else:
            value = choose.choice([0, 1, (1 << 64) - 1, 1 << 63, 1 << 32, choose.getrandbits(64), len(data)])
            where &= ~7
            data[where : where + 8] = value.to_bytes(8, "little")
"""


@pytest.mark.parametrize("part", ["header", "control words", "ring", "table of blocks"])
def test_no_corruption_crashes_or_hangs_those_who_use_it(spawn: Start, stored: Path, part: str) -> None:
    """Bits flipped and words overwritten at random places, 100 files a part: an error at worst."""
    with isthmus.Queue.open("stored", type=bytes) as handle:
        units = stored.stat().st_size - handle.message_max  # the file ends with them
    start, end = {
        "header": (0, HEADER),
        "control words": (HEADER, HEADER + 8 * CONTROL_WORDS),
        "ring": (HEADER, HEADER + 16_384),
        "table of blocks": (units - 4096, units),
    }[part]
    first = int(os.environ.get("ISTHMUS_TEST_SEED", "0")) or random.SystemRandom().randrange(1 << 30)
    print("first seed", first)
    code = MANY.format(damage=ANYWHERE.format(start=start, near=end), code=USE)
    peer = spawn("import isthmus\n" + code, stored, first, first + 100)
    code_, out, errors = peer.end(100)
    assert code_ == 0, f"{out}\n{errors}"


EACH_WORD = """
def damage(number, data):
    where = {start} + number // 7 * 8
    data[where : where + 8] = (number % 7 + 1).to_bytes(8, "little")
"""


def test_no_small_number_in_any_control_word_hangs_those_who_use_it(spawn: Start, stored: Path) -> None:
    """Locks and wait points have flags in their low bits: flags that say something about nobody at all."""
    code = MANY.format(damage=EACH_WORD.format(start=HEADER), code=USE)
    peer = spawn("import isthmus\n" + code, stored, 0, CONTROL_WORDS * 7)
    code_, out, errors = peer.end(100)
    assert code_ == 0, f"{out}\n{errors}"


@pytest.mark.parametrize("flags", range(1, 8))
def test_a_mutex_held_by_nobody_is_poisoned_and_can_be_recovered(
    namespace: Path, spawn: Start, flags: int
) -> None:
    lock = isthmus.Mutex("lock")
    put_word(namespace / "lock", HEADER, flags)
    peer = spawn("""
        import isthmus
        lock = isthmus.Mutex.open("lock")
        for timeout in (10, None):
            try:
                lock.acquire(timeout)
            except isthmus.OwnerDied:
                print("nobody", flush=True)
        with lock.recover():
            pass
        with lock:
            print("healthy", flush=True)
    """)
    assert peer.end() == (0, "nobody\nnobody\nhealthy\n", "")
    lock.close()


def test_a_listing_survives_everything_at_once(namespace: Path, stored: Path) -> None:
    os.truncate(stored, 5000)
    (namespace / "empty").write_bytes(b"")
    (namespace / "text").write_text("hello")
    (namespace / "directory").mkdir()
    os.mkfifo(namespace / "fifo")
    (namespace / "link").symlink_to("nowhere")
    with isthmus.Queue("good", type=bytes), isthmus.Mutex("lock"):
        by_name = {entry.name: entry for entry in isthmus.objects()}
        assert by_name["good"].problem is None
        assert by_name["lock"].problem is None
        for name in ("stored", "empty", "text"):
            assert by_name[name].problem is not None
    (namespace / "directory").rmdir()
    assert "text" in object_files(namespace)
    isthmus.clean()
    assert "text" in object_files(namespace)
