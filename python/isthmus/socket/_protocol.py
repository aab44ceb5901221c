"""What goes over the wire between two isthmus streams, version 1. All numbers are little endian.

**Opening.** The side that connected sends a *hello*; the other answers with its own, or with a *refusal*.
Where there is a shared key, the side that connected then sends a *proof*, and the other a proof or a
refusal. Each of these records has 128 bytes and begins alike, so that garbage is seen in its first byte
that differs, and nothing that a stranger sends is ever taken for a length:

    every record       0   magic, 89 "ISTHMUS"              (8 bytes; no text and no TLS begins with 89)
                       8   version, 1                       (1)
                       9   kind: 1 hello, 2 proof, 3 refusal (1)
    hello             10   role: 0 connected, 1 accepted    (1)
                      11   authentication: 0 none, 1 key    (1)
                      12   descriptors taken with a message (4)
                      16   fingerprint of the type, 0 bytes (8)
                      24   limit: largest message taken     (8)
                      32   name of the type, UTF-8          (56)
                      88   0                                (8)
                      96   nonce, random                    (32)
    proof             96   HMAC-SHA256                      (32)
    refusal           10   code                             (2)
                      12   why, UTF-8                       (116)

The proof of a side is HMAC(key, text with its role + hello of who connected + hello of who accepted). Both
nonces are in it, so an old one proves nothing (replay), the role, so it cannot be sent back (reflection),
and both hellos, so nothing in them was changed on the way. Who connected proves first: a stranger who
knocks gets nothing to guess the key with. The proof is about the opening only: on a network where others
can change packets, use TLS.

**Messages.** A frame is its length (4 bytes) and the message. Lengths from FFFFFFF0 on are no lengths:

    FFFFFFFF   end: nothing more comes from this side. A connection that ends without it was cut, or its
               process died
    FFFFFFFE   a long message: its length in 8 bytes, then the message (from FFFFFFF0 bytes on)
    FFFFFFFD   a file: its length in 8 bytes, then what is in it
    FFFFFFFC   descriptors: how many, in 4 bytes; they come with the first byte of this (SCM_RIGHTS, unix(7)),
               and belong to the message whose frame follows

A side never sends more than the other's hello takes; who does is cut off before memory is spent on it.
"""

import struct
from typing import NamedTuple

from isthmus._errors import IncompatibleError

__all__ = [
    "ACCEPTED",
    "BUSY",
    "CONNECTED",
    "DESCRIPTORS",
    "END",
    "FILE",
    "FINISHED",
    "HEADER",
    "HELLO",
    "LONG",
    "MAGIC",
    "NO_LENGTH",
    "PROOF",
    "RECORD",
    "REFUSAL",
    "WRONG_KEY",
    "WRONG_TYPE",
    "WRONG_USER",
    "WRONG_VERSION",
    "Hello",
    "Refusal",
    "descriptors_header",
    "file_header",
    "frame_header",
    "has_end",
    "kind_of",
    "pack_proof",
    "unpack_proof",
]

MAGIC = b"\x89ISTHMUS"
VERSION = 1
RECORD = 128
"""Bytes of each record of the opening."""

HELLO, PROOF, REFUSAL = 1, 2, 3
CONNECTED, ACCEPTED = 0, 1
BUSY, WRONG_KEY, WRONG_USER, WRONG_TYPE, WRONG_VERSION = 1, 2, 3, 4, 5
"""Codes of refusals."""

NO_LENGTH = 0xFFFF_FFF0
"""The first number that is no length."""
FINISHED = 0xFFFF_FFFF
END = b"\xff\xff\xff\xff"
LONG = 0xFFFF_FFFE
FILE = 0xFFFF_FFFD
DESCRIPTORS = 0xFFFF_FFFC

HEADER = struct.Struct("<I")
_LONG_HEADER = struct.Struct("<IQ")
_HELLO = struct.Struct("<8sBBBBIQQ56sQ32s")
_PROOF = struct.Struct("<8sBB86x32s")
_REFUSAL = struct.Struct("<8sBBH116s")


class Hello(NamedTuple):
    """What a side says of itself."""

    role: int
    authentication: int
    descriptors: int
    fingerprint: int
    limit: int
    name: str
    nonce: bytes

    def pack(self) -> bytes:
        """The record."""
        return _HELLO.pack(
            MAGIC, VERSION, HELLO, self.role, self.authentication, self.descriptors, self.fingerprint,
            self.limit, self.name.encode()[:56], 0, self.nonce,
        )  # fmt: skip

    @classmethod
    def unpack(cls, record: bytes) -> "Hello":
        """Of a record of this kind; what it says is for the caller to check."""
        _, _, _, role, authentication, descriptors, fingerprint, limit, name, _, nonce = _HELLO.unpack(record)
        return cls(role, authentication, descriptors, fingerprint, limit, _text(name), nonce)


class Refusal(NamedTuple):
    """Why a side does not go on."""

    code: int
    why: str

    def pack(self) -> bytes:
        """The record."""
        return _REFUSAL.pack(MAGIC, VERSION, REFUSAL, self.code, self.why.encode()[:116])

    @classmethod
    def unpack(cls, record: bytes) -> "Refusal":
        """Of a record of this kind."""
        _, _, _, code, why = _REFUSAL.unpack(record)
        return cls(code, _text(why))


def pack_proof(digest: bytes) -> bytes:
    """The record of a proof."""
    return _PROOF.pack(MAGIC, VERSION, PROOF, digest)


def unpack_proof(record: bytes) -> bytes:
    """The digest in the record of a proof."""
    digest: bytes = _PROOF.unpack(record)[3]
    return digest


def kind_of(record: bytes, who: str) -> int:
    """The kind of a record, of which all or only the beginning may have come: 0 where it is too short to say.

    IncompatibleError where it is none, or of another version; `who` sent it.
    """
    if not MAGIC.startswith(record[:8]):
        raise IncompatibleError(
            f"{who} does not speak the protocol of isthmus streams: it began with {record[:24]!r}. "
            'With other programs use framing="raw" or framing="lines"'
        )
    if len(record) < 10:
        return 0
    # A refusal is read whatever its version: it says what is wrong.
    if record[8] != VERSION and record[9] != REFUSAL:
        raise IncompatibleError(
            f"{who} speaks version {record[8]} of the stream protocol, this side version {VERSION}"
        )
    return record[9]


def frame_header(size: int) -> bytes:
    """What stands before a message of `size` bytes."""
    return HEADER.pack(size) if size < NO_LENGTH else _LONG_HEADER.pack(LONG, size)


def has_end(data: bytes, at: int) -> bool:
    """Whether the end is among the frames in `data`, the first of which begins at `at`."""
    while at + 4 <= len(data):
        (size,) = HEADER.unpack_from(data, at)
        if size == FINISHED:
            return True
        if size == DESCRIPTORS:
            at += 8
        elif size not in {LONG, FILE}:
            at += 4 + size
        elif at + 12 <= len(data):
            at += 12 + _LONG_HEADER.unpack_from(data, at)[1]
        else:
            return False
    return False


def file_header(size: int) -> bytes:
    """What stands before the `size` bytes of a file."""
    return _LONG_HEADER.pack(FILE, size)


def descriptors_header(count: int) -> bytes:
    """What stands before the frame of a message with descriptors."""
    return struct.pack("<II", DESCRIPTORS, count)


def _text(raw: bytes) -> str:
    text = raw.rstrip(b"\0").decode(errors="replace")
    return "".join(letter if letter.isprintable() else "?" for letter in text)
