/* The floor of a lock: an uncontended compare-and-swap to take it and another to give it back, one core.
 * usage: swap CPU_A CPU_B; a sample is the mean of 1024 pairs. */
#include "control.h"

enum { PAIRS = 1024 };

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    pin(atoi(argv[1]));
    struct shared *s = share();
    double *samples = malloc(sizeof *samples * MAX_SAMPLES);
    uint64_t length;
    while (next_slice(&length)) {
        size_t n = 0;
        uint64_t last = now_ns(), end = last + length;
        while (last < end && n < MAX_SAMPLES) {
            for (int i = 0; i < PAIRS; i++) {
                uint32_t free = 0, mine = 1;
                atomic_compare_exchange_strong(&s->ping, &free, 1);
                atomic_compare_exchange_strong(&s->ping, &mine, 0);
            }
            uint64_t t = now_ns();
            samples[n++] = (double)(t - last) / PAIRS;
            last = t;
        }
        answer((uint64_t)n * PAIRS, samples, n);
    }
    return 0;
}
