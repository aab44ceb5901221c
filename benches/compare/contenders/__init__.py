"""Whoever takes part in a case."""

from .base import Contender, Sample, Setting
from .channels import Alone, Crowd, InOneProcess, RoundTrip, Stream
from .in_place import FrameStream, Leasing, ObjectStream, ReadStream, TwoPasses
from .links import LinkStream, LinkTrip
from .locks import Lock
from .programs import Command, Control

__all__ = [
    "Alone",
    "Command",
    "Contender",
    "Control",
    "Crowd",
    "FrameStream",
    "InOneProcess",
    "Leasing",
    "LinkStream",
    "LinkTrip",
    "Lock",
    "ObjectStream",
    "ReadStream",
    "RoundTrip",
    "Sample",
    "Setting",
    "Stream",
    "TwoPasses",
]
