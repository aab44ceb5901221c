"""Whoever takes part in a case."""

from .base import Contender, Sample, Setting
from .channels import Alone, Crowd, RoundTrip, Stream
from .locks import Lock
from .programs import Command, Control

__all__ = [
    "Alone",
    "Command",
    "Contender",
    "Control",
    "Crowd",
    "Lock",
    "RoundTrip",
    "Sample",
    "Setting",
    "Stream",
]
