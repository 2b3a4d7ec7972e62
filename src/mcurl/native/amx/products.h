/* Linear layers in float32 on the processor's matrix units, which multiply bfloat16: a matrix is one plane of that, or the sum of two, which is nearly float32. Some rows at a time pass
   all layers, so that what they make stays in the cache. What the gradients of matrices need is laid down on the way, and they are products over all rows at the end. */
#include "tiles.h"

#if defined(__x86_64__) && defined(__linux__)
#include <math.h>

/* Planes of a matrix, 1 or 2; rows that pass together, in whole runs; and all rows. */
typedef struct {
    int64_t planes, rows, all;
} Plan;

/* The next of so many numbers. */
static inline float *take(float **from, int64_t n) {
    float *taken = *from;
    *from += whole(n, TILE);
    return taken;
}

/* Sixteen numbers rounded to bfloat16, and what that leaves of them in their place. */
ON_TILES static inline __m256i plane_of(__m512 *x) {
    const __m256i rounded = (__m256i)_mm512_cvtneps_pbh(*x);
    *x = _mm512_sub_ps(*x, (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(rounded), 16));
    return rounded;
}

ON_TILES static inline __m512i plane_of_pairs(__m512 *a, __m512 *b) {
    const __m512i rounded = rounded_pairs(*a, *b);
    *a = _mm512_sub_ps(*a, (__m512)_mm512_slli_epi32(rounded, 16));
    *b = _mm512_sub_ps(*b, (__m512)_mm512_and_si512(rounded, _mm512_set1_epi32((int)0xffff0000)));
    return rounded;
}

#define NUMBERS (TILE * RUN)

/* Where tile (i, j) of a matrix with so many columns of tiles begins. Tiles on the left of a product are 16 rows of 32 numbers, those on the right 16 pairs of rows of 16. */
static inline int64_t tile(int64_t i, int64_t j, int64_t columns) { return (i * columns + j) * NUMBERS; }

/* x [rows, columns] for the left side, of so many rows in all: planes of tiles. */
ON_TILES static inline void pack(int64_t planes, int64_t rows, int64_t columns, const float *x, int64_t all, uint16_t *to) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j += TILE) {
            uint16_t *at = to + tile(i / TILE, j / RUN, columns / RUN) + i % TILE * RUN + j % RUN;
            __m512 left = _mm512_loadu_ps(x + i * columns + j);
            for (int64_t plane = 0; plane < planes; plane++, at += all * columns)
                _mm256_storeu_si256((__m256i *)at, plane_of(&left));
        }
}

/* x [rows, columns] turned over for the left side: some of its columns, from one on, of all. */
ON_TILES static inline void pack_turned(int64_t planes, int64_t rows, int64_t columns, const float *x, int64_t from, int64_t all, uint16_t *to) {
    for (int64_t i = 0; i < rows; i += RUN)
        for (int64_t j = 0; j < columns; j += TILE) {
            __m512i upper[TILE], lower[TILE];
            for (int64_t r = 0; r < TILE; r++) {
                upper[r] = _mm512_loadu_si512(x + (i + r) * columns + j);
                lower[r] = _mm512_loadu_si512(x + (i + r + TILE) * columns + j);
            }
            turn(upper);
            turn(lower);
            uint16_t *at = to + tile(j / TILE, (from + i) / RUN, all / RUN);
            for (int64_t c = 0; c < TILE; c++) {
                __m512 one = (__m512)upper[c], other = (__m512)lower[c];
                for (int64_t plane = 0; plane < planes; plane++) {
                    const __m256i first = plane_of(&one), second = plane_of(&other);
                    _mm512_storeu_si512(at + plane * all * columns + c * RUN, _mm512_inserti64x4(_mm512_castsi256_si512(first), second, 1));
                }
            }
        }
}

/* x [rows, columns] for the right side: some of its rows, from one on, of all. */
ON_TILES static inline void pack_pairs(int64_t planes, int64_t rows, int64_t columns, const float *x, int64_t from, int64_t all, uint16_t *to) {
    for (int64_t i = 0; i < rows; i += 2)
        for (int64_t j = 0; j < columns; j += TILE) {
            uint16_t *at = to + tile((from + i) / RUN, j / TILE, columns / TILE) + i % RUN * TILE;
            __m512 a = _mm512_loadu_ps(x + i * columns + j), b = _mm512_loadu_ps(x + (i + 1) * columns + j);
            for (int64_t plane = 0; plane < planes; plane++, at += all * columns)
                _mm512_storeu_si512(at, plane_of_pairs(&a, &b));
        }
}

/* x [rows, columns] turned over for the right side: some of its columns, from one on, of all. */
ON_TILES static inline void pack_turned_pairs(int64_t planes, int64_t rows, int64_t columns, const float *x, int64_t from, int64_t all, uint16_t *to) {
    for (int64_t i = 0; i < rows; i += TILE)
        for (int64_t j = 0; j < columns; j += TILE) {
            __m512i block[TILE];
            for (int64_t r = 0; r < TILE; r++)
                block[r] = _mm512_loadu_si512(x + (i + r) * columns + j);
            turn(block);
            for (int64_t c = 0; c < TILE; c += 2) {
                uint16_t *at = to + tile(j / RUN, (from + i) / TILE, all / TILE) + (j % RUN + c) * TILE;
                __m512 a = (__m512)block[c], b = (__m512)block[c + 1];
                for (int64_t plane = 0; plane < planes; plane++, at += all * columns)
                    _mm512_storeu_si512(at, plane_of_pairs(&a, &b));
            }
        }
}

/* Rows of c [.., columns], from one on and in whole runs, = left right + start, a row of numbers or NULL. left has of_left rows. The product of both second planes is below what float32 keeps. */
ON_TILES static inline void multiply(int64_t planes, int64_t from, int64_t rows, int64_t columns, int64_t inner, const uint16_t *left, int64_t of_left, const uint16_t *right, const float *start, float *c) {
    const int64_t lower = tile(1, 0, inner / RUN), left_plane = of_left * inner, right_plane = inner * columns;
    for (int64_t i = from; i < from + rows; i += RUN)
        for (int64_t j = 0; j < columns; j += RUN) {
            const uint16_t *a = left + tile(i / TILE, 0, inner / RUN), *b = right + tile(0, j / TILE, columns / TILE);
            if (start)
                load_sums(start + j, 0);
            else
                clear_sums();
            for (int64_t k = 0; k < inner; k += RUN, a += NUMBERS, b += tile(1, 0, columns / TILE)) {
                add_product(a, a + lower, TILE_BYTES, b, b + NUMBERS, TILE_BYTES);
                if (planes > 1) {
                    add_product(a, a + lower, TILE_BYTES, b + right_plane, b + right_plane + NUMBERS, TILE_BYTES);
                    add_product(a + left_plane, a + left_plane + lower, TILE_BYTES, b, b + NUMBERS, TILE_BYTES);
                }
            }
            store_sums(c + i * columns + j, columns);
        }
}

/* Layers */

/* A run of rows of a layer's matrix [out, in], for the products of forward and of backward. */
ON_TILES static inline void pack_forward(int64_t planes, int64_t row, int64_t in, int64_t out, const float *weight, uint16_t *to) {
    pack_turned_pairs(planes, RUN, in, weight + row * in, row, out, to);
}

ON_TILES static inline void pack_backward(int64_t planes, int64_t row, int64_t in, int64_t out, const float *weight, uint16_t *to) {
    pack_pairs(planes, RUN, in, weight + row * in, row, out, to);
}

/* x [rows, in], right: the matrix turned over -> y [rows, out]. left: room for x. */
ON_TILES static inline void linear(const Plan *p, int64_t in, int64_t out, const float *x, const uint16_t *right, const float *bias, float *y, uint16_t *left) {
    pack(p->planes, p->rows, in, x, p->rows, left);
    multiply(p->planes, 0, p->rows, out, in, left, p->rows, right, bias, y);
}

/* What came into a layer, from row at on of all, for the gradient of its matrix. */
ON_TILES static inline void keep_input(const Plan *p, int64_t columns, const float *x, int64_t at, uint16_t *to) { pack_pairs(p->planes, p->rows, columns, x, at, p->all, to); }

/* to = the sum of the rows of x, or of x times y where y is not NULL. */
ON_TILES static inline void sum_rows(int64_t rows, int64_t columns, const float *x, const float *y, float *to) {
    memset(to, 0, (size_t)columns * sizeof *to);
    for (int64_t i = 0; i < rows * columns; i += columns)
        for (int64_t j = 0; j < columns; j++)
            to[j] += y ? x[i + j] * y[i + j] : x[i + j];
}

/* From the gradient of a layer's output, [rows, out], whose rows from live on are made zeros: turned, what its matrix needs of it; bias, its sum; and of_x, what reaches the input. right:
   the matrix as it is. */
ON_TILES static inline void linear_backward(const Plan *p, int64_t in, int64_t out, int64_t live, float *gradient, const uint16_t *right, int64_t at, uint16_t *turned, float *bias, float *of_x,
                                            uint16_t *left) {
    memset(gradient + live * out, 0, (size_t)((p->rows - live) * out) * sizeof *gradient);
    sum_rows(live, out, gradient, 0, bias);
    pack_turned(p->planes, p->rows, out, gradient, at, p->all, turned);
    linear(p, out, in, gradient, right, 0, of_x, left);
}

/* A run of rows of the gradient of a matrix [out, in], from what came in and what its outputs' gradients were. */
ON_TILES static inline void matrix_gradient(const Plan *p, int64_t row, int64_t in, int64_t out, const uint16_t *turned, const uint16_t *inputs, float *made) {
    multiply(p->planes, row, RUN, in, p->all, turned, out, inputs, 0, made);
}

/* to += more. */
ON_TILES static inline void add(int64_t n, const float *more, float *to) {
    for (int64_t i = 0; i < n; i++)
        to[i] += more[i];
}

/* ReLU in place. */
ON_TILES static inline void relu(int64_t n, float *x) {
    for (int64_t i = 0; i < n; i++)
        x[i] = x[i] > 0 ? x[i] : 0;
}

/* ReLU in place, and where it was positive. */
ON_TILES static inline void keep_positive(int64_t n, float *x, uint16_t *positive) {
    for (int64_t i = 0; i < n; i += TILE) {
        const __m512 all = _mm512_loadu_ps(x + i);
        const __mmask16 there = _mm512_cmp_ps_mask(all, _mm512_setzero_ps(), _CMP_GT_OQ);
        positive[i / TILE] = there;
        _mm512_storeu_ps(x + i, _mm512_maskz_mov_ps(there, all));
    }
}

ON_TILES static inline void where_positive(int64_t n, const uint16_t *positive, float *x) {
    for (int64_t i = 0; i < n; i += TILE)
        _mm512_storeu_ps(x + i, _mm512_maskz_loadu_ps(positive[i / TILE], x + i));
}

/* A row's LayerNorm in place, without weights: root is one over its deviation. */
ON_TILES static inline void normalise(int64_t d, float eps, float *x, float *root) {
    __m512 sum = _mm512_setzero_ps(), squares = sum;
    for (int64_t i = 0; i < d; i += TILE)
        sum = _mm512_add_ps(sum, _mm512_loadu_ps(x + i));
    const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(sum) / (float)d);
    for (int64_t i = 0; i < d; i += TILE) {
        const __m512 off = _mm512_sub_ps(_mm512_loadu_ps(x + i), mean);
        squares = _mm512_fmadd_ps(off, off, squares);
    }
    *root = 1.0f / sqrtf(_mm512_reduce_add_ps(squares) / (float)d + eps);
    for (int64_t i = 0; i < d; i += TILE)
        _mm512_storeu_ps(x + i, _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(x + i), mean), _mm512_set1_ps(*root)));
}

/* The gradient of what was normalised from that of the normalised, hat, times weight, if any. */
ON_TILES static inline void norm_backward(int64_t d, const float *gradient, const float *weight, const float *hat, float root, float *of_x) {
    __m512 sum = _mm512_setzero_ps(), along = sum;
    for (int64_t i = 0; i < d; i += TILE) {
        const __m512 given = _mm512_loadu_ps(gradient + i), g = weight ? _mm512_mul_ps(given, _mm512_loadu_ps(weight + i)) : given;
        _mm512_storeu_ps(of_x + i, g);
        sum = _mm512_add_ps(sum, g);
        along = _mm512_fmadd_ps(g, _mm512_loadu_ps(hat + i), along);
    }
    const float mean = _mm512_reduce_add_ps(sum) / (float)d, slope = _mm512_reduce_add_ps(along) / (float)d;
    for (int64_t i = 0; i < d; i++)
        of_x[i] = root * (of_x[i] - mean - hat[i] * slope);
}
#endif
