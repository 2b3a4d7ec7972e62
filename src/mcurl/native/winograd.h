/* Winograd's F(4 x 4, 3 x 3) (Lavin and Gray, arXiv:1509.09308): a convolution of 3 x 3 with stride 1 in a quarter of
   the multiplications. 4 x 4 outputs, a patch, are computed from 6 x 6 inputs. Inputs and weight are transformed; then
   the convolution is 36 products, one for each point:

       inputs  [6 x 6] --B^T . B-->  V [36 points][patches][32 channels] --+
                                                                           +-->  M = V U  --A^T . A-->  outputs [4 x 4]
       weight  [3 x 3] --G . G^T-->  U [36 points][32 channels][32 filters] -+

   The gradient of the weight is the adjoint of that: with D = A gradient A^T, the gradient of U is D^T V in each point,
   and that of the weight is G^T . G of it. The gradient of the inputs is a convolution with the weight turned.

   All of it is float32. Rounding errors are some 1e-6 of a result. A number that is not finite reaches all outputs of
   its patches, not only those of its windows. */
#include "lanes.h"

#define ALIGNED __attribute__((aligned(64)))

#define IN 6     /* rows and columns of a patch's inputs, */
#define OUT 4    /* of its outputs, */
#define TAP 3    /* and of the weight */
#define POINTS (IN * IN)
#define SQUARE (FILTERS * FILTERS)

/* One-dimensional transforms of vectors of channels, of which there are: */
enum transform {
    INPUTS,          /* B^T:  6 -> 6 */
    SUMS,            /* A^T:  6 -> 4 */
    GRADIENT,        /* A:    4 -> 6 */
    WEIGHT,          /* G:    3 -> 6 */
    WEIGHT_GRADIENT, /* G^T:  6 -> 3 */
};

#define times(factor, a) product(fill(factor), a)
#define more(factor, a, b) fused(fill(factor), a, b)       /* factor a + b */
#define less(factor, a, b) fused_minus(fill(factor), a, b) /* b - factor a */

/* x: vectors, `step` apart. Points are 0, 1, -1, 2, -2 and infinity: even and odd powers are summed apart. */
TARGET INLINE void transform(enum transform t, const Vector *x, int step, Vector *y) {
    const Vector x0 = x[0], x1 = x[step], x2 = x[2 * step];
    const Vector x3 = t == WEIGHT ? x0 : x[3 * step], x4 = t == WEIGHT || t == GRADIENT ? x0 : x[4 * step],
                 x5 = t == WEIGHT || t == GRADIENT ? x0 : x[5 * step];
    if (t == INPUTS) {
        const Vector even1 = less(4, x2, x4), odd1 = less(4, x1, x3), even2 = minus(x4, x2), odd2 = minus(x3, x1);
        y[0] = more(4, x0, less(5, x2, x4));
        y[1] = plus(even1, odd1);
        y[2] = minus(even1, odd1);
        y[3] = more(2, odd2, even2);
        y[4] = less(2, odd2, even2);
        y[5] = more(4, x1, less(5, x3, x5));
    } else if (t == SUMS) {
        const Vector even1 = plus(x1, x2), odd1 = minus(x1, x2), even2 = plus(x3, x4), odd2 = minus(x3, x4);
        y[0] = plus(plus(x0, even1), even2);
        y[1] = more(2, odd2, odd1);
        y[2] = more(4, even2, even1);
        y[3] = plus(more(8, odd2, odd1), x5);
    } else if (t == GRADIENT) {
        const Vector even1 = plus(x0, x2), odd1 = plus(x1, x3), even2 = more(4, x2, x0), odd2 = more(4, x3, x1);
        y[0] = x0;
        y[1] = plus(even1, odd1);
        y[2] = minus(even1, odd1);
        y[3] = more(2, odd2, even2);
        y[4] = less(2, odd2, even2);
        y[5] = x3;
    } else if (t == WEIGHT) {
        const Vector even1 = times(-1.0f / 6, plus(x0, x2)), even2 = more(1.0f / 24, x0, times(1.0f / 6, x2));
        y[0] = times(1.0f / 4, x0);
        y[1] = less(1.0f / 6, x1, even1);
        y[2] = more(1.0f / 6, x1, even1);
        y[3] = more(1.0f / 12, x1, even2);
        y[4] = less(1.0f / 12, x1, even2);
        y[5] = x2;
    } else {
        const Vector even1 = times(-1.0f / 6, plus(x1, x2)), even2 = plus(x3, x4);
        y[0] = more(1.0f / 24, even2, more(1.0f / 4, x0, even1));
        y[1] = more(1.0f / 12, minus(x3, x4), times(1.0f / 6, minus(x2, x1)));
        y[2] = plus(more(1.0f / 6, even2, even1), x5);
    }
}

/* Transforms columns, then rows: x [from][from] -> [to][to], `place` numbers apart. */
TARGET INLINE void transform_patch(enum transform t, int from, int to, const Vector *x, float *y, int64_t place) {
    Vector columns[IN * IN], line[IN];
#pragma GCC unroll 6
    for (int j = 0; j < from; j++) {
        transform(t, x + j, from, line);
#pragma GCC unroll 6
        for (int i = 0; i < to; i++)
            columns[i * from + j] = line[i];
    }
#pragma GCC unroll 6
    for (int i = 0; i < to; i++) {
        transform(t, columns + i * from, 1, line);
#pragma GCC unroll 6
        for (int j = 0; j < to; j++)
            store(y + (i * to + j) * place, line[j]);
    }
}

/* sums [unit][32] = a b, or += : a has `unit` rows, `row` numbers apart, of n numbers, `step` apart; b [n][32]. Two
   vectors of columns at a time. */
TARGET INLINE void multiply(int unit, const float *a, int64_t row, int64_t step, const float *b, int64_t n, int add,
                            float *sums) {
    for (int column = 0; column < FILTERS; column += 2 * LANES) {
        Vector left[WINDOWS], right[WINDOWS];
#pragma GCC unroll 14
        for (int r = 0; r < unit; r++) {
            left[r] = add ? load(sums + r * FILTERS + column) : fill(0);
            right[r] = add ? load(sums + r * FILTERS + column + LANES) : fill(0);
        }
        for (int64_t k = 0; k < n; k++) {
            const Vector b_left = load(b + k * FILTERS + column), b_right = load(b + k * FILTERS + column + LANES);
#pragma GCC unroll 14
            for (int r = 0; r < unit; r++) {
                const Vector number = fill(a[k * step + r * row]);
                left[r] = fused(number, b_left, left[r]);
                right[r] = fused(number, b_right, right[r]);
            }
        }
#pragma GCC unroll 14
        for (int r = 0; r < unit; r++) {
            store(sums + r * FILTERS + column, left[r]);
            store(sums + r * FILTERS + column + LANES, right[r]);
        }
    }
}

/* Maps */

/* A map, or the gradient of one, of an image: [rows][columns][32] in bfloat16 or float32. */
typedef struct {
    char *at;
    int64_t bytes, rows, columns; /* bytes: of a number, 2 or 4 */
} Map;

static inline char *pixel_at(const Map *map, int64_t y, int64_t x, int64_t channel) {
    return map->at + ((y * map->columns + x) * FILTERS + channel) * map->bytes;
}

/* A vector's numbers, as float32. */
TARGET INLINE Vector load_numbers(const void *from, int64_t bytes) {
    return bytes == sizeof(float) ? load((const float *)from) : load_bfloat16(from);
}

TARGET INLINE void store_numbers(Vector x, int64_t bytes, void *to) {
    if (bytes == sizeof(float))
        store((float *)to, x);
    else
        store_bfloat16(to, x);
}

/* Patches */

/* Patches that are transformed before they are multiplied: as many as the second-level cache holds. */
#define PATCHES 40
/* From one point to the next: an odd number of lines of the cache, so that points do not share its places. */
#define POINT (PATCHES * FILTERS + 16)

static inline int64_t patches_across(int64_t pixels) { return (pixels + OUT - 1) / OUT; }

/* Transforms `count` patches of a map, from number `first` on, of `across` in a row. offset: where the first patch
   begins, in rows and columns. Around a map are zeros. */
TARGET INLINE void transform_map(enum transform t, int side, const Map *map, int64_t offset, int64_t across,
                                 int64_t first, int64_t count, float *to) {
    for (int64_t i = 0; i < count; i++) {
        const int64_t top = (first + i) / across * OUT + offset, left = (first + i) % across * OUT + offset;
        const int inside = top >= 0 && left >= 0 && top + side <= map->rows && left + side <= map->columns;
        for (int64_t channel = 0; channel < FILTERS; channel += LANES) {
            Vector patch[POINTS];
            for (int64_t y = top; y < top + side; y++)
                for (int64_t x = left; x < left + side; x++)
                    patch[(y - top) * side + x - left] =
                        inside || (y >= 0 && x >= 0 && y < map->rows && x < map->columns)
                            ? load_numbers(pixel_at(map, y, x, channel), map->bytes)
                            : fill(0);
            transform_patch(t, side, IN, patch, to + i * FILTERS + channel, POINT);
        }
    }
}

/* Finishes a patch of outputs, from the sums of its points: with bias and ReLU, or where `positive` is not 0. */
TARGET static inline void finish_patch(const float *sums, const float *bias, int64_t top, int64_t left,
                                       const Map *positive, const Map *out) {
    for (int64_t channel = 0; channel < FILTERS; channel += LANES) {
        const Vector start = load(bias + channel);
        float outputs[OUT * OUT * LANES] ALIGNED;
        Vector points[POINTS];
        for (int p = 0; p < POINTS; p++)
            points[p] = load(sums + p * POINT + channel);
        transform_patch(SUMS, IN, OUT, points, outputs, LANES);
        for (int64_t y = top; y < top + OUT && y < out->rows; y++)
            for (int64_t x = left; x < left + OUT && x < out->columns; x++) {
                const Vector sum = plus(load(outputs + ((y - top) * OUT + x - left) * LANES), start);
                store_numbers(positive ? masked(sum, load_numbers(pixel_at(positive, y, x, channel), positive->bytes))
                                       : relu(sum),
                              out->bytes, pixel_at(out, y, x, channel));
            }
    }
}

/* in -> the next map; or, with the weight turned and offset -2, the gradient of the map before. u: transformed weight.
   positive: the map before, or NULL. v, m: memory for POINTS * POINT numbers. */
TARGET static void convolve(const Map *in, int64_t offset, const float *u, const float *bias, const Map *positive,
                            const Map *out, float *v, float *m) {
    const int64_t across = patches_across(out->columns), patches = across * patches_across(out->rows);
    for (int64_t first = 0; first < patches; first += PATCHES) {
        const int64_t n = patches - first < PATCHES ? patches - first : PATCHES;
        transform_map(INPUTS, IN, in, offset, across, first, n, v);
        for (int64_t p = 0; p < POINTS; p++)
            for (int64_t i = 0; i < n; i += UNIT) /* what lies behind the last patch is multiplied and left out */
                multiply(UNIT, v + p * POINT + i * FILTERS, FILTERS, 1, u + p * SQUARE, FILTERS, 0,
                         m + p * POINT + i * FILTERS);
        for (int64_t i = 0; i < n; i++)
            finish_patch(m + i * FILTERS, bias, (first + i) / across * OUT, (first + i) % across * OUT, positive, out);
    }
}

/* Adds an image's part of the gradients: of the transformed weight, to sums [36][32 filters][32 channels], and of the
   bias, to total [32]. */
TARGET static void accumulate(const Map *in, const Map *gradient, float *sums, float *total, float *v, float *d) {
    const int64_t across = patches_across(gradient->columns), patches = across * patches_across(gradient->rows);
    for (int64_t first = 0; first < patches; first += PATCHES) {
        const int64_t n = patches - first < PATCHES ? patches - first : PATCHES;
        transform_map(INPUTS, IN, in, 0, across, first, n, v);
        transform_map(GRADIENT, OUT, gradient, 0, across, first, n, d);
        for (int64_t p = 0; p < POINTS; p++)
            for (int64_t f = 0; f < FILTERS; f += UNIT)
                multiply(UNIT, d + p * POINT + f, 1, FILTERS, v + p * POINT, n, 1, sums + p * SQUARE + f * FILTERS);
        for (int64_t i = 0; i < n; i++) /* the point (1, 1) of A gradient A^T is the sum of the gradient */
            for (int64_t f = 0; f < FILTERS; f++)
                total[f] += d[(IN + 1) * POINT + i * FILTERS + f];
    }
}
