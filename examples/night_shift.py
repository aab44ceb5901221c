"""A night shift: workers are asked to go home, and go as they are.

Three workers take jobs from one queue. At closing time an alarm goes off, and the foreman sends each of them
home with SIGTERM. Anna finishes the job in hand and goes. Ben was asleep (stopped), is woken for it and goes
as well. Carl does not listen and is killed when the grace time is over; the job that he held on lease goes
back, so that in the end every job is either done or still there.

    python examples/night_shift.py
"""

import multiprocessing
import signal
import sys
import time

import isthmus
from isthmus import signals

JOBS = 10


def worker(name: str, jobs: "isthmus.Queue[int]", said: "isthmus.Queue[str]") -> None:
    """Works until asked to stop; Carl is asked in vain."""
    if name == "Carl":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with signals.graceful_shutdown(signals=[signal.SIGTERM]) as stop:
        for lease in jobs.leases():
            with lease:
                said.put(f"{name} begins")
                while not stop:  # a long job: it is not done before somebody says so
                    time.sleep(0.01)
            said.put(f"{name} has finished a job")
            if stop:
                break


def main() -> int:
    """Be the foreman."""
    jobs, said = isthmus.Queue(type=int), isthmus.Queue(type=str)
    for number in range(JOBS):
        jobs.put(number)
    staff = {
        name: multiprocessing.Process(target=worker, args=(name, jobs, said))
        for name in ("Anna", "Ben", "Carl")
    }
    for name, process in staff.items():
        process.start()
        assert said.get(timeout=30) == f"{name} begins"
    signals.stop(staff["Ben"])
    print(f"{len(staff)} workers have begun, Ben is asleep")

    with signals.Receiver(signal.SIGALRM) as clock, signals.Alarm(0.05, value=22):
        print(f"it is {clock.get(timeout=30).value} o'clock: everybody goes home")
    for name, process in staff.items():
        end = signals.terminate(process, grace=30 if name != "Carl" else 0.2)
        how = "was killed" if end.killed else f"went with exit code {end.status}"
        print(f"{name} {how}")

    done = 0
    while not said.empty():
        done += said.get().endswith("has finished a job")
    left = jobs.stats().depth  # the job that was on lease is inside again
    jobs.get_many(left)
    print(f"{JOBS} jobs: {done} done, {left} left, {JOBS - done - left} lost")
    return 0


if __name__ == "__main__":
    sys.exit(main())
