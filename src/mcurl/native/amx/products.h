/* Linear layers on the matrix units, nearly in float32. The units multiply bfloat16. A matrix is one plane of
   bfloat16, or the sum of two planes, which is nearly float32. Some rows at a time pass all layers, so that
   intermediate results stay in the cache. What the gradients of the weights need is packed on the way; they are
   products over all rows at the end. */
#include "tiles.h"

#if defined(__x86_64__) && defined(__linux__)
#include <math.h>

/* Planes of a matrix, 1 or 2; rows that are computed together, a multiple of BLOCK; and all rows. */
typedef struct {
    int64_t planes, rows, total_rows;
} Layout;

/* Takes the next n numbers of a workspace, rounded up to whole vectors. */
static inline float *allocate(float **from, int64_t n) {
    float *result = *from;
    *from += round_up(n, TILE);
    return result;
}

/* Rounds sixteen numbers to bfloat16 and leaves the rounding error in x: the next plane. */
AMX_TARGET static inline __m256i split_plane(__m512 *x) {
    const __m256i rounded = (__m256i)_mm512_cvtneps_pbh(*x);
    *x = _mm512_sub_ps(*x, (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(rounded), 16));
    return rounded;
}

AMX_TARGET static inline __m512i split_plane_pairs(__m512 *a, __m512 *b) {
    const __m512i rounded = round_pairs(*a, *b);
    *a = _mm512_sub_ps(*a, (__m512)_mm512_slli_epi32(rounded, 16));
    *b = _mm512_sub_ps(*b, (__m512)_mm512_and_si512(rounded, _mm512_set1_epi32((int)0xffff0000)));
    return rounded;
}

#define TILE_NUMBERS (TILE * BLOCK)

/* The offset of tile (i, j) in a packed matrix with so many columns of tiles. A left tile holds 16 rows of 32
   numbers, a right tile 16 pairs of rows of 16 columns. */
static inline int64_t tile_offset(int64_t i, int64_t j, int64_t columns) { return (i * columns + j) * TILE_NUMBERS; }

/* Packs x [rows, columns], of total_rows in all, for the left side of a product: planes of tiles. */
AMX_TARGET static inline void pack_left(int64_t planes, int64_t rows, int64_t columns, const float *x,
                                        int64_t total_rows, uint16_t *to) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j += TILE) {
            uint16_t *at = to + tile_offset(i / TILE, j / BLOCK, columns / BLOCK) + i % TILE * BLOCK + j % BLOCK;
            __m512 left = _mm512_loadu_ps(x + i * columns + j);
            for (int64_t plane = 0; plane < planes; plane++, at += total_rows * columns)
                _mm256_storeu_si256((__m256i *)at, split_plane(&left));
        }
}

/* Packs the transpose of x [rows, columns] for the left side, as columns [from, from + rows) of total_rows. */
AMX_TARGET static inline void pack_left_transposed(int64_t planes, int64_t rows, int64_t columns, const float *x,
                                                   int64_t from, int64_t total_rows, uint16_t *to) {
    for (int64_t i = 0; i < rows; i += BLOCK)
        for (int64_t j = 0; j < columns; j += TILE) {
            __m512i upper[TILE], lower[TILE];
            for (int64_t r = 0; r < TILE; r++) {
                upper[r] = _mm512_loadu_si512(x + (i + r) * columns + j);
                lower[r] = _mm512_loadu_si512(x + (i + r + TILE) * columns + j);
            }
            transpose16(upper);
            transpose16(lower);
            uint16_t *at = to + tile_offset(j / TILE, (from + i) / BLOCK, total_rows / BLOCK);
            for (int64_t c = 0; c < TILE; c++) {
                __m512 one = (__m512)upper[c], other = (__m512)lower[c];
                for (int64_t plane = 0; plane < planes; plane++) {
                    const __m256i lower_half = split_plane(&one), upper_half = split_plane(&other);
                    _mm512_storeu_si512(at + plane * total_rows * columns + c * BLOCK,
                                        _mm512_inserti64x4(_mm512_castsi256_si512(lower_half), upper_half, 1));
                }
            }
        }
}

/* Packs x [rows, columns] for the right side, as rows [from, from + rows) of total_rows. */
AMX_TARGET static inline void pack_right(int64_t planes, int64_t rows, int64_t columns, const float *x, int64_t from,
                                         int64_t total_rows, uint16_t *to) {
    for (int64_t i = 0; i < rows; i += 2)
        for (int64_t j = 0; j < columns; j += TILE) {
            uint16_t *at = to + tile_offset((from + i) / BLOCK, j / TILE, columns / TILE) + i % BLOCK * TILE;
            __m512 a = _mm512_loadu_ps(x + i * columns + j), b = _mm512_loadu_ps(x + (i + 1) * columns + j);
            for (int64_t plane = 0; plane < planes; plane++, at += total_rows * columns)
                _mm512_storeu_si512(at, split_plane_pairs(&a, &b));
        }
}

/* Packs the transpose of x [rows, columns] for the right side, as columns [from, from + rows) of total_rows. */
AMX_TARGET static inline void pack_right_transposed(int64_t planes, int64_t rows, int64_t columns, const float *x,
                                                    int64_t from, int64_t total_rows, uint16_t *to) {
    for (int64_t i = 0; i < rows; i += TILE)
        for (int64_t j = 0; j < columns; j += TILE) {
            __m512i block[TILE];
            for (int64_t r = 0; r < TILE; r++)
                block[r] = _mm512_loadu_si512(x + (i + r) * columns + j);
            transpose16(block);
            for (int64_t c = 0; c < TILE; c += 2) {
                uint16_t *at =
                    to + tile_offset(j / BLOCK, (from + i) / TILE, total_rows / TILE) + (j % BLOCK + c) * TILE;
                __m512 a = (__m512)block[c], b = (__m512)block[c + 1];
                for (int64_t plane = 0; plane < planes; plane++, at += total_rows * columns)
                    _mm512_storeu_si512(at, split_plane_pairs(&a, &b));
            }
        }
}

/* Accumulators += a b, of two planes each. The product of both second planes is left out: it is below float32's
   precision. lower: from the upper tile of a to the lower. a_plane, b_plane: from a plane to the next. A tile is loaded
   right before the first product that needs it. */
AMX_TARGET static inline void add_planes(const uint16_t *a, int64_t lower, int64_t a_plane, const uint16_t *b,
                                         int64_t b_plane) {
    COMPILER_BARRIER();
    load_tile(4, a, TILE_BYTES);
    load_tile(6, b, TILE_BYTES);
    multiply_tiles(0, 4, 6);
    load_tile(7, b + TILE_NUMBERS, TILE_BYTES);
    multiply_tiles(1, 4, 7);
    load_tile(5, a + lower, TILE_BYTES);
    multiply_tiles(2, 5, 6);
    multiply_tiles(3, 5, 7);
    load_tile(6, b + b_plane, TILE_BYTES);
    multiply_tiles(0, 4, 6);
    multiply_tiles(2, 5, 6);
    load_tile(7, b + b_plane + TILE_NUMBERS, TILE_BYTES);
    multiply_tiles(1, 4, 7);
    multiply_tiles(3, 5, 7);
    load_tile(4, a + a_plane, TILE_BYTES);
    load_tile(6, b, TILE_BYTES);
    multiply_tiles(0, 4, 6);
    load_tile(7, b + TILE_NUMBERS, TILE_BYTES);
    multiply_tiles(1, 4, 7);
    load_tile(5, a + a_plane + lower, TILE_BYTES);
    multiply_tiles(2, 5, 6);
    multiply_tiles(3, 5, 7);
}

/* c [.., columns] = left right + initial, for rows [from, from + rows), a multiple of BLOCK. initial: a row of
   numbers, or NULL. left has left_rows rows. */
AMX_TARGET static inline void multiply(int64_t planes, int64_t from, int64_t rows, int64_t columns, int64_t inner,
                                       const uint16_t *left, int64_t left_rows, const uint16_t *right,
                                       const float *initial, float *c) {
    const int64_t lower = tile_offset(1, 0, inner / BLOCK), left_plane = left_rows * inner,
                  right_plane = inner * columns;
    for (int64_t i = from; i < from + rows; i += BLOCK)
        for (int64_t j = 0; j < columns; j += BLOCK) {
            const uint16_t *a = left + tile_offset(i / TILE, 0, inner / BLOCK),
                           *b = right + tile_offset(0, j / TILE, columns / TILE);
            if (initial)
                load_sums(initial + j, 0);
            else
                clear_sums();
            for (int64_t k = 0; k < inner; k += BLOCK, a += TILE_NUMBERS, b += tile_offset(1, 0, columns / TILE)) {
                if (planes > 1)
                    add_planes(a, lower, left_plane, b, right_plane);
                else
                    add_product(a, a + lower, TILE_BYTES, b, b + TILE_NUMBERS, TILE_BYTES);
            }
            store_sums(c + i * columns + j, columns);
        }
}

/* Layers */

/* Packs BLOCK rows of a layer's weight [out, in] for the products of forward, and of backward. */
AMX_TARGET static inline void pack_forward(int64_t planes, int64_t row, int64_t in, int64_t out, const float *weight,
                                           uint16_t *to) {
    pack_right_transposed(planes, BLOCK, in, weight + row * in, row, out, to);
}

AMX_TARGET static inline void pack_backward(int64_t planes, int64_t row, int64_t in, int64_t out, const float *weight,
                                            uint16_t *to) {
    pack_right(planes, BLOCK, in, weight + row * in, row, out, to);
}

/* y [rows, out] = x [rows, in] right + bias. right: the packed transpose of the weight. left: workspace for x. */
AMX_TARGET static inline void linear(const Layout *p, int64_t in, int64_t out, const float *x, const uint16_t *right,
                                     const float *bias, float *y, uint16_t *left) {
    pack_left(p->planes, p->rows, in, x, p->rows, left);
    multiply(p->planes, 0, p->rows, out, in, left, p->rows, right, bias, y);
}

/* Packs a layer's input as rows from number at on, for the gradient of its weight. */
AMX_TARGET static inline void save_input(const Layout *p, int64_t columns, const float *x, int64_t at, uint16_t *to) {
    pack_right(p->planes, p->rows, columns, x, at, p->total_rows, to);
}

/* to = the sum of the rows of x, or of x * y where y is not NULL. */
AMX_TARGET static inline void sum_rows(int64_t rows, int64_t columns, const float *x, const float *y, float *to) {
    memset(to, 0, (size_t)columns * sizeof *to);
    for (int64_t i = 0; i < rows * columns; i += columns)
        for (int64_t j = 0; j < columns; j++)
            to[j] += y ? x[i + j] * y[i + j] : x[i + j];
}

/* Backward of a layer from the gradient of its output, [rows, out]; its rows from valid_rows on become zeros. Writes
   transposed: the packed output gradient, for the gradient of the weight; bias: the bias's gradient; x_gradient: the
   input's gradient. right: the packed weight. */
AMX_TARGET static inline void linear_backward(const Layout *p, int64_t in, int64_t out, int64_t valid_rows,
                                              float *gradient, const uint16_t *right, int64_t at, uint16_t *transposed,
                                              float *bias, float *x_gradient, uint16_t *left) {
    memset(gradient + valid_rows * out, 0, (size_t)((p->rows - valid_rows) * out) * sizeof *gradient);
    sum_rows(valid_rows, out, gradient, 0, bias);
    pack_left_transposed(p->planes, p->rows, out, gradient, at, p->total_rows, transposed);
    linear(p, out, in, gradient, right, 0, x_gradient, left);
}

/* BLOCK rows of the gradient of a weight [out, in], from the packed output gradients and inputs of all rows. */
AMX_TARGET static inline void matrix_gradient(const Layout *p, int64_t row, int64_t in, int64_t out,
                                              const uint16_t *transposed, const uint16_t *inputs,
                                              float *weight_gradient) {
    multiply(p->planes, row, BLOCK, in, p->total_rows, transposed, out, inputs, 0, weight_gradient);
}

/* to += terms. */
AMX_TARGET static inline void add_to(int64_t n, const float *terms, float *to) {
    for (int64_t i = 0; i < n; i++)
        to[i] += terms[i];
}

/* ReLU in place. NaN stays NaN. */
AMX_TARGET static inline void relu(int64_t n, float *x) {
    for (int64_t i = 0; i < n; i++)
        x[i] = x[i] < 0 ? 0 : x[i];
}

/* ReLU in place. positive: a bit for each number, whether it was positive, or NaN, which stays NaN. */
AMX_TARGET static inline void relu_with_mask(int64_t n, float *x, uint16_t *positive) {
    for (int64_t i = 0; i < n; i += TILE) {
        const __m512 total_rows = _mm512_loadu_ps(x + i);
        const __mmask16 positive_lanes = _mm512_cmp_ps_mask(total_rows, _mm512_setzero_ps(), _CMP_NLE_UQ);
        positive[i / TILE] = positive_lanes;
        _mm512_storeu_ps(x + i, _mm512_maskz_mov_ps(positive_lanes, total_rows));
    }
}

AMX_TARGET static inline void apply_mask(int64_t n, const uint16_t *positive, float *x) {
    for (int64_t i = 0; i < n; i += TILE)
        _mm512_storeu_ps(x + i, _mm512_maskz_loadu_ps(positive[i / TILE], x + i));
}

/* LayerNorm of a row in place, without weights. inv_std: one over the standard deviation. */
AMX_TARGET static inline void normalise(int64_t d, float eps, float *x, float *inv_std) {
    __m512 sum = _mm512_setzero_ps(), squares = sum;
    for (int64_t i = 0; i < d; i += TILE)
        sum = _mm512_add_ps(sum, _mm512_loadu_ps(x + i));
    const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(sum) / (float)d);
    for (int64_t i = 0; i < d; i += TILE) {
        const __m512 centred = _mm512_sub_ps(_mm512_loadu_ps(x + i), mean);
        squares = _mm512_fmadd_ps(centred, centred, squares);
    }
    *inv_std = 1.0f / sqrtf(_mm512_reduce_add_ps(squares) / (float)d + eps);
    for (int64_t i = 0; i < d; i += TILE)
        _mm512_storeu_ps(x + i, _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(x + i), mean), _mm512_set1_ps(*inv_std)));
}

/* The gradient of LayerNorm's input from that of its output, with the weights of the norm, or NULL. */
AMX_TARGET static inline void norm_backward(int64_t d, const float *gradient, const float *weight,
                                            const float *normalised, float inv_std, float *x_gradient) {
    __m512 sum = _mm512_setzero_ps(), dot = sum;
    for (int64_t i = 0; i < d; i += TILE) {
        const __m512 value = _mm512_loadu_ps(gradient + i),
                     g = weight ? _mm512_mul_ps(value, _mm512_loadu_ps(weight + i)) : value;
        _mm512_storeu_ps(x_gradient + i, g);
        sum = _mm512_add_ps(sum, g);
        dot = _mm512_fmadd_ps(g, _mm512_loadu_ps(normalised + i), dot);
    }
    const float mean = _mm512_reduce_add_ps(sum) / (float)d, slope = _mm512_reduce_add_ps(dot) / (float)d;
    for (int64_t i = 0; i < d; i++)
        x_gradient[i] = inv_std * (x_gradient[i] - mean - normalised[i] * slope);
}
#endif
