/* The floor of moving bytes: one memcpy from private memory into a shared mapping, one core.
 * usage: memcpy CPU_A CPU_B SIZE; a sample is the mean of as many copies as make about 1 MiB. */
#include "control.h"

int main(int argc, char **argv) {
    if (argc != 4) return 2;
    pin(atoi(argv[1]));
    size_t size = strtoull(argv[3], NULL, 10);
    char *from = malloc(size);
    char *to = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    double *samples = malloc(sizeof *samples * MAX_SAMPLES);
    if (from == NULL || to == MAP_FAILED || samples == NULL) return 1;
    memset(from, 7, size);
    memset(to, 0, size);
    size_t copies = size < (1u << 20) ? (1u << 20) / size : 1;
    uint64_t length;
    while (next_slice(&length)) {
        size_t n = 0;
        uint64_t last = now_ns(), end = last + length;
        while (last < end && n < MAX_SAMPLES) {
            for (size_t i = 0; i < copies; i++) {
                memcpy(to, from, size);
                __asm__ volatile("" : : "r"(to), "r"(from) : "memory"); /* keep every copy */
            }
            uint64_t t = now_ns();
            samples[n++] = (double)(t - last) / (double)copies;
            last = t;
        }
        answer((uint64_t)n * copies, samples, n);
    }
    return 0;
}
