"""asyncio: the same names and the same verbs. What a class of isthmus has, that of `isthmus.aio` has too."""

import inspect
from typing import Any

import pytest

import isthmus
from isthmus import aio, signals
from isthmus.aio import signals as aio_signals

WITHOUT: dict[str, set[str]] = {
    # The native class has them for the others of its family.
    "Barrier": {"acquire", "is_set", "release"},
    "BoundedSemaphore": {"abort", "is_set"},
    "Event": {"abort", "acquire", "release"},
    "Semaphore": {"abort", "is_set"},
    # They make a handle, which is wrapped then; `serve` and `connect` are what loops have instead.
    "Listener": {"from_socket", "inherited", "next_turn"},
    "Stream": {"from_socket", "makefile", "pair"},
    # Threads of their own, and blocks that would hold up the loop.
    "GracefulShutdown": {"each", "shielded"},
    "Receiver": {"in_child", "start"},
}
"""Names that the asynchronous class does not have, and why."""

PAIRS = {
    name: (getattr(sync, name), getattr(awaited, name))
    for sync, awaited in ((isthmus, aio), (signals, aio_signals))
    for name in awaited.__all__
    if inspect.isclass(getattr(awaited, name))
}


def public(kind: type[Any]) -> set[str]:
    declared = {name for base in kind.__mro__ for name in vars(base).get("__annotations__", {})}
    return {name for name in declared | set(dir(kind)) if not name.startswith("_")}


@pytest.mark.parametrize("name", PAIRS)
def test_it_has_what_the_synchronous_one_has(name: str) -> None:
    sync, awaited = PAIRS[name]
    assert public(sync) - public(awaited) == WITHOUT.get(name, set())


@pytest.mark.parametrize("name", PAIRS)
def test_it_is_iterated_where_the_synchronous_one_is(name: str) -> None:
    sync, awaited = PAIRS[name]
    # Pipe is unpacked, and not awaited.
    assert hasattr(sync, "__iter__") == (hasattr(awaited, "__aiter__") or hasattr(awaited, "__iter__"))


@pytest.mark.parametrize("name", PAIRS)
def test_its_calls_take_the_same_arguments_in_the_same_order(name: str) -> None:
    sync, awaited = PAIRS[name]
    for verb in sorted(public(sync) & public(awaited)):
        one, other = getattr(sync, verb, None), getattr(awaited, verb, None)
        if (
            not callable(one)
            or not callable(other)
            or (verb, name) in {("close", "Stream"), ("release", "BoundedSemaphore")}
        ):
            continue
        try:
            asked = list(inspect.signature(one).parameters)
            taken = list(inspect.signature(other).parameters)
        except ValueError:
            continue  # of the native module, without a signature
        if "attributes" not in taken:
            assert taken in (asked, [each for each in asked if each != "until"]), verb
