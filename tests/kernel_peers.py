"""C programs at the other end of the kernel's mechanisms, names that no other test uses, and event loops."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import itertools
import os
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from support import PATIENCE

_numbers = itertools.count(1)


def fresh_name() -> str:
    """A POSIX name that nobody has."""
    return f"/isthmus-test-{os.getpid()}-{next(_numbers)}"


QUEUE = r"""
/* Commands by lines: open FLAGS NAME MAXMSG MSGSIZE | send PRIORITY TEXT | blob PRIORITY SIZE BYTE | receive
   | notify SIGNAL | attributes | echo NAME COUNT (sends what it receives to another queue) | close. */
#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void check(int bad, const char *what) {
    if (bad) { printf("error %s %d\n", what, errno); fflush(stdout); exit(3); }
}

int main(void) {
    static char line[65536], data[65536];
    mqd_t q = -1;
    while (fgets(line, sizeof line, stdin)) {
        char name[300];
        unsigned priority;
        long a, b;
        line[strcspn(line, "\n")] = 0;
        if (sscanf(line, "create %299s %ld %ld", name, &a, &b) == 3) {
            struct mq_attr attr = {.mq_maxmsg = a, .mq_msgsize = b};
            q = mq_open(name, O_RDWR | O_CREAT | O_EXCL, 0600, &attr);
            check(q < 0, "mq_open");
            puts("ok");
        } else if (sscanf(line, "open %299s", name) == 1) {
            q = mq_open(name, O_RDWR);
            check(q < 0, "mq_open");
            puts("ok");
        } else if (sscanf(line, "send %u", &priority) == 1) {
            char *text = strchr(strchr(line, ' ') + 1, ' ') + 1;
            check(mq_send(q, text, strlen(text), priority) != 0, "mq_send");
            puts("sent");
        } else if (sscanf(line, "blob %u %ld %ld", &priority, &a, &b) == 3) {
            memset(data, (int)b, a);
            check(mq_send(q, data, a, priority) != 0, "mq_send");
            puts("sent");
        } else if (strcmp(line, "receive") == 0) {
            ssize_t n = mq_receive(q, data, sizeof data, &priority);
            check(n < 0, "mq_receive");
            printf("%u %zd ", priority, n);
            fwrite(data, 1, n, stdout);
            puts("");
        } else if (sscanf(line, "echo %299s %ld", name, &a) == 2) {
            mqd_t out = mq_open(name, O_WRONLY);
            check(out < 0, "mq_open");
            puts("ready");
            fflush(stdout);
            while (a-- > 0) {
                ssize_t n = mq_receive(q, data, sizeof data, &priority);
                check(n < 0 || mq_send(out, data, n, priority) != 0, "echo");
            }
            puts("done");
        } else if (strcmp(line, "attributes") == 0) {
            struct mq_attr attr;
            check(mq_getattr(q, &attr) != 0, "mq_getattr");
            printf("%ld %ld %ld\n", attr.mq_maxmsg, attr.mq_msgsize, attr.mq_curmsgs);
        } else if (strcmp(line, "notify") == 0) {
            struct sigevent event = {.sigev_notify = SIGEV_NONE};
            check(mq_notify(q, &event) != 0, "mq_notify");
            puts("registered");
        } else {
            printf("what is %s?\n", line);
        }
        fflush(stdout);
    }
    return 0;
}
"""

SEMAPHORE = r"""
/* Commands by lines: create NAME VALUE | open NAME | wait | try | post | value. */
#include <errno.h>
#include <fcntl.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void check(int bad, const char *what) {
    if (bad) { printf("error %s %d\n", what, errno); fflush(stdout); exit(3); }
}

int main(void) {
    char line[600], name[300];
    sem_t *s = NULL;
    unsigned value;
    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = 0;
        if (sscanf(line, "create %299s %u", name, &value) == 2) {
            s = sem_open(name, O_CREAT | O_EXCL, 0600, value);
            check(s == SEM_FAILED, "sem_open");
            puts("ok");
        } else if (sscanf(line, "open %299s", name) == 1) {
            s = sem_open(name, 0);
            check(s == SEM_FAILED, "sem_open");
            puts("ok");
        } else if (strcmp(line, "wait") == 0) {
            check(sem_wait(s) != 0, "sem_wait");
            puts("taken");
        } else if (strcmp(line, "try") == 0) {
            puts(sem_trywait(s) == 0 ? "taken" : "none");
        } else if (strcmp(line, "post") == 0) {
            check(sem_post(s) != 0, "sem_post");
            puts("given");
        } else if (strcmp(line, "value") == 0) {
            int now;
            sem_getvalue(s, &now);
            printf("%d\n", now);
        } else {
            printf("what is %s?\n", line);
        }
        fflush(stdout);
    }
    return 0;
}
"""

SYSV = r"""
/* Commands by lines: queue KEY | semaphores KEY N | segment KEY SIZE | attach | sleep (in a semop). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>

int main(void) {
    char line[200];
    long key, n;
    int id = -1;
    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = 0;
        if (sscanf(line, "queue %ld", &key) == 1) {
            struct { long type; char text[5]; } message = {1, "hello"};
            id = msgget((key_t)key, IPC_CREAT | IPC_EXCL | 0640);
            printf("%d\n", msgsnd(id, &message, 5, 0) == 0 ? id : -1);
        } else if (sscanf(line, "semaphores %ld %ld", &key, &n) == 2) {
            unsigned short values[16] = {3, 0, 7};
            id = semget((key_t)key, (int)n, IPC_CREAT | IPC_EXCL | 0600);
            union { unsigned short *array; } all = {values};
            printf("%d\n", semctl(id, 0, SETALL, all) == 0 ? id : -1);
        } else if (sscanf(line, "segment %ld %ld", &key, &n) == 2) {
            id = shmget((key_t)key, n, IPC_CREAT | IPC_EXCL | 0604);
            printf("%d\n", id);
        } else if (strcmp(line, "attach") == 0) {
            puts(shmat(id, NULL, 0) == (void *)-1 ? "no" : "attached");
        } else if (strcmp(line, "sleep") == 0) {
            struct sembuf down = {1, -1, 0};
            puts("sleeping");
            fflush(stdout);
            printf("%d\n", semop(id, &down, 1));
        }
        fflush(stdout);
    }
    return 0;
}
"""


def event_loops() -> list[Any]:
    """Each kind of event loop there is here, as parameters."""
    kinds: list[Any] = [pytest.param(asyncio.new_event_loop, id="asyncio")]
    if importlib.util.find_spec("uvloop") is None:
        return kinds
    return [*kinds, pytest.param(importlib.import_module("uvloop").new_event_loop, id="uvloop")]


def run_in(factory: Any) -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """What runs a coroutine to its end in such a loop, with patience and not longer."""

    def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(asyncio.wait_for(coroutine, PATIENCE))

    return run
