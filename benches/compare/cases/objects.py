"""Small objects, in and out."""

from __future__ import annotations

from benches.compare.contenders import ObjectStream
from benches.compare.peers.objects import DICT, MP_OBJECTS, PICKLED, STRUCTS, struct

from .base import Case, Choice, Target, case


@case("dict")
def dicts(choice: Choice) -> Case:
    return Case(
        "dict",
        "a small dict, `type=object`",
        "M/s",
        [ObjectStream(PICKLED, DICT), ObjectStream(MP_OBJECTS, DICT)],
        [Target("isthmus", "mp-queue", at_least=5)],
        "A dict of an int, a str and a float, put by one process and got by another, both by pickle.",
        "Pickling and unpickling are most of it.",
    )


@case("struct")
def structs(choice: Choice) -> Case:
    message = struct()(17, "resize", 0.5)
    return Case(
        "struct",
        "a small msgspec.Struct",
        "M/s",
        [ObjectStream(STRUCTS, message), ObjectStream(MP_OBJECTS, message)],
        [Target("isthmus", "mp-queue", at_least=10)],
        "A Struct of an int, a str and a float: encoded and validated on receipt by msgspec, beside the same "
        "object through multiprocessing.Queue.",
        "multiprocessing.Queue pickles the Struct and validates nothing.",
    )
