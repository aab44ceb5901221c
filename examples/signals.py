"""A telegraph: letters go from process to process as numbers on signals.

Real-time signals are queued by the kernel, each with a number, in the order in which they were sent. The
station reads them as values; it learns who sent them, and loses none while it does something else. Its two
operators are another Python process and, for the last word, the station's own shell with `kill`.

    python examples/signals.py
"""

import os
import signal
import subprocess
import sys

from isthmus import signals

LETTER = signal.SIGRTMIN
END = signal.SIGUSR1
TEXT = "WHAT HATH GOD WROUGHT"

OPERATOR = """
import signal, sys
from isthmus import signals

station, text = int(sys.argv[1]), sys.argv[2]
with signals.ProcessHandle(station) as handle:  # that station, and never the next process of its number
    for letter in text:
        handle.sigqueue(signal.SIGRTMIN, ord(letter))
"""


def main() -> int:
    """Be the station."""
    me = str(os.getpid())
    with signals.Receiver(LETTER, END) as receiver, signals.Timer(0.05) as patience:
        # What is started inherits blocked signals, unless it is started so.
        with signals.children():
            operator = subprocess.Popen([sys.executable, "-c", OPERATOR, me, TEXT])
        first = receiver.get(timeout=30)
        print(f"the first letter is {chr(first.value or 0)}, of the operator: {first.pid == operator.pid}")
        patience.get()  # the station has other things to do; the letters wait
        letters = [first, *(receiver.get(timeout=30) for _ in TEXT[1:])]
        print("".join(chr(info.value or 0) for info in letters))

        with signals.children():
            subprocess.run(["sh", "-c", "kill -s USR1 $0", me], check=True)
        last = receiver.get(timeout=30)
        print(f"then {last.name} came by {last.cause}, with the number {last.value}")
        print(f"the operator has ended with {signals.wait_for_exit(operator)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
