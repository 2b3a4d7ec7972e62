/* DMControl's encoder for AVX-512 and AVX2: convolutions of 3 x 3 with ReLU and 32 filters, the first with stride 2,
   the others with stride 1 (winograd.h); and the gradients of their parameters. Products are in float32, maps in
   bfloat16 or float32. An image passes all layers before the next, so that its maps stay in the cache. The plain twin
   is networks.encoders.Convolutions._layers; for matrix units there is amx/convolutions.c. */
#include <stdint.h>

#if defined(__x86_64__) && defined(__linux__)
#ifdef _OPENMP
#include <omp.h>
#else
#define omp_get_thread_num() ((void)threads, 0)
#endif
#include "maps.h"
#include "winograd.h"

int supported(void) { return has_lanes(); }

/* Denormal numbers are zeros. Returns what the thread had set before. */
static inline unsigned flush_denormals(void) {
    const unsigned before = _mm_getcsr(), flush_to_zero = 1u << 15, denormals_are_zeros = 1u << 6;
    _mm_setcsr(before | flush_to_zero | denormals_are_zeros);
    return before;
}

/* Bytes of a layer's map. */
static inline int64_t map_size(const Shape *s, int64_t layer) { return map_pixels(s, layer) * FILTERS * s->map_bytes; }

static inline Map map_at(const Shape *s, int64_t layer, char *at) {
    return (Map){at, s->map_bytes, rows(s, layer), columns(s, layer)};
}

/* First layer

   For each row of windows, the image's three rows are copied to a strip, pixel by pixel. A window of it is a row of a
   matrix as it lies, and the next window begins two pixels later:

       strip [pixels][3 rows][channels], float32         window 0: pixels 0 to 2
       +-----+-----+-----+-----+-----+-----+--           window 1: pixels 2 to 4
       |  0  |  1  |  2  |  3  |  4  |  5  | ..          window 2: pixels 4 to 6
       +-----+-----+-----+-----+-----+-----+--

   Then the layer is a product [windows, 9 channels] by [9 channels, 32], and the gradient of its weight is one, too. */

static inline int64_t window_numbers(const Shape *s) { return TAPS * s->channels; }
static inline int64_t window_step(const Shape *s) { return 2 * TAP * s->channels; }
static inline int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }
static inline int64_t strip_numbers(const Shape *s) { /* with what whole units read behind the last window */
    return window_step(s) * round_up(columns(s, 0), WINDOWS) + round_up(window_numbers(s), WINDOWS) + LANES;
}

/* image: [height, width, channels]; y: row of windows. */
TARGET static void copy_strip(const Shape *s, const char *image, int64_t y, float *strip) {
    const int64_t channels = s->channels, pixels = 2 * columns(s, 0) + 1, row = s->width * channels;
    for (int64_t x = 0; x < pixels; x++)
        for (int64_t i = 0; i < TAP; i++)
            widen(image + ((2 * y + i) * row + x * channels) * s->pixel_bytes, channels, s->pixel_bytes,
                  strip + (x * TAP + i) * channels);
}

/* A thread's memory: a strip, sums or gradients of a row of windows, and transformed patches. */
typedef struct {
    float *strip, *line, *v, *m;
} Scratch;

static void take_scratch(const Shape *s, char **from, Scratch *scratch) {
    const int64_t windows = round_up(columns(s, 0), WINDOWS);
    scratch->strip = take(from, strip_numbers(s), sizeof(float));
    scratch->line = take(from, windows * FILTERS, sizeof(float));
    scratch->v = take(from, POINTS * POINT, sizeof(float));
    scratch->m = take(from, POINTS * POINT, sizeof(float));
}

TARGET static void first_layer(const Shape *s, const char *image, const float *weight, const float *bias,
                               const Map *out, const Scratch *scratch) {
    const int64_t n = out->columns, step = window_step(s);
    for (int64_t y = 0; y < out->rows; y++) {
        copy_strip(s, image, y, scratch->strip);
        for (int64_t x = 0; x < n; x += WINDOWS)
            multiply(WINDOWS, scratch->strip + x * step, step, 1, weight, window_numbers(s), 0,
                     scratch->line + x * FILTERS);
        for (int64_t i = 0; i < n * FILTERS; i += LANES) {
            const Vector sum = plus(load(scratch->line + i), load(bias + i % FILTERS));
            store_numbers(relu(sum), out->bytes, pixel_at(out, y, 0, i));
        }
    }
}

/* Adds an image's part of the gradients: to sums [9 channels, rounded up][32], and to total [32]. */
TARGET static void first_layer_sums(const Shape *s, const char *image, const Map *gradient, float *sums, float *total,
                                    const Scratch *scratch) {
    const int64_t n = gradient->columns;
    for (int64_t y = 0; y < gradient->rows; y++) {
        copy_strip(s, image, y, scratch->strip);
        for (int64_t i = 0; i < n * FILTERS; i += LANES) {
            const Vector numbers = load_numbers(pixel_at(gradient, y, 0, i), gradient->bytes);
            store(scratch->line + i, numbers);
            store(total + i % FILTERS, plus(load(total + i % FILTERS), numbers));
        }
        for (int64_t k = 0; k < window_numbers(s); k += WINDOWS)
            multiply(WINDOWS, scratch->strip + k, 1, window_step(s), scratch->line, n, 1, sums + k * FILTERS);
    }
}

/* Weights */

/* The number in a weight [32, 3, 3, channels] of tap (i, j). */
static inline int64_t weight_at(int64_t filter, int64_t i, int64_t j, int64_t channels) {
    return ((filter * TAP + i) * TAP + j) * channels;
}

/* The first layer's, with the division of pixels by 255. Before maps in bfloat16 it is rounded as the plain twin rounds
   it: the offset of pixels, which is part of the bias, is multiplied by the same numbers. */
TARGET static void pack_first(const Shape *s, const float *weight, float *to) {
    for (int64_t f = 0; f < FILTERS; f++)
        for (int64_t k = 0; k < window_numbers(s); k++) {
            const int64_t j = k / (TAP * s->channels), i = k / s->channels % TAP;
            char numbers[LANES * sizeof(float)];
            store_numbers(fill(weight[weight_at(f, i, j, s->channels) + k % s->channels] / 255), s->map_bytes,
                          numbers);
            to[k * FILTERS + f] = first_of(load_numbers(numbers, s->map_bytes));
        }
}

/* A weight [32, 3, 3, 32] as U, for maps, [36][32 channels][32 filters], or turned, for gradients of maps, [36][32
   filters][32 channels]. */
TARGET static void pack_next(const float *weight, int turned, float *u) {
    float taps[TAPS * SQUARE] ALIGNED;
    for (int64_t f = 0; f < FILTERS; f++)
        for (int64_t tap = 0; tap < TAPS; tap++)
            for (int64_t c = 0; c < FILTERS; c++) {
                const float number = weight[(f * TAPS + tap) * FILTERS + c];
                if (turned)
                    taps[(TAPS - 1 - tap) * SQUARE + f * FILTERS + c] = number;
                else
                    taps[tap * SQUARE + c * FILTERS + f] = number;
            }
    for (int64_t i = 0; i < SQUARE; i += LANES) {
        Vector w[TAPS];
        for (int64_t tap = 0; tap < TAPS; tap++)
            w[tap] = load(taps + tap * SQUARE + i);
        transform_patch(WEIGHT, TAP, IN, w, u + i, SQUARE);
    }
}

static inline int64_t first_numbers(const Shape *s) { return round_up(window_numbers(s), WINDOWS) * FILTERS; }

static void take_packed(const Shape *s, char **from, float **packed) {
    for (int64_t layer = 0; layer < s->layers; layer++)
        packed[layer] = take(from, layer ? POINTS * SQUARE : first_numbers(s), sizeof(float));
}

static void pack_forward(const Shape *s, const float *const *weights, float **packed) {
    pack_first(s, weights[0], packed[0]);
    for (int64_t layer = 1; layer < s->layers; layer++)
        pack_next(weights[layer], 0, packed[layer]);
}

/* Forward */

/* Bytes of an image's maps of the layers before this one. Those before the last are kept for backward: `hidden`. */
static int64_t maps_before(const Shape *s, int64_t layer) {
    int64_t bytes = 0;
    for (int64_t before = 0; before < layer; before++)
        bytes += map_size(s, before);
    return bytes;
}

/* In floats, as all sizes that are asked for. */
int64_t hidden_size(const Shape *s) { return s->images * maps_before(s, s->layers - 1) / (int64_t)sizeof(float); }

static inline char *hidden_map(const Shape *s, char *hidden, int64_t image, int64_t layer) {
    return hidden + image * maps_before(s, s->layers - 1) + maps_before(s, layer);
}

/* A thread's memory in forward. */
typedef struct {
    Scratch scratch;
    char *maps[2];
} Passing;

static int64_t take_passing(const Shape *s, char *from, Passing *own) {
    char *end = from;
    take_scratch(s, &end, &own->scratch);
    for (int i = 0; i < 2; i++)
        own->maps[i] = take(&end, map_size(s, 0), 1);
    return end - from;
}

int64_t forward_workspace(const Shape *s) {
    char *end = NULL;
    float *packed[MAX_LAYERS];
    Passing own;
    take_packed(s, &end, packed);
    return ((intptr_t)end + s->threads * take_passing(s, NULL, &own)) / (int64_t)sizeof(float);
}

/* pixels: [images, height, width, channels]; weights: float [32, 3, 3, channels] and [32, 3, 3, 32]; biases: float [32]
   -> hidden, unless it is NULL, and out: [images, rows, columns, 32]. */
TARGET void forward(const Shape *s, const char *pixels, const float *const *weights, const float *const *biases,
                    char *workspace, char *hidden, char *out) {
    const int64_t last = s->layers - 1, threads = s->threads;
    float *packed[MAX_LAYERS] = {NULL};
    take_packed(s, &workspace, packed);
    pack_forward(s, weights, packed);
#pragma omp parallel num_threads(threads)
    {
        Passing own;
        const unsigned before = flush_denormals();
        const int64_t bytes = take_passing(s, NULL, &own);
        take_passing(s, workspace + omp_get_thread_num() * bytes, &own);
#pragma omp for schedule(static)
        for (int64_t image = 0; image < s->images; image++) {
            Map map;
            for (int64_t layer = 0; layer < s->layers; layer++) {
                char *to = layer == last ? out + image * map_size(s, last)
                           : hidden      ? hidden_map(s, hidden, image, layer)
                                         : own.maps[layer % 2];
                const Map next = map_at(s, layer, to);
                if (layer)
                    convolve(&map, 0, packed[layer], biases[layer], NULL, &next, own.scratch.v, own.scratch.m);
                else
                    first_layer(s, pixels + image * image_bytes(s), packed[0], biases[0], &next, &own.scratch);
                map = next;
            }
        }
        _mm_setcsr(before);
    }
}

/* Backward

   Gradients of transformed weights are summed over a group of images and transformed back; the results are summed over
   groups. */

/* Sums of a layer: of the gradient of its weight, [numbers of a window or 9 x 32][32], and of its bias. */
static inline int64_t sum_numbers(const Shape *s, int64_t layer) {
    return (layer ? TAPS * SQUARE : first_numbers(s)) + FILTERS;
}

/* Of the layers before. */
static int64_t sums_before(const Shape *s, int64_t layer) {
    int64_t numbers = 0;
    for (int64_t before = 0; before < layer; before++)
        numbers += sum_numbers(s, before);
    return numbers;
}

/* What all threads share: turned weights, and the sums of each group of images. */
typedef struct {
    float *turned[MAX_LAYERS], *sums;
} Shared;

static void take_shared(const Shape *s, char **from, Shared *shared) {
    for (int64_t layer = 1; layer < s->layers; layer++)
        shared->turned[layer] = take(from, POINTS * SQUARE, sizeof(float));
    shared->sums = take(from, groups(s) * sums_before(s, s->layers), sizeof(float));
}

/* A thread's memory in backward. sums: of the transformed weights, in a group. */
typedef struct {
    Scratch scratch;
    char *gradients[2];
    float *sums[MAX_LAYERS];
} Returning;

static int64_t take_returning(const Shape *s, char *from, Returning *own) {
    char *end = from;
    take_scratch(s, &end, &own->scratch);
    for (int i = 0; i < 2; i++)
        own->gradients[i] = take(&end, map_size(s, 0), 1);
    for (int64_t layer = 1; layer < s->layers; layer++)
        own->sums[layer] = take(&end, POINTS * SQUARE, sizeof(float));
    return end - from;
}

int64_t backward_workspace(const Shape *s) {
    char *end = NULL;
    Shared shared;
    Returning own;
    take_shared(s, &end, &shared);
    return ((intptr_t)end + s->threads * take_returning(s, NULL, &own)) / (int64_t)sizeof(float);
}

/* The gradient of the last layer's sums from that of its output. */
TARGET static void last_gradient(const char *gradient, const char *out, const Map *to) {
    for (int64_t at = 0; at < to->rows * to->columns * FILTERS * to->bytes; at += LANES * to->bytes)
        store_numbers(masked(load_numbers(gradient + at, to->bytes), load_numbers(out + at, to->bytes)), to->bytes,
                      to->at + at);
}

/* Adds an image's part of the gradients to the sums of its group: first, of the first layer, and totals, of biases, to
   the shared ones; others to the thread's own. hidden: its maps. */
TARGET static void image_sums(const Shape *s, const char *image, char *hidden, const char *out, const char *gradient,
                              const Shared *shared, const Returning *own, float *sums) {
    static const float no_bias[FILTERS];
    const int64_t last = s->layers - 1;
    const Scratch *scratch = &own->scratch;
    Map maps[MAX_LAYERS];
    for (int64_t layer = 0; layer < last; layer++)
        maps[layer] = map_at(s, layer, hidden + maps_before(s, layer));
    Map gradients = map_at(s, last, own->gradients[last % 2]);
    last_gradient(gradient, out, &gradients);
    for (int64_t layer = last; layer > 0 && layer >= s->lowest; layer--) {
        float *total = sums + sums_before(s, layer) + TAPS * SQUARE;
        accumulate(&maps[layer - 1], &gradients, own->sums[layer], total, scratch->v, scratch->m);
        if (layer > s->lowest) {
            const Map before = map_at(s, layer - 1, own->gradients[(layer - 1) % 2]);
            convolve(&gradients, -(TAP - 1), shared->turned[layer], no_bias, &maps[layer - 1], &before, scratch->v,
                     scratch->m);
            gradients = before;
        }
    }
    if (s->lowest == 0)
        first_layer_sums(s, image, &gradients, sums, sums + first_numbers(s), scratch);
}

/* The sums of a group: the thread's own, transformed back. */
TARGET static void finish_group(const Shape *s, const Returning *own, float *sums) {
    for (int64_t layer = s->lowest > 1 ? s->lowest : 1; layer < s->layers; layer++)
        for (int64_t i = 0; i < SQUARE; i += LANES) {
            Vector points[POINTS];
            for (int64_t p = 0; p < POINTS; p++)
                points[p] = load(own->sums[layer] + p * SQUARE + i);
            transform_patch(WEIGHT_GRADIENT, IN, TAP, points, sums + sums_before(s, layer) + i, SQUARE);
        }
}

/* Adds up number `at` of all groups. */
static inline float group_sum(const Shape *s, const float *sums, int64_t at) {
    const int64_t all = sums_before(s, s->layers);
    float sum = 0;
    for (int64_t group = 0; group < groups(s); group++)
        sum += sums[group * all + at];
    return sum;
}

/* Writes a filter's part of a layer's gradients: weight [32, 3, 3, channels], bias [32]. sums: of the first group. */
static void write_gradients(const Shape *s, int64_t layer, int64_t filter, const float *sums, float *weight,
                            float *bias) {
    const int64_t channels = layer ? FILTERS : s->channels;
    for (int64_t i = 0; i < TAP; i++)
        for (int64_t j = 0; j < TAP; j++)
            for (int64_t c = 0; c < channels; c++) {
                const int64_t at = layer ? (i * TAP + j) * SQUARE + filter * FILTERS + c
                                         : ((j * TAP + i) * channels + c) * FILTERS + filter;
                weight[weight_at(filter, i, j, channels) + c] = group_sum(s, sums, at) / (layer ? 1 : 255);
            }
    bias[filter] = group_sum(s, sums, sum_numbers(s, layer) - FILTERS + filter);
}

/* The gradients of weights and biases of the layers from `lowest` on, from that of the output: [images, rows, columns,
   32]. hidden: of forward. */
TARGET void backward(const Shape *s, const char *pixels, char *hidden, const char *out, const char *gradient,
                     const float *const *weights, const float *const *biases, char *workspace,
                     float *const *weight_gradients, float *const *bias_gradients) {
    const int64_t last = s->layers - 1, lowest = s->lowest, threads = s->threads, all = sums_before(s, s->layers),
                  out_size = map_size(s, last);
    Shared shared;
    (void)biases;
    take_shared(s, &workspace, &shared);
    for (int64_t layer = 1; layer < s->layers; layer++)
        pack_next(weights[layer], 1, shared.turned[layer]);
#pragma omp parallel num_threads(threads)
    {
        Returning own;
        const unsigned before = flush_denormals();
        const int64_t bytes = take_returning(s, NULL, &own);
        take_returning(s, workspace + omp_get_thread_num() * bytes, &own);
#pragma omp for schedule(static)
        for (int64_t group = 0; group < groups(s); group++) {
            const int64_t end = (group + 1) * IMAGES < s->images ? (group + 1) * IMAGES : s->images;
            float *sums = shared.sums + group * all;
            memset(sums, 0, (size_t)all * sizeof *sums);
            for (int64_t layer = 1; layer < s->layers; layer++)
                memset(own.sums[layer], 0, POINTS * SQUARE * sizeof(float));
            for (int64_t image = group * IMAGES; image < end; image++)
                image_sums(s, pixels + image * image_bytes(s), hidden_map(s, hidden, image, 0), out + image * out_size,
                           gradient + image * out_size, &shared, &own, sums);
            finish_group(s, &own, sums);
        }
        _mm_setcsr(before);
#pragma omp for schedule(static)
        for (int64_t i = lowest * FILTERS; i < s->layers * FILTERS; i++) {
            const int64_t layer = i / FILTERS;
            write_gradients(s, layer, i % FILTERS, shared.sums + sums_before(s, layer), weight_gradients[layer],
                            bias_gradients[layer]);
        }
    }
}
#else
int supported(void) { return 0; }
#endif
