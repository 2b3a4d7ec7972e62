/* Linear layers on a few rows, one after the other, as in acting: then most of the time goes into reading the weights,
   each of which passes once. The plain version is networks.heads.dense. */
#include <math.h>
#include <stdint.h>
#include <string.h>

/* Compiled for several vector widths; the processor chooses at load time. */
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define VECTORIZED __attribute__((target_clones("avx512f", "fma", "default")))
#else
#define VECTORIZED
#endif
#define INLINE static inline __attribute__((always_inline))

#define LANES 16
/* Outputs and rows whose sums are computed together. */
#define OUTPUTS 4
#define ROWS 4
/* Inputs of all rows that stay in the cache while weights pass. */
#define INPUTS 2048
typedef float Vector __attribute__((vector_size(LANES * sizeof(float)), aligned(sizeof(float))));

/* weight: [outputs, inputs]; bias, scale, shift: [outputs]. scale and shift: of LayerNorm, or NULL. */
typedef struct {
    const float *weight, *bias, *scale, *shift;
    int64_t inputs, outputs, relu;
} Layer;

INLINE float sum_lanes(const Vector *v) {
    float lanes[LANES];
    memcpy(lanes, v, sizeof lanes);
    for (int64_t half = LANES / 2; half; half /= 2)
        for (int64_t lane = 0; lane < half; lane++)
            lanes[lane] += lanes[lane + half];
    return lanes[0];
}

/* Adds products of `rows` rows and `outputs` outputs over n inputs, at most ROWS and OUTPUTS. Inlined for each number.
   x, weight: rows of `inputs` numbers; sums: rows of `total` numbers. */
INLINE void multiply(const float *x, int64_t rows, const float *weight, int64_t outputs, int64_t inputs, int64_t n,
                     float *sums, int64_t total) {
    Vector parts[OUTPUTS][ROWS] = {0};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int64_t o = 0; o < outputs; o++) {
            const Vector w = *(const Vector *)(weight + o * inputs + i);
            for (int64_t r = 0; r < rows; r++)
                parts[o][r] += w * *(const Vector *)(x + r * inputs + i);
        }
    for (int64_t o = 0; o < outputs; o++)
        for (int64_t r = 0; r < rows; r++) {
            float sum = sum_lanes(&parts[o][r]);
            for (int64_t rest = i; rest < n; rest++)
                sum += weight[o * inputs + rest] * x[r * inputs + rest];
            sums[r * total + o] += sum;
        }
}

/* Adds to the outputs of all rows, from output `first` on, the products over n inputs from `from` on. */
VECTORIZED static void add_products(const Layer *layer, int64_t first, int64_t from, int64_t n, const float *x,
                                    int64_t rows, float *y) {
    const int64_t inputs = layer->inputs, total = layer->outputs;
    const float *weight = layer->weight + first * inputs + from;
    for (int64_t r = 0; r < rows; r += ROWS) {
        const float *in = x + r * inputs + from;
        float *sums = y + r * total + first;
        const int64_t left = rows - r < ROWS ? rows - r : ROWS;
        if (total - first < OUTPUTS) {
            for (int64_t o = 0; o < total - first; o++)
                for (int64_t i = 0; i < left; i++)
                    multiply(in + i * inputs, 1, weight + o * inputs, 1, inputs, n, sums + i * total + o, total);
            continue;
        }
        switch (left) {
        case 1: multiply(in, 1, weight, OUTPUTS, inputs, n, sums, total); break;
        case 2: multiply(in, 2, weight, OUTPUTS, inputs, n, sums, total); break;
        case 3: multiply(in, 3, weight, OUTPUTS, inputs, n, sums, total); break;
        default: multiply(in, ROWS, weight, OUTPUTS, inputs, n, sums, total);
        }
    }
}

/* Starts outputs from `first` on at the bias. */
static void start(const Layer *layer, int64_t first, int64_t rows, float *y) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t o = first; o < layer->outputs && o < first + OUTPUTS; o++)
            y[r * layer->outputs + o] = layer->bias[o];
}

static void rectify(const Layer *layer, int64_t first, int64_t rows, float *y) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t o = first; o < layer->outputs && o < first + OUTPUTS; o++)
            y[r * layer->outputs + o] = y[r * layer->outputs + o] < 0 ? 0 : y[r * layer->outputs + o];
}

/* LayerNorm of a row, in place. */
static void normalize(const Layer *layer, float eps, float *y) {
    const int64_t n = layer->outputs;
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < n; i++)
        sum += y[i];
    const double mean = sum / (double)n;
    for (int64_t i = 0; i < n; i++)
        squares += (y[i] - mean) * (y[i] - mean);
    const double factor = 1 / sqrt(squares / (double)n + eps);
    for (int64_t i = 0; i < n; i++)
        y[i] = (float)((y[i] - mean) * factor) * layer->scale[i] + layer->shift[i];
}

/* x: [rows, inputs of the first layer]; hidden: two buffers of rows times the widest output -> y: [rows, outputs of
   the last layer]. An output is computed by one thread, with an order of its sum that depends on nothing else. */
void forward(const Layer *layers, int64_t count, const float *x, int64_t rows, float eps, float *hidden,
             int64_t hidden_size, float *y) {
#pragma omp parallel
    {
        const float *from = x;
        for (int64_t i = 0; i < count; i++) {
            const Layer *layer = layers + i;
            float *to = i == count - 1 ? y : hidden + i % 2 * hidden_size;
            for (int64_t part = 0; part < layer->inputs; part += INPUTS) {
                /* A thread has the same outputs in each part. */
#pragma omp for schedule(static) nowait
                for (int64_t o = 0; o < layer->outputs; o += OUTPUTS) {
                    const int64_t rest = layer->inputs - part;
                    if (part == 0)
                        start(layer, o, rows, to);
                    add_products(layer, o, part, rest < INPUTS ? rest : INPUTS, from, rows, to);
                    if (rest <= INPUTS && layer->relu)
                        rectify(layer, o, rows, to);
                }
            }
#pragma omp barrier
            if (layer->scale) {
#pragma omp for schedule(static)
                for (int64_t r = 0; r < rows; r++)
                    normalize(layer, eps, to + r * layer->outputs);
            }
            from = to;
        }
    }
}
