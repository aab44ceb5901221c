"""Everything public is explained where Python shows it: `help(isthmus.Queue)`."""

import inspect
from collections.abc import Iterator

import pytest

import isthmus


def documented() -> Iterator[tuple[str, object]]:
    for name in isthmus.__all__:
        value = getattr(isthmus, name)
        yield name, value
        if inspect.isclass(value) and not issubclass(value, BaseException):
            for member in dir(value):
                inherited = getattr(tuple, member, getattr(object, member, None))
                if not member.startswith("_") and getattr(value, member) is not inherited:
                    yield f"{name}.{member}", inspect.getattr_static(value, member)


@pytest.mark.parametrize(("name", "value"), [pytest.param(*pair, id=pair[0]) for pair in documented()])
def test_has_a_docstring(name: str, value: object) -> None:
    text = inspect.getdoc(value)
    assert text, f"{name} has no docstring"
    if "." not in name:
        assert text.splitlines()[0].endswith((".", ":")), f"{name}: the first line is no sentence"


@pytest.mark.parametrize("name", ["Queue", "Mutex"])
def test_methods_show_their_arguments(name: str) -> None:
    """A native method without a text signature shows as `(...)` in every editor."""
    kind = getattr(isthmus, name)
    for member in ("put", "get", "put_many", "get_many", "acquire", "recover"):
        if method := getattr(kind, member, None):
            assert "timeout" in inspect.signature(method).parameters, f"{name}.{member}"
