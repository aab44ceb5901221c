"""`isthmus.logging`: records of many processes reach the handlers of one, and nobody waits for them."""

from __future__ import annotations

import logging
import logging.config
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

import isthmus
import isthmus.logging
from isthmus.logging import QueueHandler, QueueListener
from logs import Keeping, empty, fill, handler, logger, queue, received
from support import Peer, object_files, run_python

__all__ = ["handler", "logger", "queue"]

Start = Callable[..., Peer]


# ---------------------------------------------------------------------------------------- what arrives


def test_a_record_arrives_as_it_was_made(queue: isthmus.Queue[bytes], logger: logging.Logger) -> None:
    keeping = Keeping()
    logger.addHandler(keeping)
    logger.warning("%s of %d", "one", 3, stack_info=True)
    (here,) = keeping.records
    (there,) = received(queue)
    assert there.getMessage() == "one of 3"
    assert not there.args
    assert there.exc_info is None
    same = [
        "name", "levelno", "levelname", "pathname", "filename", "module", "lineno", "funcName", "created",
        "msecs", "relativeCreated", "thread", "threadName", "process", "processName", "stack_info",
    ]  # fmt: skip
    assert {name: getattr(there, name) for name in same} == {name: getattr(here, name) for name in same}
    assert here.args == ("one", 3)  # for the other handlers it is as it was
    style = logging.Formatter("%(asctime)s %(name)s %(levelname)s %(filename)s:%(lineno)d %(message)s")
    assert style.format(there) == style.format(here)


def test_an_exception_arrives_as_text(queue: isthmus.Queue[bytes], logger: logging.Logger) -> None:
    keeping = Keeping()
    logger.addHandler(keeping)
    try:
        _ = 1 / 0
    except ZeroDivisionError:
        logger.exception("it failed")
    (record,) = received(queue)
    text = logging.Formatter().format(record)
    assert text == logging.Formatter().format(keeping.records[0])
    assert "ZeroDivisionError" in text


def test_a_formatter_makes_the_message(queue: isthmus.Queue[bytes], logger: logging.Logger) -> None:
    keeping = Keeping()
    logger.addHandler(keeping)
    logger.handlers[0].setFormatter(logging.Formatter("<%(levelname)s %(message)s>"))
    try:
        _ = 1 / 0
    except ZeroDivisionError:
        logger.exception("it failed")
    (record,) = received(queue)
    assert record.getMessage().startswith("<ERROR it failed>\nTraceback")
    assert record.exc_text is None
    assert logging.Formatter().format(record).count("Traceback") == 1
    assert "message" not in vars(keeping.records[0])


def test_added_fields_arrive_where_they_are_plain(
    queue: isthmus.Queue[bytes], logger: logging.Logger
) -> None:
    circle: list[object] = []
    circle.append(circle)
    plain = {
        "count": 7,
        "share": 0.5,
        "user": "ä",
        "nothing": None,
        "tags": ["a", {"b": [True]}],
        "raw": b"x",
    }
    others = {"path": Path("/"), "circle": circle, "type": int, "large": 1 << 70, "odd": ["\udc80"]}
    logger.info("m", extra={**plain, **others, "file": "\udc80"})
    logger.info("m", extra=plain)
    first, second = received(queue)
    for record in (first, second):
        assert {name: vars(record)[name] for name in plain} == plain
        assert not others.keys() & vars(record).keys()
    assert vars(first)["file"] == "\\udc80"


@pytest.mark.parametrize("text", ["", "ä€😀", "\0\n\x1b", "%s %d %", "{}"])
def test_every_text_arrives(queue: isthmus.Queue[bytes], logger: logging.Logger, text: str) -> None:
    logger.info(text)
    logger.info("%s", text)
    assert [record.getMessage() for record in received(queue)] == [text, text]


def test_what_is_no_text_in_utf_8_arrives_escaped(
    queue: isthmus.Queue[bytes], logger: logging.Logger
) -> None:
    logger.info("cannot open %s", os.fsdecode(b"\xff\x80"))
    assert [record.getMessage() for record in received(queue)] == ["cannot open \\udcff\\udc80"]


def test_a_level_of_ones_own_arrives(queue: isthmus.Queue[bytes], logger: logging.Logger) -> None:
    logging.addLevelName(25, "NOTICE")
    logger.log(25, "m")
    logger.log(3, "m")
    assert [(one.levelno, one.levelname) for one in received(queue)] == [(25, "NOTICE"), (3, "Level 3")]


def test_a_record_too_large_for_the_queue_arrives_shortened(
    queue: isthmus.Queue[bytes], handler: QueueHandler, logger: logging.Logger
) -> None:
    logger.info("x" * queue.capacity, extra={"more": "y" * queue.capacity})
    logger.info("next")
    first, second = received(queue)
    assert first.getMessage().startswith("x" * 1000 + "… (shortened")
    assert len(first.getMessage()) < 1200
    assert not hasattr(first, "more")
    assert second.getMessage() == "next"
    assert handler.lost == 0


def test_a_mistake_in_a_call_is_reported_as_always(
    queue: isthmus.Queue[bytes], logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    logger.info("%d", "no number")
    assert "--- Logging error ---" in capsys.readouterr().err
    logger.info("next")
    assert [record.getMessage() for record in received(queue)] == ["next"]


# ---------------------------------------------------------------------------------------- the listener


def test_levels_and_filters_of_handlers_are_respected(
    queue: isthmus.Queue[bytes], logger: logging.Logger
) -> None:
    everything, errors, picky = Keeping(), Keeping(logging.ERROR), Keeping()
    picky.addFilter(lambda record: "c" in record.getMessage())
    with QueueListener(queue, everything, errors, picky):
        logger.debug("a")
        logger.error("b")
        logger.critical("c")
    assert everything.texts == ["a", "b", "c"]
    assert errors.texts == ["b", "c"]
    assert picky.texts == ["c"]
    with QueueListener(queue, errors, respect_handler_level=False):
        logger.debug("d")
    assert errors.texts == ["b", "c", "d"]


def test_stop_hands_on_what_is_there(queue: isthmus.Queue[bytes], logger: logging.Logger) -> None:
    for number in range(500):
        logger.info("%d", number)
    keeping = Keeping()
    listener = QueueListener(queue, keeping)
    listener.stop()  # not started: does nothing
    listener.start()
    for number in range(500, 1000):
        logger.info("%d", number)
    listener.stop()
    assert keeping.texts == [str(number) for number in range(1000)]
    listener.stop()
    logger.info("later")
    listener.start()  # a second time
    listener.stop()
    assert keeping.texts[1000:] == ["later"]


def test_started_twice_is_an_error(queue: isthmus.Queue[bytes]) -> None:
    with QueueListener(queue) as listener, pytest.raises(RuntimeError, match="started"):
        listener.start()


def test_a_handler_that_raises_stops_nothing(
    queue: isthmus.Queue[bytes], logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    broken, sound = Keeping(), Keeping()

    def fail(_: logging.LogRecord) -> bool:
        raise ZeroDivisionError("a broken filter")

    broken.addFilter(fail)
    with QueueListener(queue, broken, sound):
        logger.info("a")
        logger.info("b")
    assert sound.texts == ["a", "b"]
    assert capsys.readouterr().err.count("--- Logging error ---") == 2


def test_the_end_of_the_queue_is_the_end_of_the_listener(
    queue: isthmus.Queue[bytes], logger: logging.Logger
) -> None:
    keeping = Keeping()
    logger.info("last")
    queue.shutdown()
    listener = QueueListener(queue, keeping)
    listener.start()
    thread = listener._thread
    assert thread is not None
    assert thread.daemon
    thread.join(30)
    assert not thread.is_alive()
    listener.stop()
    assert keeping.texts == ["last"]


def test_a_queue_given_stays_open_and_one_given_by_name_is_closed(namespace: Path) -> None:
    with isthmus.Queue("mine", type=bytes) as mine:
        QueueHandler(mine).close()
        with QueueListener(mine):
            pass
        assert not mine.closed
    handler = QueueHandler("theirs", capacity=1 << 20)
    assert handler.queue.capacity == 1 << 20
    with QueueListener("theirs"):
        assert object_files(namespace) == ["theirs"]
    handler.close()
    handler.close()
    assert object_files(namespace) == []


def test_a_closed_handler_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    handler = QueueHandler("theirs")
    handler.close()
    handler.handle(logging.makeLogRecord({"levelno": 20}))
    assert capsys.readouterr().err == ""


def test_a_queue_that_others_have_closed_is_reported(
    queue: isthmus.Queue[bytes], logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    queue.shutdown()
    logger.info("too late")
    assert "ShutDown" in capsys.readouterr().err


@pytest.mark.parametrize("timeout", [-1, float("nan")])
def test_a_negative_timeout_is_refused(queue: isthmus.Queue[bytes], timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout"):
        QueueHandler(queue, timeout)


# ---------------------------------------------------------------------------------------- nothing is executed


exploded: list[int] = []


def test_pickles_are_neither_made_nor_read(queue: isthmus.Queue[bytes]) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return exploded.append, (1,)

    record = logging.makeLogRecord({"levelno": 20, "msg": "m", "bomb": Bomb()})
    for harmful in (record, Bomb()):
        queue.put(pickle.dumps(harmful))
    texts = [one.getMessage() for one in received(queue)]
    assert len(texts) == 2
    assert all("no log record" in text for text in texts)
    assert exploded == []


@pytest.mark.parametrize("kind", [object, dict[str, int]])
def test_a_queue_of_another_type_is_refused(kind: Any) -> None:
    with isthmus.Queue("typed", type=kind) as other:
        for make in (QueueHandler, lambda queue: QueueListener(queue).start()):
            for given in (other, "typed"):
                with pytest.raises(isthmus.IncompatibleError, match="bytes"):
                    make(given)


def travelling(**changes: object) -> bytes:
    """A record as it stands in the queue, with changes."""
    with isthmus.Queue(type=bytes) as queue:
        QueueHandler(queue).handle(logging.makeLogRecord({"levelno": 20, "msg": "m"}))
        values = msgspec.msgpack.decode(queue.get(timeout=0))
    names = isthmus.logging._Fields.__struct_fields__
    return msgspec.msgpack.encode(
        [changes.get(name, value) for name, value in zip(names, values, strict=True)]
    )


CHANGES: list[dict[str, object]] = [
    {"levelno": "20"}, {"levelno": None}, {"msg": None}, {"msg": ["x"]}, {"created": "now"}, {"process": {}},
    {"exc_text": 5}, {"extra": None}, {"extra": [1]},
]  # fmt: skip
NONSENSE = [
    b"",
    b"\xff\xfe\x00",
    b"null",
    b"[]",
    b"{}",
    b"[" * 100_000,
    b'{"levelno": ' + b"9" * 10_000 + b"}",
]


@pytest.mark.parametrize("wrong", [*NONSENSE, *CHANGES])
def test_what_is_no_record_is_skipped_and_told(
    queue: isthmus.Queue[bytes], wrong: bytes | dict[str, object]
) -> None:
    message = wrong if isinstance(wrong, bytes) else travelling(**wrong)
    queue.put(message)
    queue.put(travelling(msg="sound"))
    told, after = received(queue)
    assert (told.levelno, told.name) == (logging.WARNING, "isthmus.logging")
    assert f"{len(message)} bytes" in told.getMessage()
    assert after.getMessage() == "sound"


def test_added_fields_replace_nothing_of_a_record(queue: isthmus.Queue[bytes]) -> None:
    """A forged record is a record all the same: formatting it works, and gives what it says."""
    bad = {"args": ["x"], "exc_info": [1, 2], "getMessage": 1, "__class__": 1, "__dict__": {}, "message": 5}
    queue.put(travelling(msg="%s", extra={**bad, "fine": 1}))
    (record,) = received(queue)
    assert type(record) is logging.LogRecord
    assert logging.Formatter("%(message)s %(fine)d").format(record) == "%s 1"


# ---------------------------------------------------------------------------------------- full


def test_what_finds_no_room_is_counted_and_told_by_a_later_record(
    queue: isthmus.Queue[bytes], handler: QueueHandler, logger: logging.Logger
) -> None:
    fill(queue)
    for _ in range(5):
        logger.info("lost")
    assert handler.lost == 5
    empty(queue)
    logger.info("after")
    logger.info("again")
    assert handler.lost == 5
    told, *rest = received(queue)
    assert told.getMessage().startswith("5 log records were lost")
    assert (told.levelno, told.name) == (logging.WARNING, "isthmus.logging")
    assert vars(told)["lost"] == 5
    assert [record.getMessage() for record in rest] == ["after", "again"]


def test_what_was_lost_last_is_told_by_close(queue: isthmus.Queue[bytes]) -> None:
    handler = QueueHandler(queue)
    fill(queue)
    handler.handle(logging.makeLogRecord({"levelno": 20}))
    empty(queue)
    handler.close()
    assert [one.getMessage().split(":")[0] for one in received(queue)] == ["1 log record was lost"]


def test_it_waits_once_for_room_and_not_again_for_every_record() -> None:
    waits: list[float | None] = []

    class Watched(isthmus.Queue):  # type: ignore[type-arg,misc,unused-ignore]
        def put(self, message: Any, timeout: float | None = None, **rest: Any) -> None:
            waits.append(timeout)
            super().put(message, timeout, **rest)

    with Watched(type=bytes, capacity=1 << 17) as queue:
        handler = QueueHandler(queue, timeout=0.01)
        record = logging.makeLogRecord({"levelno": 20, "msg": "m"})
        handler.handle(record)
        fill(queue)
        waits.clear()
        for _ in range(4):
            handler.handle(record)
        assert waits == [0.01, 0.0, 0.0, 0.0]
        empty(queue)
        waits.clear()
        handler.handle(record)
        assert waits == [0.0, 0.01]  # what was lost is told, and it waits again
        handler.close()
        empty(queue)


def test_a_child_does_not_tell_what_its_parent_lost() -> None:
    out = run_python("""
        import logging, os, isthmus, isthmus.logging
        with isthmus.Queue(type=bytes, capacity=1 << 17) as queue:
            handler = isthmus.logging.QueueHandler(queue)
            record = logging.makeLogRecord({"levelno": 20, "msg": "m"})
            try:
                while True: queue.put(bytes(100), timeout=0)
            except isthmus.Full:
                pass
            handler.handle(record)
            while not queue.empty(): queue.get()
            pid = os.fork()
            if pid == 0:
                handler.handle(record)
                assert handler.lost == 0
                handler.close()
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            assert (queue.qsize(), handler.lost) == (1, 1)
            handler.close()
            assert queue.qsize() == 2
            queue.get(); queue.get()
        print("ok")
    """)
    assert out == "ok\n"


def test_nothing_of_it_is_imported_with_isthmus() -> None:
    out = run_python("import isthmus, sys; print('isthmus.logging' in sys.modules, 'logging' in sys.modules)")
    assert out == "False False\n"
