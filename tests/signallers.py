"""The other ends of signals: a C program that sends and receives with sigqueue and sigwaitinfo."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

from programs import Program, compiled

SIGNALLER = r"""
/* Commands by lines, each answered by one: queue PID SIGNAL FIRST COUNT | pointer PID SIGNAL NUMBER
   | take SIGNAL COUNT | pending SIGNAL | limit COUNT. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

int main(void) {
    char line[256];
    long a, b, c, d;
    sigset_t all, one, now;
    sigemptyset(&all);
    sigaddset(&all, SIGUSR1);
    sigaddset(&all, SIGUSR2);
    for (int n = SIGRTMIN; n <= SIGRTMAX; n++) sigaddset(&all, n);
    sigprocmask(SIG_BLOCK, &all, NULL);
    printf("ready\n");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        if (sscanf(line, "queue %ld %ld %ld %ld", &a, &b, &c, &d) == 4) {
            long full = 0;
            for (long n = 0; n < d; n++) {
                union sigval value = {.sival_int = (int)(c + n)};
                while (sigqueue(a, b, value) != 0) {
                    if (errno != EAGAIN) { printf("error %d after %ld\n", errno, n); goto next; }
                    full++;
                    usleep(200);
                }
            }
            printf("queued %ld, full %s\n", d, full ? "sometimes" : "never");
        } else if (sscanf(line, "pointer %ld %ld %ld", &a, &b, &c) == 3) {
            union sigval value = {.sival_ptr = (void *)c};
            printf("%d\n", sigqueue(a, b, value));
        } else if (sscanf(line, "take %ld %ld", &a, &b) == 2) {
            siginfo_t info;
            long first = 0, ordered = 1;
            sigemptyset(&one);
            sigaddset(&one, a);
            for (long n = 0; n < b; n++) {
                if (sigwaitinfo(&one, &info) < 0) { n--; continue; }
                if (n == 0) first = info.si_value.sival_int;
                ordered &= info.si_value.sival_int == first + n;
            }
            printf("code %d pid %d uid %d first %ld last %d %s\n", info.si_code, info.si_pid, info.si_uid,
                   first, info.si_value.sival_int, ordered ? "in order" : "mixed up");
        } else if (sscanf(line, "pending %ld", &a) == 1) {
            sigpending(&now);
            printf("%d\n", sigismember(&now, a));
        } else if (sscanf(line, "limit %ld", &a) == 1) {
            struct rlimit limit = {a, a};
            printf("%d\n", setrlimit(RLIMIT_SIGPENDING, &limit));
        }
    next:
        fflush(stdout);
    }
    return 0;
}
"""


@contextlib.contextmanager
def signaller() -> Iterator[Program]:
    """The C program, ready; ended on leaving."""
    program = Program(compiled(SIGNALLER))
    try:
        program.expect("ready")
        yield program
    finally:
        program.reap()


def ask(program: Program, *words: object) -> str:
    """One command, and its answer."""
    program.send(" ".join(str(int(word) if isinstance(word, signal.Signals) else word) for word in words))
    return program.line()


def blocked(pid: int | str, thread: int | None = None) -> frozenset[int]:
    """What a process (or one of its threads) blocks, as the kernel shows it."""
    place = f"/proc/{pid}/status" if thread is None else f"/proc/{pid}/task/{thread}/status"
    bits = int(Path(place).read_text().split("SigBlk:")[1].split()[0], 16)
    return frozenset(number for number in range(1, 65) if bits >> (number - 1) & 1)


def blocked_in_all_threads() -> frozenset[int]:
    """What each thread of this process blocks."""
    masks = []
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            masks.append(blocked("self", int(thread.name)))
    return frozenset.intersection(*masks)
