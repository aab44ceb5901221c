"""File transfer: files of any size over a connection on which both sides prove that they know a key.

The bytes go from file to socket and from socket to file; neither side ever has a file in memory. A file
appears under its name when it is complete and its digest is right, and not before.

    export TRANSFER_KEY=$(python -c 'import secrets; print(secrets.token_hex(32))')     # on both machines
    python examples/file_transfer.py serve FOLDER [ADDRESS]      # tcp://127.0.0.1:5000
    python examples/file_transfer.py put FILE [ADDRESS]
    python examples/file_transfer.py get NAME [ADDRESS]
"""

import hashlib
import os
import sys
import threading
from pathlib import Path

import msgspec

import isthmus

ADDRESS = "tcp://127.0.0.1:5000"
PATIENCE = 30.0


class Offer(msgspec.Struct, tag=True):
    """A file follows."""

    name: str
    size: int
    digest: str


class Wish(msgspec.Struct, tag=True):
    """A file is wanted."""

    name: str


class Answer(msgspec.Struct, tag=True):
    """How it went."""

    ok: bool
    text: str


Message = Offer | Wish | Answer


def digest_of(path: Path) -> str:
    """SHA-256 of what is in a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def give(stream: "isthmus.Stream[Message]", path: Path) -> None:
    """Send one file."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        stream.send(Offer(path.name, size, digest_of(path)))
        stream.send_file(file, count=size, timeout=PATIENCE)


def take(stream: "isthmus.Stream[Message]", offer: Offer, folder: Path) -> Answer:
    """Receive one file; it has its name when all of it is there."""
    name = Path(offer.name).name  # never out of the folder
    part = folder / f".{name}.part"
    try:
        with part.open("wb") as file:
            stream.recv_file(file, count=offer.size, timeout=PATIENCE)
        if digest_of(part) != offer.digest:
            return Answer(False, f"{name} is damaged")
        part.rename(folder / name)
    finally:
        part.unlink(missing_ok=True)
    return Answer(True, f"{name}: {offer.size} bytes")


def serve_one(stream: "isthmus.Stream[Message]", folder: Path) -> None:
    """One client, until it leaves."""
    with stream:
        try:
            for message in stream:
                if isinstance(message, Offer):
                    answer = take(stream, message, folder)
                    print(f"{stream.peer} put {answer.text}", flush=True)
                    stream.send(answer)
                elif isinstance(message, Wish):
                    path = folder / Path(message.name).name
                    if path.is_file():
                        give(stream, path)
                        print(f"{stream.peer} got {path.name}", flush=True)
                    else:
                        stream.send(Answer(False, f"there is no {path.name}"))
        except isthmus.IsthmusError as error:
            print(f"{stream.peer} ended: {error}", flush=True)


def serve(folder: Path, address: str, key: str) -> int:
    """Serve a folder until Ctrl+C."""
    with isthmus.Listener(address, type=Message, key=key) as listener:
        print(f"serving {folder} at {listener.address}", flush=True)
        try:
            for stream in listener:
                threading.Thread(target=serve_one, args=(stream, folder), daemon=True).start()
        except KeyboardInterrupt:
            pass
    return 0


def put(path: Path, address: str, key: str) -> int:
    """Give the server a file."""
    with isthmus.Stream(address, type=Message, key=key) as stream:
        give(stream, path)
        answer = stream.recv(PATIENCE)
        print(answer.text)
        return 0 if answer.ok else 1


def get(name: str, address: str, key: str) -> int:
    """Take a file from the server into this folder."""
    with isthmus.Stream(address, type=Message, key=key) as stream:
        stream.send(Wish(name))
        answer = stream.recv(PATIENCE)
        if isinstance(answer, Offer):
            answer = take(stream, answer, Path())
        print(answer.text)
        return 0 if answer.ok else 1


def main() -> int:
    """See above."""
    if len(sys.argv) < 3 or sys.argv[1] not in {"serve", "put", "get"}:
        print(__doc__)
        return 2
    what, name, *rest = sys.argv[1:]
    address = rest[0] if rest else ADDRESS
    key = os.environ.get("TRANSFER_KEY", "")
    try:
        if what == "serve":
            return serve(Path(name), address, key)
        return put(Path(name), address, key) if what == "put" else get(name, address, key)
    except (isthmus.IsthmusError, OSError, ValueError) as error:
        print(error)
        return 1


if __name__ == "__main__":
    sys.exit(main())
