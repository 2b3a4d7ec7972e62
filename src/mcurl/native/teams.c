/* Teams of OpenMP threads that only sleep. */
#include <stdint.h>

/* Starts a team of the calling thread. Its threads sleep until the calling thread ends. The plain version does nothing.
   Returns the number of threads. */
int64_t open_team(int64_t threads) {
    int64_t started = 0;
    (void)threads;
#pragma omp parallel num_threads(threads)
    {
#pragma omp atomic
        started++;
    }
    return started;
}
