"""`RLock`: a mutex that its owner may take again."""

from typing import Literal

from .mutex import Mutex

__all__ = ["RLock"]


class RLock(Mutex):
    """A mutex that its owner may take again; it is free when it was released as often.

    All else is as with `Mutex`: by name or anonymous, owned by a thread, and `OwnerDied` after its owner's
    death until somebody has repaired what it protects in `with rlock.recover():`.
    """

    __slots__ = ()

    _flavour: Literal["mutex", "rlock", "condition"] = "rlock"
