"""Memory shared with a program that has never heard of Isthmus: `posix-shm:///`.

The station writes its latest measurements into POSIX shared memory. The display is another program: all
it knows is the name and the layout, and it opens the memory as a C program does with `shm_open` and
`mmap` (here it is Python without Isthmus, so that the example needs no compiler). Then the station is
killed: the memory stays, and the next station goes on with it.

A number at the front tells readers whether what they read belongs together: it is odd while the station
writes, and larger by two afterwards. That is enough where a processor keeps the order of stores, as x86
does; elsewhere take a `Queue` or a `Mutex`.

    python examples/shared_memory.py
"""

import os
import signal
import subprocess
import sys
import time

import isthmus

NAME = f"weather-{os.getpid()}"
LAYOUT = "a count of changes, then temperature, pressure, wind: 8 bytes each"

DISPLAY = """
import mmap, struct, sys, time
with open(f"/dev/shm/{sys.argv[1]}", "rb") as file:      # what shm_open does
    memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
for line in sys.stdin:
    for attempt in range(1000):
        before, = struct.unpack_from("q", memory, 0)
        measured = struct.unpack_from("3d", memory, 8)
        after, = struct.unpack_from("q", memory, 0)
        if before == after and before % 2 == 0:
            break
        time.sleep(0.001)
    else:
        print("display: a station was killed in the middle of a change", flush=True)
        continue
    print("display: %.1f degrees, %.0f hPa, wind %.1f m/s (change %d)" % (*measured, before // 2), flush=True)
"""


def station(name: str, first: float) -> None:
    """Measures ten times, then goes on living until it is killed."""
    with isthmus.SharedMemory(f"posix-shm:///{name}", 32) as memory:
        changes, measured = memory.view("q", 1), memory.view("d", 3, offset=8)
        changes[0] += changes[0] % 2  # the one before was killed in the middle of a change
        for step in range(10):
            changes[0] += 1
            measured[0], measured[1], measured[2] = first + step / 10, 1013.0 - step, 2.5 + step / 2
            changes[0] += 1
        print("measured", flush=True)
        time.sleep(600)


def start_station(first: float) -> "subprocess.Popen[str]":
    """Starts the station as a program of its own, and waits until it has measured."""
    command = [sys.executable, __file__, "station", NAME, str(first)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "measured\n"
    return process


def kill(process: "subprocess.Popen[str]") -> None:
    """Kills a station, as a crash would."""
    process.kill()
    process.communicate()
    print(f"station: killed by {signal.Signals(-process.returncode).name}", flush=True)


def main() -> None:
    """Runs two stations one after the other, and the display all the time."""
    print(f"in posix-shm:///{NAME}: {LAYOUT}", flush=True)
    first = start_station(11.5)
    display = subprocess.Popen(
        [sys.executable, "-c", DISPLAY, NAME], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert display.stdin is not None
    assert display.stdout is not None

    def look() -> None:
        assert display.stdin is not None
        assert display.stdout is not None
        display.stdin.write("look\n")
        display.stdin.flush()
        print(display.stdout.readline(), end="", flush=True)

    look()
    kill(first)
    look()
    second = start_station(20.0)
    look()
    kill(second)
    display.communicate()
    with isthmus.SharedMemory.open(f"posix-shm:///{NAME}") as memory:
        memory.unlink()
    print("the memory is removed")


if __name__ == "__main__":
    if sys.argv[1:2] == ["station"]:
        station(sys.argv[2], float(sys.argv[3]))
    else:
        main()
