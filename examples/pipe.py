"""A two-way pipe to a worker that is killed in the middle of its work.

The manager sends numbers through a pipe, the worker sends their prime factors back; both are messages with a
type. When the worker is killed the manager is told at once, by `ShutDown` or in the middle of a message by
`PeerDied`, and gives what was not answered to a new worker. The pipe goes to the worker as an argument of its
process, which is started afresh (spawn) and inherits nothing else.

    python examples/pipe.py
"""

import multiprocessing
import sys
from dataclasses import dataclass
from typing import Any

import isthmus

NUMBERS = [60, 97, 1001, 65_536, 999_983, 1_000_001, 2_147_483_646, 600_851_475_143]
PATIENCE = 30.0
"""Seconds of silence after which the manager gives up."""


@dataclass
class Answer:
    """What the worker has found."""

    number: int
    factors: list[int]


def work(end: isthmus.PipeEnd[Answer, int]) -> None:
    """Factor numbers until there are no more."""
    for number in end:
        factors, rest, factor = [], number, 2
        while factor * factor <= rest:
            while rest % factor == 0:
                factors.append(factor)
                rest //= factor
            factor += 1
        if rest > 1:
            factors.append(rest)
        end.send(Answer(number, factors))


def hire() -> tuple[Any, isthmus.PipeEnd[int, Answer]]:
    """Start a worker."""
    ours, theirs = isthmus.Pipe.two_way(type=int, back=Answer)
    process = multiprocessing.get_context("spawn").Process(target=work, args=(theirs,))
    process.start()
    theirs.close()  # ours is then the only other end: when one side dies, the other is told
    return process, ours


def main() -> int:
    """Be the manager."""
    process, end = hire()
    open_orders = list(NUMBERS)
    done: dict[int, list[int]] = {}
    killed = False
    while open_orders:
        try:
            end.send(open_orders[0], PATIENCE)
            answer = end.recv(PATIENCE)
        except (isthmus.ShutDown, isthmus.PeerDied):
            process.join()
            print(
                f"*** the worker was killed with {open_orders[0]} in hand; a new one takes over", flush=True
            )
            end.close()
            process, end = hire()
            continue
        done[answer.number] = answer.factors
        print(f"{answer.number} = {' * '.join(map(str, answer.factors))}", flush=True)
        open_orders.pop(0)
        if len(done) == 3 and not killed:
            killed = True
            process.kill()
    end.close()  # the worker comes to the end of its messages
    process.join()
    print(f"{len(NUMBERS)} numbers sent, {len(done)} factored, the worker left with code {process.exitcode}")
    return 0 if len(done) == len(NUMBERS) and process.exitcode == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
