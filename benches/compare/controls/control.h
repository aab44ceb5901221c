/* What every C control shares: two pinned processes, a slice asked for by a line on stdin
 * ("<milliseconds>\n") and answered by one on stdout ("<count> <median_ns> <p99_ns>\n").
 * Between slices both processes are blocked in read(2) and take no CPU. */
#ifndef CONTROL_H
#define CONTROL_H
#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MAX_SAMPLES (1u << 18)

/* One word per 128 bytes: adjacent-line prefetch pulls lines in pairs. */
struct shared {
    _Alignas(128) _Atomic uint32_t ping;
    _Alignas(128) _Atomic uint32_t pong;
    _Alignas(128) _Atomic uint32_t stop;
};

static inline uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline void pin(int cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set) != 0) {
        perror("sched_setaffinity");
        exit(1);
    }
}

static inline void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static inline void futex_wait(_Atomic uint32_t *word, uint32_t value) {
    syscall(SYS_futex, word, FUTEX_WAIT, value, NULL, NULL, 0);
}

static inline void futex_wake(_Atomic uint32_t *word) {
    syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static inline struct shared *share(void) {
    void *p = mmap(NULL, sizeof(struct shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) {
        perror("mmap");
        exit(1);
    }
    return p;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Sorts the samples (nanoseconds each) and answers the slice. */
static inline void answer(uint64_t count, double *samples, size_t n) {
    if (n == 0) {
        printf("0 0 0\n");
    } else {
        qsort(samples, n, sizeof *samples, by_value);
        printf("%llu %.2f %.2f\n", (unsigned long long)count, samples[n / 2], samples[(n * 99) / 100]);
    }
    fflush(stdout);
}

static inline int next_slice(uint64_t *nanoseconds) {
    char line[64];
    if (fgets(line, sizeof line, stdin) == NULL) return 0;
    *nanoseconds = strtoull(line, NULL, 10) * 1000000u;
    return 1;
}

/* A partner on its own core, woken for each slice by one byte, dying with its parent. */
static inline int start_partner(int cpu, struct shared *s, void (*serve)(struct shared *)) {
    int ends[2];
    if (pipe(ends) != 0) {
        perror("pipe");
        exit(1);
    }
    pid_t parent = getpid();
    pid_t child = fork();
    if (child < 0) {
        perror("fork");
        exit(1);
    }
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent) _exit(0);
        close(ends[1]);
        close(0);
        close(1);
        pin(cpu);
        char byte;
        while (read(ends[0], &byte, 1) == 1) {
            serve(s);
            atomic_store(&s->stop, 2); /* out of the slice: the words may be reset */
        }
        _exit(0);
    }
    close(ends[0]);
    return ends[1];
}

/* Tells the partner to leave the slice and waits until it has. */
static inline void finish(struct shared *s) {
    atomic_store(&s->stop, 1);
    atomic_fetch_add(&s->ping, 1);
    futex_wake(&s->ping);
    while (atomic_load(&s->stop) != 2) sched_yield();
}

static inline void begin(int partner, struct shared *s) {
    atomic_store(&s->ping, 0);
    atomic_store(&s->pong, 0);
    atomic_store(&s->stop, 0);
    if (write(partner, "", 1) != 1) {
        perror("write");
        exit(1);
    }
}

#endif
