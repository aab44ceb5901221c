"""A chat: one asyncio server, any number of people who write lines to each other.

What is said goes to everybody else. Who does not read is left behind: after a second the server ends that
client, and all others notice nothing. Who is killed is seen to be gone at once.

    python examples/chat.py serve [ADDRESS]             # unix://./chat.sock
    python examples/chat.py join NAME [ADDRESS]         # then write lines; Ctrl+D leaves
"""

import asyncio
import sys
from dataclasses import dataclass

import isthmus
from isthmus import aio

ADDRESS = "unix://./chat.sock"


@dataclass
class Said:
    """A line, and who said it; without a text somebody comes in, with None he leaves."""

    who: str
    text: str | None = ""


class Room:
    """All who are in."""

    def __init__(self) -> None:
        self.people: dict[str, aio.Stream[Said]] = {}

    async def tell(self, said: Said) -> None:
        """Say something to all others, each in a second or not at all."""
        others = [stream for name, stream in self.people.items() if name != said.who]
        await asyncio.gather(*(self._tell_one(stream, said) for stream in others))

    async def _tell_one(self, stream: aio.Stream[Said], said: Said) -> None:
        try:
            await stream.send(said, timeout=1.0)
        except isthmus.IsthmusError:
            await stream.close(0)  # does not read, or is gone: its own task says goodbye

    async def come_in(self, stream: aio.Stream[Said]) -> None:
        """One person, from the first message to the last."""
        name = (await stream.recv(timeout=10.0)).who
        if name in self.people:
            await stream.send(Said("the room", f"{name} is taken"))
            return
        self.people[name] = stream
        print(f"{name} comes in", flush=True)
        why = "leaves"
        try:
            await self.tell(Said(name))
            async for said in stream:
                await self.tell(Said(name, said.text))
        except isthmus.IsthmusError as error:
            why = f"is gone ({type(error).__name__})"
        finally:
            del self.people[name]
            print(f"{name} {why}", flush=True)
            await self.tell(Said(name, None))


async def serve(address: str) -> None:
    """Be the room."""
    async with aio.Listener(address, type=Said, limit=10_000) as listener:
        print(f"the room is at {listener.address}", flush=True)
        await listener.serve(Room().come_in)


async def join(name: str, address: str) -> None:
    """Be one of the people."""
    async with await aio.Stream.connect(address, type=Said, retry=True, timeout=10.0) as stream:
        await stream.send(Said(name))
        hearing = asyncio.create_task(hear(stream))
        while line := await asyncio.to_thread(sys.stdin.readline):
            await stream.send(Said(name, line.rstrip("\n")))
        await stream.finish()
        hearing.cancel()


async def hear(stream: aio.Stream[Said]) -> None:
    """Print what others say."""
    try:
        async for said in stream:
            what = "comes in" if said.text == "" else "leaves" if said.text is None else f": {said.text}"
            print(f"{said.who} {what}" if what[0] != ":" else f"{said.who}{what}", flush=True)
    except isthmus.PeerDied as error:
        print(error, flush=True)


def main() -> int:
    """See above."""
    arguments = sys.argv[1:]
    try:
        if arguments[:1] == ["serve"]:
            asyncio.run(serve(*(arguments[1:] or [ADDRESS])))
        elif arguments[:1] == ["join"] and len(arguments) > 1:
            asyncio.run(join(arguments[1], arguments[2] if len(arguments) > 2 else ADDRESS))
        else:
            print(__doc__)
            return 2
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
