"""Scripts that fork, each run in a process of its own; children leave by os._exit with their verdict."""

from __future__ import annotations

from support import run_python

PRELUDE = """
import os, signal, sys, threading, time, traceback, warnings, isthmus
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of fork under threads

def child(work):
    "Forks; the child runs work() and exits with 0, or prints what went wrong."
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    return pid

def join(*pids):
    for pid in pids:
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0, f"child {pid}: {os.waitstatus_to_exitcode(status)}"

def say(text):
    print(text, flush=True)
"""


def run(code: str, *args: object) -> str:
    """Runs a script to its end."""
    return run_python(f"{PRELUDE}\n{code}", *args)
