/* The floor of a round trip that sleeps: both sides wait in futex(2) at once, without spinning.
 * usage: futex CPU_A CPU_B PAUSE_US; with a pause, the asking side sleeps before each trip, untimed. */
#include "control.h"

static void sleep_until(_Atomic uint32_t *word, uint32_t wanted) {
    uint32_t seen;
    while ((seen = atomic_load(word)) != wanted) futex_wait(word, seen);
}

static void serve(struct shared *s) {
    for (uint32_t value = 1;; value++) {
        sleep_until(&s->ping, value);
        if (atomic_load(&s->stop)) return;
        atomic_store(&s->pong, value);
        futex_wake(&s->pong);
    }
}

int main(int argc, char **argv) {
    if (argc != 4) return 2;
    struct shared *s = share();
    double *samples = malloc(sizeof *samples * MAX_SAMPLES);
    int partner = start_partner(atoi(argv[2]), s, serve);
    pin(atoi(argv[1]));
    struct timespec pause = {0, atol(argv[3]) * 1000};
    uint64_t length;
    while (next_slice(&length)) {
        begin(partner, s);
        uint32_t value = 0;
        size_t n = 0;
        uint64_t end = now_ns() + length, t = 0;
        while (t < end && n < MAX_SAMPLES) {
            if (pause.tv_nsec) clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);
            uint64_t start = now_ns();
            atomic_store(&s->ping, ++value);
            futex_wake(&s->ping);
            sleep_until(&s->pong, value);
            t = now_ns();
            samples[n++] = (double)(t - start);
        }
        finish(s);
        answer(n, samples, n);
    }
    return 0;
}
