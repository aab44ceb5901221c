"""A help desk at a named pipe: clients ask, each is answered on a pipe of its own; and a log for `echo`.

The desk is a process that serves requests at one FIFO. Clients that never heard of each other ask it at the
same time. The desk is killed, the client that waits is told, and the next desk takes over the FIFO. What
happened goes into a second FIFO as lines, into which a shell writes as well.

    python examples/fifo.py
"""

import multiprocessing
import subprocess
import sys
import tempfile
from pathlib import Path

import isthmus

PATIENCE = 30.0
CAPITALS = {"Chile": "Santiago", "Kenya": "Nairobi", "Nepal": "Kathmandu", "Panama": "Panama City"}


def desk(folder: Path) -> None:
    """Answer until told to go; over some questions one can think for ever."""
    log = isthmus.Fifo.open(folder / "log").writer(PATIENCE)
    with isthmus.FifoServer[str, str](folder / "desk", type=str, reply=str) as server:
        for request in server:
            if request.message == "go home":
                request.reply("bye")
                return
            if request.message == "why?":
                log.write(b"the desk thinks\n")
                continue
            request.reply(CAPITALS.get(request.message, "I do not know"))


def ask(folder: Path, questions: list[str]) -> None:
    """Ask one question after the other, and log the answers."""
    log = isthmus.Fifo.open(folder / "log").writer(PATIENCE)
    path = folder / "desk"
    with isthmus.FifoClient[str, str](path, type=str, reply=str, patient=True, timeout=PATIENCE) as client:
        for question in questions:
            try:
                answer = client.call(question, PATIENCE)
            except isthmus.PeerDied:
                answer = "*** the desk was killed"
            log.write(f"{question}: {answer}\n".encode())


def start(function: object, *arguments: object) -> multiprocessing.process.BaseProcess:
    """Start a process afresh."""
    process = multiprocessing.get_context("spawn").Process(target=function, args=arguments)  # type: ignore[arg-type]
    process.start()
    return process


def main() -> int:
    """Run two desks, one after the other, and three clients; print the log."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        isthmus.Fifo.create(folder / "desk", type=bytes)
        with isthmus.Fifo.create(folder / "log") as fifo:
            log = fifo.reader()
            first = start(desk, folder)
            clients = [start(ask, folder, ["Chile", "Kenya"]), start(ask, folder, ["Nepal", "Atlantis"])]
            for client in clients:
                client.join()
            print("".join(sorted(log.readline(PATIENCE).decode() for _ in range(4))), end="", flush=True)

            puzzled = start(ask, folder, ["why?", "Panama"])
            print(log.readline(PATIENCE).decode(), end="", flush=True)
            first.kill()
            print(log.readline(PATIENCE).decode(), end="", flush=True)
            second = start(desk, folder)
            print(log.readline(PATIENCE).decode(), end="", flush=True)
            puzzled.join()
            subprocess.run(["sh", "-c", f"echo 'closing time' > {folder}/log"], check=True)
            print(log.readline(PATIENCE).decode(), end="", flush=True)
            ask_once = isthmus.FifoClient[str, str](folder / "desk", type=str, reply=str, timeout=PATIENCE)
            with ask_once as client_of_ours:
                print(f"go home: {client_of_ours.call('go home', PATIENCE)}", flush=True)
            second.join()
            log.close()
        left = sorted(path.name for path in folder.iterdir())
        print(f"left behind: {', '.join(left)}")
        return second.exitcode or 0


if __name__ == "__main__":
    sys.exit(main())
