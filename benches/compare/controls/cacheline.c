/* The floor of any round trip: one word each way between two cores, nobody ever sleeps.
 * usage: cacheline CPU_A CPU_B; a sample is the mean of 32 trips. */
#include "control.h"

enum { TRIPS = 32 };

static void serve(struct shared *s) {
    uint32_t seen = 0;
    for (;;) {
        uint32_t value;
        while ((value = atomic_load_explicit(&s->ping, memory_order_acquire)) == seen) relax();
        if (atomic_load_explicit(&s->stop, memory_order_relaxed)) return;
        seen = value;
        atomic_store_explicit(&s->pong, value, memory_order_release);
    }
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    struct shared *s = share();
    double *samples = malloc(sizeof *samples * MAX_SAMPLES);
    int partner = start_partner(atoi(argv[2]), s, serve);
    pin(atoi(argv[1]));
    uint64_t length;
    while (next_slice(&length)) {
        begin(partner, s);
        uint32_t value = 0;
        size_t n = 0;
        uint64_t last = now_ns(), end = last + length;
        while (last < end && n < MAX_SAMPLES) {
            for (int i = 0; i < TRIPS; i++) {
                atomic_store_explicit(&s->ping, ++value, memory_order_release);
                while (atomic_load_explicit(&s->pong, memory_order_acquire) != value) relax();
            }
            uint64_t t = now_ns();
            samples[n++] = (double)(t - last) / TRIPS;
            last = t;
        }
        finish(s);
        answer((uint64_t)n * TRIPS, samples, n);
    }
    return 0;
}
