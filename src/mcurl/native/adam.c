/* Adam (Kingma & Ba, 2015) on a gradient clipped to a norm, over many tensors at once: one pass for the norm and one for the step. What it computes is what
   torch.nn.utils.clip_grad_norm_ and torch.optim.Adam compute one after the other. */
#include <math.h>
#include <stdint.h>
#if defined(__SSE2__)
#include <xmmintrin.h>
#else
#define _mm_getcsr() 0u
#define _mm_setcsr(flags) ((void)(flags))
#endif

/* The best vectors of the processor it runs on. */
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define VECTORISED __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define VECTORISED
#endif
/* Denormal numbers are zero for this thread while it steps: moments of what has no gradient any more decay into them, and would stay there, many times slower than others. */
#define FLUSH 0x8040u
/* Numbers in a piece of work: sums are taken piece by piece, so that they do not depend on the threads. */
#define PIECE 8192
#define LANES 16

typedef struct {
    float rest1, rest2, beta2, rate, root, eps, clip;
} Step;

VECTORISED static double squares(const float *gradient, int64_t n) {
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

VECTORISED static void descend(float *restrict parameter, const float *restrict gradient, float *restrict first, float *restrict second, int64_t n, Step s) {
    for (int64_t i = 0; i < n; i++) {
        const float g = s.clip * gradient[i];
        first[i] += s.rest1 * (g - first[i]);
        second[i] = s.beta2 * second[i] + s.rest2 * g * g;
        parameter[i] -= s.rate * first[i] / (sqrtf(second[i]) / s.root + s.eps);
    }
}

/* Tensors of so many numbers each, one after the other in pieces: the piece's tensor, its first number and how many it has. */
static int64_t find(const int64_t *sizes, int64_t piece, int64_t *start, int64_t *n) {
    int64_t tensor = 0;
    for (int64_t pieces; piece >= (pieces = (sizes[tensor] + PIECE - 1) / PIECE); tensor++)
        piece -= pieces;
    *start = piece * PIECE;
    *n = sizes[tensor] - *start < PIECE ? sizes[tensor] - *start : PIECE;
    return tensor;
}

/* tensors: [count, 5], the addresses of each one's parameter, gradient, first and second moment, and step counter, all float32. sizes, rates: [count]. The gradients are left as they
   are. Returns their norm, or 0 where nothing is clipped because most is infinite. */
double step(float *const *tensors, const int64_t *sizes, const double *rates, int64_t count, double beta1, double beta2, double eps, double most) {
    int64_t pieces = 0;
    double sum = 0;
    for (int64_t tensor = 0; tensor < count; tensor++) {
        pieces += (sizes[tensor] + PIECE - 1) / PIECE;
        *tensors[5 * tensor + 4] += 1;
    }
    double sums[pieces + 1];
    if (most < INFINITY) {
#pragma omp parallel for schedule(static)
        for (int64_t piece = 0; piece < pieces; piece++) {
            int64_t start, n;
            const int64_t tensor = find(sizes, piece, &start, &n);
            sums[piece] = squares(tensors[5 * tensor + 1] + start, n);
        }
        for (int64_t piece = 0; piece < pieces; piece++)
            sum += sums[piece];
    }
    const double norm = sqrt(sum), clip = most / (norm + 1e-6);
#pragma omp parallel
    {
        const unsigned flags = _mm_getcsr();
        _mm_setcsr(flags | FLUSH);
#pragma omp for schedule(static)
        for (int64_t piece = 0; piece < pieces; piece++) {
            int64_t start, n;
            const int64_t tensor = find(sizes, piece, &start, &n);
            float *const *of = tensors + 5 * tensor;
            const double taken = *of[4];
            const Step s = {
                .rest1 = (float)(1 - beta1), .rest2 = (float)(1 - beta2), .beta2 = (float)beta2, .rate = (float)(rates[tensor] / (1 - pow(beta1, taken))),
                .root = (float)sqrt(1 - pow(beta2, taken)), .eps = (float)eps, .clip = clip > 1 ? 1 : (float)clip,
            };
            descend(of[0] + start, of[1] + start, of[2] + start, of[3] + start, n, s);
        }
        _mm_setcsr(flags);
    }
    return norm;
}
