"""The errors: one root, the builtin one would catch, attributes, and a way through pickle."""

import errno
import pickle
import queue
import sys
import threading
from pathlib import Path

import pytest

import isthmus

BUILTIN: dict[str, type[BaseException]] = {
    "BrokenBarrierError": threading.BrokenBarrierError,
    "BuriedError": RuntimeError,
    "ClosedError": ValueError,
    "CorruptError": ValueError,
    "DeadlockError": RuntimeError,
    "Denied": PermissionError,
    "Empty": queue.Empty,
    "Full": queue.Full,
    "IncompatibleError": ValueError,
    "InvalidMessage": ValueError,
    "NoSpaceError": OSError,
    "NotOwnerError": RuntimeError,
    "OwnerDied": RuntimeError,
    "PeerDied": ConnectionError,
    "Refused": ConnectionRefusedError,
    "ShutDown": EOFError,
    "StageFailed": RuntimeError,
    "Timeout": TimeoutError,
    "TooLarge": ValueError,
    "Undelivered": RuntimeError,
    "Unreachable": ConnectionError,
    "Unsupported": NotImplementedError,
}
EXPORTED = {name: getattr(isthmus, name) for name in isthmus.__all__}
ERRORS = sorted(
    name
    for name, value in EXPORTED.items()
    if isinstance(value, type) and issubclass(value, BaseException) and value is not isthmus.IsthmusError
)
GIVEN: dict[str, dict[str, object]] = {
    "DeadlockError": {"cycle": [(7, "ledger"), (8, "stock")]},
    "Full": {"sent": 3},
    "PeerDied": {"pid": 7, "since": 1.5},
    "OwnerDied": {"pid": 7, "since": 1.5, "what": "mutex ledger"},
    "TooLarge": {"size": 9, "limit": 8},
    "InvalidMessage": {"number": 3, "reason": "no", "sender": 7, "data": b"x"},
    "StageFailed": {"stage": 2, "name": "grep x", "exit_code": 1},
    "Undelivered": {"reason": "no"},
}


def test_the_table_is_complete() -> None:
    assert sorted(BUILTIN) == ERRORS


@pytest.mark.parametrize("name", ERRORS)
def test_is_the_root_and_the_builtin(name: str) -> None:
    kind = getattr(isthmus, name)
    assert issubclass(kind, isthmus.IsthmusError)
    assert issubclass(kind, BUILTIN[name])
    assert not issubclass(isthmus.IsthmusError, BUILTIN[name])


@pytest.mark.parametrize("name", ["Empty", "Full"])
def test_both_ends_of_a_wait_are_timeouts(name: str) -> None:
    assert issubclass(getattr(isthmus, name), isthmus.Timeout)
    assert issubclass(getattr(isthmus, name), TimeoutError)


@pytest.mark.skipif(sys.version_info < (3, 13), reason="queue.ShutDown came with Python 3.13")
def test_shutdown_is_that_of_the_queue_module() -> None:
    assert issubclass(isthmus.ShutDown, queue.ShutDown)  # type: ignore[attr-defined,unused-ignore]


@pytest.mark.parametrize("name", [*ERRORS, "IsthmusError"])
def test_text_and_attributes_survive_pickle(name: str) -> None:
    given = GIVEN.get(name, {})
    error = getattr(isthmus, name)("what happened", **given)
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        copy = pickle.loads(pickle.dumps(error, protocol))
        assert type(copy) is type(error)
        assert str(copy) == str(error) == "what happened"
        assert copy.args == error.args
        assert {key: getattr(copy, key) for key in given} == given
        assert getattr(copy, "errno", None) == getattr(error, "errno", None)


def test_errno_is_set_where_code_looks_for_it() -> None:
    assert isthmus.NoSpaceError("full").errno == errno.ENOSPC
    assert isthmus.PeerDied("gone").errno == errno.ECONNRESET


def test_the_docs_list_every_error_with_its_builtin() -> None:
    page = (Path(__file__).parents[2] / "docs" / "errors.md").read_text()
    rows = {row.split("|")[1].strip(" `"): row for row in page.splitlines() if row.startswith("| `")}
    assert sorted(rows) == sorted([*ERRORS, "IsthmusError"])
    for name, builtin in BUILTIN.items():
        named = {base.__name__ for base in EXPORTED[name].__mro__ if issubclass(base, builtin)} - {name}
        named |= {
            f"{base.__module__.lstrip('_')}.{name}"
            for base in EXPORTED[name].__mro__
            if base.__name__ == name
        }
        assert any(f"`{base}`" in rows[name] for base in named), rows[name]
