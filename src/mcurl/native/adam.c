/* Adam (Kingma & Ba, 2015) on a gradient clipped to a norm, over many tensors at once: one pass for the norm and one
   for the step. It computes what torch.nn.utils.clip_grad_norm_ and torch.optim.Adam compute one after the other. */
#include <math.h>
#include <stdint.h>
#if defined(__SSE2__)
#include <xmmintrin.h>
#else
#define _mm_getcsr() 0u
#define _mm_setcsr(flags) ((void)(flags))
#endif

/* Compiled for several vector widths; the processor chooses at load time. "fma" has vectors of eight numbers, and
   does not round a product before it is added. Rounded alone, a tenth of a moment near 1e-37 is denormal, so zero, and
   the moment would never become smaller. */
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define VECTORIZED __attribute__((target_clones("avx512f", "fma", "default")))
#else
#define VECTORIZED
#endif
/* MXCSR bits: denormal numbers are zero in this thread during the step. The moments of a weight without a gradient
   decay into denormals and stay there, and arithmetic with them is many times slower. */
#define FLUSH_DENORMALS 0x8040u
/* Numbers in a chunk. Sums are taken chunk by chunk, so that they do not depend on the threads. */
#define CHUNK 8192
#define LANES 16

typedef struct {
    float one_minus_beta1, one_minus_beta2, beta2, lr, sqrt_correction2, eps, clip;
} Factors;

VECTORIZED static double sum_of_squares(const float *gradient, int64_t n) {
    float sums[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int lane = 0; lane < LANES; lane++)
            sums[lane] += gradient[i + lane] * gradient[i + lane];
    for (; i < n; i++)
        sums[i % LANES] += gradient[i] * gradient[i];
    double sum = 0;
    for (int lane = 0; lane < LANES; lane++)
        sum += sums[lane];
    return sum;
}

VECTORIZED static void adam_step(float *restrict parameter, const float *restrict gradient, float *restrict exp_avg,
                                 float *restrict exp_avg_sq, int64_t n, Factors s) {
    for (int64_t i = 0; i < n; i++) {
        const float g = s.clip * gradient[i];
        exp_avg[i] += s.one_minus_beta1 * (g - exp_avg[i]);
        exp_avg_sq[i] = s.beta2 * exp_avg_sq[i] + s.one_minus_beta2 * g * g;
        parameter[i] -= s.lr * exp_avg[i] / (sqrtf(exp_avg_sq[i]) / s.sqrt_correction2 + s.eps);
    }
}

/* The tensors are split into chunks, one tensor after the other. Returns the tensor of a chunk; start, n: its first
   number and how many it has. */
static int64_t find_chunk(const int64_t *sizes, int64_t chunk, int64_t *start, int64_t *n) {
    int64_t tensor = 0;
    for (int64_t chunks; chunk >= (chunks = (sizes[tensor] + CHUNK - 1) / CHUNK); tensor++)
        chunk -= chunks;
    *start = chunk * CHUNK;
    *n = sizes[tensor] - *start < CHUNK ? sizes[tensor] - *start : CHUNK;
    return tensor;
}

/* tensors: [count, 5], the addresses of each tensor's parameter, gradient, first and second moment, and step
   counter, all float32. sizes, lrs: [count]. The gradients are left as they are. Returns their norm, or 0 where
   max_norm is infinite and nothing is clipped. */
double step(float *const *tensors, const int64_t *sizes, const double *lrs, int64_t count, double beta1, double beta2,
            double eps, double max_norm) {
    int64_t chunks = 0;
    double sum = 0;
    for (int64_t tensor = 0; tensor < count; tensor++) {
        chunks += (sizes[tensor] + CHUNK - 1) / CHUNK;
        *tensors[5 * tensor + 4] += 1;
    }
    double sums[chunks + 1];
    if (max_norm < INFINITY) {
#pragma omp parallel for schedule(static)
        for (int64_t chunk = 0; chunk < chunks; chunk++) {
            int64_t start, n;
            const int64_t tensor = find_chunk(sizes, chunk, &start, &n);
            sums[chunk] = sum_of_squares(tensors[5 * tensor + 1] + start, n);
        }
        for (int64_t chunk = 0; chunk < chunks; chunk++)
            sum += sums[chunk];
    }
    const double norm = sqrt(sum), clip = max_norm / (norm + 1e-6);
#pragma omp parallel
    {
        const unsigned flags = _mm_getcsr();
        _mm_setcsr(flags | FLUSH_DENORMALS);
#pragma omp for schedule(static)
        for (int64_t chunk = 0; chunk < chunks; chunk++) {
            int64_t start, n;
            const int64_t tensor = find_chunk(sizes, chunk, &start, &n);
            float *const *pointers = tensors + 5 * tensor;
            const double steps = *pointers[4];
            const Factors s = {
                .one_minus_beta1 = (float)(1 - beta1),
                .one_minus_beta2 = (float)(1 - beta2),
                .beta2 = (float)beta2,
                .lr = (float)(lrs[tensor] / (1 - pow(beta1, steps))),
                .sqrt_correction2 = (float)sqrt(1 - pow(beta2, steps)),
                .eps = (float)eps,
                .clip = clip > 1 ? 1 : (float)clip,
            };
            adam_step(pointers[0] + start, pointers[1] + start, pointers[2] + start, pointers[3] + start, n, s);
        }
        _mm_setcsr(flags);
    }
    return norm;
}
