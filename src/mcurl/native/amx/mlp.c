/* SAC's heads: linear layers, two of them hidden with ReLU, and all their gradients; one net, or several with the same
   inputs. Matrices are sums of two planes of bfloat16, nearly float32. Layers are computed transposed, so that the
   weights, which are much larger than the batch, are left operands as they lie, without a transposition:

       y^T [out, rows] = weight [out, in]  x^T [in, rows]            a strip: 32 rows of the weight, packed chunk by
                                                                     chunk in the cache, times the whole batch
             CHUNK                 rows
           +-------+- - -       +--------+
       32  |  -->  |            |   |    |  CHUNK                    ReLU leaves 32 rows of h^T, which are packed at
           +-------+- - -       |   v    |                           once as right operand of the next layer
           |                    +--------+
           | out                |        |

   Backward, g^T of a layer's inputs is weight^T [in, out]  g^T [out, rows], strips of weight^T being columns of the
   weight. The strip's gradient of a weight, g^T [32, rows] h [rows, in], follows while the strip is in the cache. Each
   sum belongs to one strip, so that its order does not depend on threads. The plain twin is networks.heads.mlp. */
#include "products.h"

#if defined(__x86_64__) && defined(__linux__)
#define PLANES 2
/* Inner numbers of a strip that are packed at a time: two planes fit into the first-level cache. */
#define CHUNK (4 * BLOCK)
enum { FIRST, SECOND, LAST, LAYERS };

typedef struct {
    int64_t nets, rows, inputs, hidden, outputs, threads;
} Shape;

/* The layers of a net, or their gradients. Weights: [out, in]. */
typedef struct {
    float *weight, *bias;
} Layer;
typedef struct {
    Layer layers[LAYERS];
} Net;

static inline int64_t padded_rows(const Shape *s) { return round_up(s->rows, BLOCK); }
static inline int64_t padded_inputs(const Shape *s) { return round_up(s->inputs, BLOCK); }
static inline int64_t padded_outputs(const Shape *s) { return round_up(s->outputs, BLOCK); }
static inline int64_t hidden_strips(const Shape *s) { return s->hidden / BLOCK; }

/* Numbers of a float workspace for a packed matrix. */
static inline int64_t packed_size(int64_t numbers) { return PLANES * numbers / 2; }

/* A weight [rows, columns]. */
typedef struct {
    const float *at;
    int64_t rows, columns;
} Matrix;

static inline Matrix weight_of(const Shape *s, const Net *net, int layer) {
    return (Matrix){net->layers[layer].weight, layer == LAST ? s->outputs : s->hidden,
                    layer == FIRST ? s->inputs : s->hidden};
}

/* Sixteen numbers of a row; where not all of them are there (`whole` is 0), zeros behind the last row and column. */
AMX_TARGET static inline __m512 load(const Matrix *m, int whole, int64_t row, int64_t column) {
    const float *at = m->at + row * m->columns + column;
    if (whole)
        return _mm512_loadu_ps(at);
    const int64_t left = row < m->rows ? m->columns - column : 0;
    return _mm512_maskz_loadu_ps(left >= TILE ? 0xffff : left > 0 ? (__mmask16)((1 << left) - 1) : 0, at);
}

/* Both planes of a row of a left tile. */
AMX_TARGET static inline void store_planes(__m512 a, __m512 b, uint16_t *to) {
    const __m512i upper = (__m512i)_mm512_cvtne2ps_pbh(b, a);
    const __m512i first = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(upper)),
                  second = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(upper, 1));
    a = _mm512_sub_ps(a, (__m512)_mm512_slli_epi32(first, 16));
    b = _mm512_sub_ps(b, (__m512)_mm512_slli_epi32(second, 16));
    _mm512_storeu_si512(to, upper);
    _mm512_storeu_si512(to + BLOCK * CHUNK, (__m512i)_mm512_cvtne2ps_pbh(b, a));
}

/* The tile of a chunk with 16 rows from `row` on and 32 columns from `column` on. */
static inline int64_t chunk_tile(int64_t row, int64_t column) {
    return tile_offset(row / TILE, column / BLOCK, CHUNK / BLOCK);
}

/* Packs rows [row, row + BLOCK) of n columns, a chunk. What is packed next is fetched: the next chunk of the rows, or
   the first one of the next rows. */
AMX_TARGET static inline void pack_chunk(const Matrix *m, int whole, int64_t row, int64_t column, int64_t n,
                                         uint16_t *to) {
    const int64_t ahead = column + n < m->columns ? CHUNK : BLOCK * m->columns - column;
    for (int64_t r = 0; r < BLOCK; r++)
        for (int64_t j = 0; j < n; j += BLOCK) {
            const float *next = m->at + (row + r) * m->columns + column + j + ahead;
            __builtin_prefetch(next, 0, 2);
            __builtin_prefetch(next + TILE, 0, 2);
            store_planes(load(m, whole, row + r, column + j), load(m, whole, row + r, column + j + TILE),
                         to + chunk_tile(r, j) + r % TILE * BLOCK);
        }
}

/* Packs columns [column, column + BLOCK) of n rows, transposed. */
AMX_TARGET static inline void pack_chunk_transposed(const Matrix *m, int whole, int64_t row, int64_t column, int64_t n,
                                                    uint16_t *to) {
    for (int64_t r = 0; r < n; r += BLOCK)
        for (int64_t j = 0; j < BLOCK; j += TILE) {
            __m512i upper[TILE], lower[TILE];
            for (int64_t i = 0; i < TILE; i++) {
                upper[i] = (__m512i)load(m, whole, row + r + i, column + j);
                lower[i] = (__m512i)load(m, whole, row + r + i + TILE, column + j);
            }
            transpose16(upper);
            transpose16(lower);
            for (int64_t i = 0; i < TILE; i++)
                store_planes((__m512)upper[i], (__m512)lower[i], to + chunk_tile(j, r) + i * BLOCK);
        }
}

/* strip [BLOCK, rows] = or += rows [from, from + BLOCK) of the weight, or of its transpose, times the packed right
   operand, of `inner` rows. chunk: workspace. */
AMX_TARGET static void multiply_strip(const Shape *s, const Matrix *m, int transposed, int64_t from, int64_t inner,
                                      const uint16_t *right, int add, uint16_t *chunk, float *strip) {
    const int64_t rows = padded_rows(s), plane = inner * rows;
    for (int64_t k = 0; k < inner; k += CHUNK) {
        const int64_t n = inner - k < CHUNK ? inner - k : CHUNK;
        const int whole = transposed ? k + n <= m->rows && from + BLOCK <= m->columns
                                     : from + BLOCK <= m->rows && k + n <= m->columns;
        if (transposed && whole)
            pack_chunk_transposed(m, 1, k, from, n, chunk);
        else if (transposed)
            pack_chunk_transposed(m, 0, k, from, n, chunk);
        else if (whole)
            pack_chunk(m, 1, from, k, n, chunk);
        else
            pack_chunk(m, 0, from, k, n, chunk);
        for (int64_t j = 0; j < rows; j += BLOCK) {
            const uint16_t *b = right + tile_offset(k / BLOCK, j / TILE, rows / TILE);
            if (k || add)
                load_sums(strip + j, rows);
            else
                clear_sums();
            for (int64_t i = 0; i < n; i += BLOCK, b += tile_offset(1, 0, rows / TILE))
                add_planes(chunk + chunk_tile(0, i), chunk_tile(TILE, 0), BLOCK * CHUNK, b, plane);
            store_sums(strip + j, rows);
        }
    }
}

/* Packs a strip of a transposed matrix, rows [from, from + BLOCK) of `hidden`, as right operand of a next layer. */
AMX_TARGET static void pack_strip(const Shape *s, const float *strip, int64_t from, uint16_t *to) {
    pack_right(PLANES, BLOCK, padded_rows(s), strip, from, s->hidden, to);
}

/* Copies rows of `columns` numbers to padded rows. */
static void pad(int64_t rows, int64_t columns, const float *from, int64_t padded_rows, int64_t padded_columns,
                float *to) {
    memset(to, 0, (size_t)(padded_rows * padded_columns) * sizeof *to);
    for (int64_t row = 0; row < rows; row++)
        memcpy(to + row * padded_columns, from + row * columns, (size_t)columns * sizeof *to);
}

/* Forward */

/* Of each thread: a chunk, and a strip. */
typedef struct {
    uint16_t *chunk;
    float *strip;
} Scratch;

static float *place_scratch(const Shape *s, float *workspace, Scratch *w) {
    w->chunk = (uint16_t *)allocate(&workspace, packed_size(BLOCK * CHUNK));
    w->strip = allocate(&workspace, BLOCK * padded_rows(s));
    return workspace;
}

static int64_t scratch_size(const Shape *s) {
    Scratch w;
    return place_scratch(s, 0, &w) - (float *)0;
}

/* The transposed inputs and, of all nets, hidden layers, packed for the right side. */
typedef struct {
    float *padded;
    uint16_t *inputs, *hidden[2];
} Forward;

static float *place_forward(const Shape *s, float *workspace, Forward *f) {
    f->padded = allocate(&workspace, padded_rows(s) * padded_inputs(s));
    f->inputs = (uint16_t *)allocate(&workspace, packed_size(padded_rows(s) * padded_inputs(s)));
    for (int i = 0; i < 2; i++)
        f->hidden[i] = (uint16_t *)allocate(&workspace, packed_size(s->nets * padded_rows(s) * s->hidden));
    return workspace;
}

/* In floats, as all sizes that are asked for. */
int64_t forward_workspace(const Shape *s) {
    Forward f;
    return place_forward(s, 0, &f) - (float *)0 + s->threads * scratch_size(s);
}

/* Both hidden layers of all nets, transposed: [2, nets, hidden, rows]. */
int64_t saved_size(const Shape *s) { return 2 * s->nets * s->hidden * padded_rows(s); }

static inline int64_t saved_strip(const Shape *s, int layer, int64_t net, int64_t strip) {
    return ((layer * s->nets + net) * s->hidden + strip * BLOCK) * padded_rows(s);
}

/* Where the packed hidden layer of a net begins. */
static inline int64_t hidden_of(const Shape *s, int64_t net) { return net * PLANES * padded_rows(s) * s->hidden; }

/* ReLU of strip [BLOCK, rows] + bias, in place. NaN stays NaN. */
AMX_TARGET static void relu_strip(const Shape *s, const float *bias, float *strip) {
    for (int64_t r = 0; r < BLOCK; r++)
        for (int64_t j = 0; j < padded_rows(s); j += TILE, strip += TILE)
            _mm512_storeu_ps(strip, _mm512_max_ps(_mm512_setzero_ps(),
                                                  _mm512_add_ps(_mm512_loadu_ps(strip), _mm512_set1_ps(bias[r]))));
}

/* x: [rows, inputs]. saved: saved_size floats, or NULL -> out: [nets, rows, outputs]. */
AMX_TARGET void forward(const Shape *s, const float *x, const Net *nets, float *saved, float *workspace, float *out) {
    const int64_t threads = s->threads, rows = padded_rows(s), inputs = padded_inputs(s), strips = hidden_strips(s),
                  out_strips = padded_outputs(s) / BLOCK;
    Forward f;
    workspace = place_forward(s, workspace, &f);
    pad(s->rows, s->inputs, x, rows, inputs, f.padded);
    pack_right_transposed(PLANES, rows, inputs, f.padded, 0, rows, f.inputs);
#pragma omp parallel num_threads(threads)
    {
        Scratch w;
        place_scratch(s, workspace + omp_get_thread_num() * scratch_size(s), &w);
        configure_tiles();
        for (int layer = FIRST; layer < LAST; layer++) {
#pragma omp for schedule(static)
            for (int64_t item = 0; item < s->nets * strips; item++) {
                const int64_t net = item / strips, strip = item % strips;
                const Matrix m = weight_of(s, nets + net, layer);
                float *h = saved ? saved + saved_strip(s, layer, net, strip) : w.strip;
                multiply_strip(s, &m, 0, strip * BLOCK, layer == FIRST ? inputs : s->hidden,
                               layer == FIRST ? f.inputs : f.hidden[FIRST] + hidden_of(s, net), 0, w.chunk, h);
                relu_strip(s, nets[net].layers[layer].bias + strip * BLOCK, h);
                pack_strip(s, h, strip * BLOCK, f.hidden[layer] + hidden_of(s, net));
            }
        }
#pragma omp for schedule(static)
        for (int64_t item = 0; item < s->nets * out_strips; item++) {
            const int64_t net = item / out_strips, from = item % out_strips * BLOCK;
            const Matrix m = weight_of(s, nets + net, LAST);
            multiply_strip(s, &m, 0, from, s->hidden, f.hidden[SECOND] + hidden_of(s, net), 0, w.chunk, w.strip);
            for (int64_t i = 0; i < BLOCK && from + i < s->outputs; i++)
                for (int64_t row = 0; row < s->rows; row++)
                    out[(net * s->rows + row) * s->outputs + from + i] =
                        w.strip[i * rows + row] + nets[net].layers[LAST].bias[from + i];
        }
        release_tiles();
    }
}

/* Backward */

/* Of each thread, in addition: a strip of gradients packed for the left side, a strip of a hidden layer for the right
   side, and a part of the gradient of a weight, with few inputs or few outputs. */
typedef struct {
    Scratch own;
    uint16_t *left, *right;
    float *part;
} BackwardScratch;

static float *place_backward_scratch(const Shape *s, float *workspace, BackwardScratch *w) {
    workspace = place_scratch(s, workspace, &w->own);
    w->left = (uint16_t *)allocate(&workspace, packed_size(BLOCK * padded_rows(s)));
    w->right = (uint16_t *)allocate(&workspace, packed_size(BLOCK * padded_rows(s)));
    w->part = allocate(&workspace, BLOCK * (padded_inputs(s) + padded_outputs(s)));
    return workspace;
}

static int64_t backward_scratch_size(const Shape *s) {
    BackwardScratch w;
    return place_backward_scratch(s, 0, &w) - (float *)0;
}

/* Packed: for the right side, the inputs, the first hidden layers, and the transposed gradients of all layers' sums;
   for the left side, the transposed gradients of the outputs. */
typedef struct {
    float *padded;
    uint16_t *inputs, *hidden, *gradients[LAYERS], *out_left;
} Backward;

static float *place_backward(const Shape *s, float *workspace, Backward *b) {
    const int64_t rows = padded_rows(s), inputs = padded_inputs(s), outputs = padded_outputs(s);
    b->padded = allocate(&workspace, rows * (inputs > outputs ? inputs : outputs));
    b->inputs = (uint16_t *)allocate(&workspace, packed_size(rows * inputs));
    b->hidden = (uint16_t *)allocate(&workspace, packed_size(s->nets * rows * s->hidden));
    for (int layer = FIRST; layer < LAYERS; layer++)
        b->gradients[layer] =
            (uint16_t *)allocate(&workspace, packed_size(s->nets * rows * (layer == LAST ? outputs : s->hidden)));
    b->out_left = (uint16_t *)allocate(&workspace, packed_size(s->nets * rows * outputs));
    return workspace;
}

int64_t backward_workspace(const Shape *s) {
    Backward b;
    return place_backward(s, 0, &b) - (float *)0 + s->threads * backward_scratch_size(s);
}

/* Where the packed gradient of a net's outputs begins. */
static inline int64_t outputs_of(const Shape *s, int64_t net) {
    return net * PLANES * padded_rows(s) * padded_outputs(s);
}

/* Zeros where the layer's output h is not positive. */
AMX_TARGET static void mask_strip(const Shape *s, const float *h, float *strip) {
    for (int64_t i = 0; i < BLOCK * padded_rows(s); i += TILE) {
        const __mmask16 kept = _mm512_cmp_ps_mask(_mm512_loadu_ps(h + i), _mm512_setzero_ps(), _CMP_NLE_UQ);
        _mm512_storeu_ps(strip + i, _mm512_maskz_loadu_ps(kept, strip + i));
    }
}

/* A row's sum over the batch. */
AMX_TARGET static float sum_row(const Shape *s, const float *row) {
    __m512 sum = _mm512_setzero_ps();
    for (int64_t j = 0; j < padded_rows(s); j += TILE)
        sum = _mm512_add_ps(sum, _mm512_loadu_ps(row + j));
    return _mm512_reduce_add_ps(sum);
}

/* What all strips need: inputs (of rows), and gradients of the outputs with those of their biases. */
AMX_TARGET static void pack_ends(const Shape *s, const float *x, const float *gradient, const Net *gradients,
                                 const Backward *b) {
    const int64_t rows = padded_rows(s), outputs = padded_outputs(s);
    pad(s->rows, s->inputs, x, rows, padded_inputs(s), b->padded);
    pack_right(PLANES, rows, padded_inputs(s), b->padded, 0, rows, b->inputs);
    for (int64_t net = 0; net < s->nets; net++, gradient += s->rows * s->outputs) {
        pad(s->rows, s->outputs, gradient, rows, outputs, b->padded);
        pack_right_transposed(PLANES, rows, outputs, b->padded, 0, rows, b->gradients[LAST] + outputs_of(s, net));
        pack_left_transposed(PLANES, rows, outputs, b->padded, 0, rows, b->out_left + outputs_of(s, net));
        if (gradients)
            sum_rows(s->rows, s->outputs, gradient, 0, gradients[net].layers[LAST].bias);
    }
}

/* A strip's gradient of its sums: that of its outputs where they are positive. It is packed for the layer before. */
AMX_TARGET static void strip_gradient(const Shape *s, int layer, const Net *net, int64_t from, const float *h,
                                      const uint16_t *right, uint16_t *packed, const Scratch *w) {
    const Matrix m = weight_of(s, net, layer + 1);
    multiply_strip(s, &m, 1, from, layer + 1 == LAST ? padded_outputs(s) : s->hidden, right, 0, w->chunk, w->strip);
    mask_strip(s, h, w->strip);
    pack_strip(s, w->strip, from, packed);
}

/* The gradients of a strip's rows of the weight and of its biases. right: the packed inputs of the layer, columns of
   them padded. */
AMX_TARGET static void parameter_gradients(const Shape *s, int64_t from, int64_t columns, const uint16_t *right,
                                           const Layer *gradients, const BackwardScratch *w) {
    const int64_t rows = padded_rows(s), padded = round_up(columns, BLOCK);
    float *to = gradients->weight + from * columns;
    for (int64_t r = 0; r < BLOCK; r++)
        gradients->bias[from + r] = sum_row(s, w->own.strip + r * rows);
    pack_left(PLANES, BLOCK, rows, w->own.strip, BLOCK, w->left);
    multiply(PLANES, 0, BLOCK, padded, rows, w->left, BLOCK, right, 0, padded == columns ? to : w->part);
    for (int64_t r = 0; padded != columns && r < BLOCK; r++)
        memcpy(to + r * columns, w->part + r * padded, (size_t)columns * sizeof *to);
}

/* The columns of the last weight's gradient that belong to a strip of its inputs, h. */
AMX_TARGET static void last_gradient(const Shape *s, int64_t from, const float *h, const uint16_t *left, float *weight,
                                     const BackwardScratch *w) {
    const int64_t rows = padded_rows(s), outputs = padded_outputs(s);
    pack_right_transposed(PLANES, BLOCK, rows, h, 0, BLOCK, w->right);
    multiply(PLANES, 0, outputs, BLOCK, rows, left, outputs, w->right, 0, w->part);
    for (int64_t i = 0; i < s->outputs; i++)
        memcpy(weight + i * s->hidden + from, w->part + i * BLOCK, BLOCK * sizeof *weight);
}

/* gradient: [nets, rows, outputs]. x, nets, saved: of forward. x_gradient: [rows, inputs], or NULL. gradients: those of
   the parameters, or NULL. */
AMX_TARGET void backward(const Shape *s, const float *gradient, const float *x, const Net *nets, const float *saved,
                         float *workspace, float *x_gradient, const Net *gradients) {
    const int64_t threads = s->threads, rows = padded_rows(s), strips = hidden_strips(s),
                  in_strips = padded_inputs(s) / BLOCK;
    Backward b;
    workspace = place_backward(s, workspace, &b);
    pack_ends(s, x, gradient, gradients, &b);
#pragma omp parallel num_threads(threads)
    {
        BackwardScratch w;
        place_backward_scratch(s, workspace + omp_get_thread_num() * backward_scratch_size(s), &w);
        configure_tiles();
#pragma omp for schedule(static)
        for (int64_t item = 0; item < (gradients ? s->nets * strips : 0); item++) {
            const int64_t net = item / strips, strip = item % strips;
            pack_right_transposed(PLANES, BLOCK, rows, saved + saved_strip(s, FIRST, net, strip), strip * BLOCK,
                                  s->hidden, b.hidden + hidden_of(s, net));
        }
#pragma omp for schedule(static)
        for (int64_t item = 0; item < s->nets * strips; item++) {
            const int64_t net = item / strips, strip = item % strips, from = strip * BLOCK;
            const float *h = saved + saved_strip(s, SECOND, net, strip);
            strip_gradient(s, SECOND, nets + net, from, h, b.gradients[LAST] + outputs_of(s, net),
                           b.gradients[SECOND] + hidden_of(s, net), &w.own);
            if (gradients) {
                const Layer *layers = gradients[net].layers;
                parameter_gradients(s, from, s->hidden, b.hidden + hidden_of(s, net), layers + SECOND, &w);
                last_gradient(s, from, h, b.out_left + outputs_of(s, net), layers[LAST].weight, &w);
            }
        }
#pragma omp for schedule(static)
        for (int64_t item = 0; item < s->nets * strips; item++) {
            const int64_t net = item / strips, strip = item % strips, from = strip * BLOCK;
            strip_gradient(s, FIRST, nets + net, from, saved + saved_strip(s, FIRST, net, strip),
                           b.gradients[SECOND] + hidden_of(s, net), b.gradients[FIRST] + hidden_of(s, net), &w.own);
            if (gradients)
                parameter_gradients(s, from, s->inputs, b.inputs, gradients[net].layers + FIRST, &w);
        }
#pragma omp for schedule(static)
        for (int64_t strip = 0; strip < (x_gradient ? in_strips : 0); strip++) {
            for (int64_t net = 0; net < s->nets; net++) {
                const Matrix m = weight_of(s, nets + net, FIRST);
                multiply_strip(s, &m, 1, strip * BLOCK, s->hidden, b.gradients[FIRST] + hidden_of(s, net), net > 0,
                               w.own.chunk, w.own.strip);
            }
            for (int64_t i = strip * BLOCK; i < s->inputs && i < (strip + 1) * BLOCK; i++)
                for (int64_t row = 0; row < s->rows; row++)
                    x_gradient[row * s->inputs + i] = w.own.strip[(i - strip * BLOCK) * rows + row];
        }
        release_tiles();
    }
}
#endif
