"""Spring cleaning: what a program with System V objects leaves behind when it is killed, found and removed.

The program stands for any old one, in C or otherwise: it makes a message queue, a set of semaphores and a
shared memory segment, and is killed before it removes them. The kernel keeps them, for ever. `isthmus.sysv`
shows what there is and removes what is asked for; `isthmus ls --kernel` shows the same at the command line.

    python examples/sysv.py
"""

import os
import subprocess
import sys

from isthmus import sysv

KEY = 0x1574_0000 + os.getpid() % 0x10000
OLD_PROGRAM = f"""
import ctypes, sys, time
libc, key, create = ctypes.CDLL(None), {KEY}, 0o1600
print(libc.msgget(key, create), libc.semget(key, 2, create), libc.shmget(key, 1 << 20, create), flush=True)
time.sleep(60)
"""


def main() -> int:
    """Start the program, kill it, and tidy up after it."""
    program = subprocess.Popen([sys.executable, "-c", OLD_PROGRAM], stdout=subprocess.PIPE)
    assert program.stdout is not None
    program.stdout.readline()
    program.kill()
    program.wait()
    program.stdout.close()
    print("the program was killed; the kernel still has of it:")
    left = [one for one in sysv.everything() if one.key == KEY]
    for one in left:
        if isinstance(one, sysv.SysVQueue):
            print(f"- a queue of {one.depth} messages")
        elif isinstance(one, sysv.SemaphoreSet):
            print(f"- {one.size} semaphores, {one.values}")
        else:
            print(f"- {one.size:,} bytes of memory, {'abandoned' if one.abandoned else 'in use'}")
        one.remove()
    left = [one for one in sysv.everything() if one.key == KEY]
    print(f"removed: {len(left)} are left")
    return len(left)


if __name__ == "__main__":
    sys.exit(main())
