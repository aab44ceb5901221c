"""`Mutex`: a lock between processes that says when its owner was killed. The native class does the work."""

from . import _core

__all__ = ["Mutex"]


class Mutex(_core.Mutex):  # noqa: D101 - the native class explains itself
    __doc__ = _core.Mutex.__doc__
    __slots__ = ()
