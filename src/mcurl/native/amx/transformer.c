/* The blocks of a Transformer (post-norm, one head; equation 9 of the paper) over short sequences, and all their
   gradients. A few sequences at a time pass all blocks, so that intermediate results stay in the cache. The units
   multiply bfloat16: a matrix is one plane of it, or the sum of two planes. Everything else is float32. The plain
   twin is networks.transformer.Transformer._blocks. */
#include "products.h"

#if defined(__x86_64__) && defined(__linux__)

/* The parameters of one Transformer block, or their gradients. Weights: [out, in]. */
typedef struct {
    float *qkv, *qkv_bias, *norm1, *offset1, *norm2, *offset2, *ffn1, *ffn1_bias, *ffn2, *ffn2_bias;
} BlockParameters;

/* hidden: width of the feed-forward net. planes: 1 or 2. Dropout: where the word of a number is below drop_below,
   the number becomes 0; else it is multiplied by dropout_scale. */
typedef struct {
    int64_t sequences, length, width, hidden, blocks, planes, threads, drop_below;
    float scale, eps, dropout_scale;
} Shape;

/* Sequences that are computed together, and their rows, padded to whole blocks. */
static int64_t group(const Shape *s) { return s->length < BLOCK ? BLOCK / s->length : 1; }
static int64_t group_rows(const Shape *s) { return round_up(group(s) * s->length, BLOCK); }
static int64_t group_count(const Shape *s) { return (s->sequences + group(s) - 1) / group(s); }
static int64_t total_rows(const Shape *s) { return group_count(s) * group_rows(s); }
static Layout layout_of(const Shape *s) { return (Layout){s->planes, group_rows(s), total_rows(s)}; }

/* Matrices packed for the right side of a product. */
typedef struct {
    uint16_t *qkv, *ffn1, *ffn2;
} PackedMatrices;

static float *place_packed(const Shape *s, int64_t qkv_rows, int64_t qkv_columns, int64_t ffn1_rows,
                           int64_t ffn1_columns, int64_t ffn2_rows, int64_t ffn2_columns, float *workspace,
                           PackedMatrices *p) {
    p->qkv = (uint16_t *)allocate(&workspace, s->planes * qkv_rows * qkv_columns / 2);
    p->ffn1 = (uint16_t *)allocate(&workspace, s->planes * ffn1_rows * ffn1_columns / 2);
    p->ffn2 = (uint16_t *)allocate(&workspace, s->planes * ffn2_rows * ffn2_columns / 2);
    return workspace;
}

/* The weights of a block. */
static float *place_weights(const Shape *s, float *workspace, PackedMatrices *p) {
    const int64_t d = s->width, F = s->hidden;
    return place_packed(s, d, 3 * d, d, F, F, d, workspace, p);
}

/* What backward needs of one block: packed inputs of its layers; and queries, keys and values, attention weights,
   normalised numbers, one over their deviations, and a bit for each hidden number of the feed-forward net, whether
   it was positive. */
typedef struct {
    PackedMatrices inputs;
    float *qkv, *alpha, *normalised1, *normalised2, *inv_std1, *inv_std2;
    uint16_t *positive;
} Saved;

static float *place_saved(const Shape *s, float *workspace, Saved *k) {
    const int64_t rows = total_rows(s), d = s->width;
    workspace = place_packed(s, rows, d, rows, d, rows, s->hidden, workspace, &k->inputs);
    k->qkv = allocate(&workspace, rows * 3 * d);
    k->alpha = allocate(&workspace, rows * s->length);
    k->normalised1 = allocate(&workspace, rows * d);
    k->normalised2 = allocate(&workspace, rows * d);
    k->inv_std1 = allocate(&workspace, rows);
    k->inv_std2 = allocate(&workspace, rows);
    k->positive = (uint16_t *)allocate(&workspace, rows * s->hidden / TILE / 2);
    return workspace;
}

/* Packed gradients of the outputs of one block's layers, and each group's part of the gradients of its biases and
   norms. */
typedef struct {
    uint16_t *qkv, *ffn1, *ffn2;
    BlockParameters vectors;
} OutputGradients;

/* Places the gradients of biases and norms one after the other. Returns their size. */
static int64_t place_vectors(const Shape *s, float *at, BlockParameters *b) {
    const int64_t d = s->width;
    *b = (BlockParameters){.qkv_bias = at,
                           .norm1 = at + 3 * d,
                           .offset1 = at + 4 * d,
                           .norm2 = at + 5 * d,
                           .offset2 = at + 6 * d,
                           .ffn2_bias = at + 7 * d,
                           .ffn1_bias = at + 8 * d};
    return 8 * d + s->hidden;
}

static float *place_output_gradients(const Shape *s, float *workspace, OutputGradients *f) {
    const int64_t rows = total_rows(s), d = s->width;
    f->qkv = (uint16_t *)allocate(&workspace, s->planes * rows * 3 * d / 2);
    f->ffn1 = (uint16_t *)allocate(&workspace, s->planes * rows * s->hidden / 2);
    f->ffn2 = (uint16_t *)allocate(&workspace, s->planes * rows * d / 2);
    return workspace + group_count(s) * place_vectors(s, workspace, &f->vectors);
}

/* Scratch memory of a thread, for the rows of a group. left: the left side of a product. h: the numbers that pass
   from block to block. */
typedef struct {
    uint16_t *left;
    float *h, *attended, *branch, *sum, *wide, *transposed, *scores;
} Scratch;

static float *place_scratch(const Shape *s, float *workspace, Scratch *w) {
    const int64_t rows = group_rows(s), d = s->width, widest = 3 * d > s->hidden ? 3 * d : s->hidden;
    w->left = (uint16_t *)allocate(&workspace, s->planes * rows * widest / 2);
    w->h = allocate(&workspace, rows * d);
    w->attended = allocate(&workspace, rows * d);
    w->branch = allocate(&workspace, rows * d);
    w->sum = allocate(&workspace, rows * d);
    w->wide = allocate(&workspace, rows * widest);
    w->transposed = allocate(&workspace, s->length * d);
    w->scores = allocate(&workspace, s->length * s->length);
    return workspace;
}

/* Sizes in floats: what forward saves for backward, and the workspace of each. */
int64_t saved_size(const Shape *s) {
    Saved k;
    return s->blocks * (place_saved(s, 0, &k) - (float *)0);
}

static int64_t scratch_size(const Shape *s) {
    Scratch w;
    return place_scratch(s, 0, &w) - (float *)0;
}

int64_t forward_workspace(const Shape *s) {
    PackedMatrices p;
    return s->blocks * (place_weights(s, 0, &p) - (float *)0) + s->threads * scratch_size(s);
}

int64_t backward_workspace(const Shape *s) {
    OutputGradients f;
    return forward_workspace(s) + s->blocks * (place_output_gradients(s, 0, &f) - (float *)0);
}

/* Small products, row by row in float32 */

/* A matrix whose number (i, j) is at[i * row + j * column]. */
typedef struct {
    const float *at;
    int64_t row, column;
} Matrix;

static inline Matrix row_major(const float *at, int64_t width) { return (Matrix){at, width, 1}; }
static inline Matrix column_major(const float *at, int64_t width) { return (Matrix){at, 1, width}; }

#define MAX_ROWS 8
AMX_TARGET static inline __mmask16 lane_mask(int64_t n) {
    return n >= TILE ? 0xffff : n <= 0 ? 0 : (__mmask16)((1u << n) - 1);
}

/* A block of c = a b: so many rows, and two vectors of columns. */
AMX_TARGET static inline __attribute__((always_inline)) void block_product(const int rows, int64_t columns,
                                                                           int64_t inner, Matrix a, const float *b,
                                                                           int64_t b_row, float *c, int64_t c_row) {
    const __mmask16 left = lane_mask(columns), right = lane_mask(columns - TILE);
    __m512 sums[MAX_ROWS][2] = {{{0}}};
    for (int64_t k = 0; k < inner; k++, b += b_row) {
        const __m512 b0 = _mm512_maskz_loadu_ps(left, b), b1 = _mm512_maskz_loadu_ps(right, b + TILE);
        for (int i = 0; i < rows; i++) {
            const __m512 a_value = _mm512_set1_ps(a.at[i * a.row + k * a.column]);
            sums[i][0] = _mm512_fmadd_ps(a_value, b0, sums[i][0]);
            sums[i][1] = _mm512_fmadd_ps(a_value, b1, sums[i][1]);
        }
    }
    for (int i = 0; i < rows; i++) {
        _mm512_mask_storeu_ps(c + i * c_row, left, sums[i][0]);
        _mm512_mask_storeu_ps(c + i * c_row + TILE, right, sums[i][1]);
    }
}

/* c [rows, columns] = a b, of any size. */
AMX_TARGET static void product(int64_t rows, int64_t columns, int64_t inner, Matrix a, const float *b, int64_t b_row,
                               float *c, int64_t c_row) {
    for (int64_t j = 0; j < columns; j += 2 * TILE) {
        int64_t i = 0;
        for (; i + MAX_ROWS <= rows; i += MAX_ROWS)
            block_product(MAX_ROWS, columns - j, inner, (Matrix){a.at + i * a.row, a.row, a.column}, b + j, b_row,
                          c + i * c_row + j, c_row);
        for (; i < rows; i++)
            block_product(1, columns - j, inner, (Matrix){a.at + i * a.row, a.row, a.column}, b + j, b_row,
                          c + i * c_row + j, c_row);
    }
}

/* to [columns, rows] = the transpose of from [rows, columns]. columns: a multiple of TILE. */
AMX_TARGET static void transpose(int64_t rows, int64_t columns, const float *from, int64_t from_row, float *to) {
    for (int64_t i = 0; i < rows; i += TILE)
        for (int64_t j = 0; j < columns; j += TILE) {
            __m512i block[TILE];
            for (int64_t r = 0; r < TILE; r++)
                block[r] = i + r < rows ? _mm512_loadu_si512(from + (i + r) * from_row + j) : _mm512_setzero_si512();
            transpose16(block);
            for (int64_t c = 0; c < TILE; c++)
                _mm512_mask_storeu_ps(to + (j + c) * rows + i, lane_mask(rows - i), (__m512)block[c]);
        }
}

/* Parts of a block */

/* Dropout of a branch, in place. words: one for each number, or NULL. */
AMX_TARGET static void apply_dropout(const Shape *s, int64_t n, const int16_t *words, float *branch) {
    const __m512i below = _mm512_set1_epi32((int)s->drop_below);
    for (int64_t i = 0; words && i < n; i += TILE) {
        const __m512i word = _mm512_cvtepi16_epi32(_mm256_loadu_si256((const __m256i *)(words + i)));
        _mm512_storeu_ps(branch + i,
                         _mm512_maskz_mul_ps(_mm512_cmpge_epi32_mask(word, below), _mm512_loadu_ps(branch + i),
                                             _mm512_set1_ps(s->dropout_scale)));
    }
}

/* normalised = LayerNorm(x + branch) without weights, and out with weights, for one row. */
AMX_TARGET static void add_and_norm(const Shape *s, const float *x, const float *branch, const float *weight,
                                    const float *offset, float *normalised, float *inv_std, float *out) {
    for (int64_t i = 0; i < s->width; i++)
        normalised[i] = x[i] + branch[i];
    normalise(s->width, s->eps, normalised, inv_std);
    for (int64_t i = 0; i < s->width; i++)
        out[i] = normalised[i] * weight[i] + offset[i];
}

/* The attention weights of a row from its scores, in place. */
AMX_TARGET static void softmax(int64_t n, float *row, float scale, const uint8_t *padded) {
    float largest = -INFINITY, sum = 0;
    for (int64_t u = 0; u < n; u++) {
        /* A large finite number, so that a sequence of nothing but padding gives no NaN. */
        row[u] = row[u] * scale + (padded[u] ? -1e9f : 0.0f);
        largest = row[u] > largest ? row[u] : largest;
    }
    for (int64_t u = 0; u < n; u++)
        sum += row[u] = expf(row[u] - largest);
    for (int64_t u = 0; u < n; u++)
        row[u] /= sum;
}

/* Attention of one sequence: queries, keys and values [length, 3 width] -> alpha [length, length] and branch
   [length, width]. */
AMX_TARGET static void attend(const Shape *s, const float *qkv, const uint8_t *padded, float *alpha, float *branch,
                              const Scratch *w) {
    const int64_t T = s->length, d = s->width;
    transpose(T, d, qkv + d, 3 * d, w->transposed);
    product(T, T, d, row_major(qkv, 3 * d), w->transposed, T, alpha, T);
    for (int64_t t = 0; t < T; t++)
        softmax(T, alpha + t * T, s->scale, padded);
    product(T, d, T, row_major(alpha, T), qkv + 2 * d, 3 * d, branch, d);
}

/* The gradient of qkv from that of the branch. */
AMX_TARGET static void attend_backward(const Shape *s, const float *qkv, const float *alpha, const float *branch,
                                       float *qkv_gradient, const Scratch *w) {
    const int64_t T = s->length, d = s->width;
    transpose(T, d, qkv + 2 * d, 3 * d, w->transposed);
    product(T, T, d, row_major(branch, d), w->transposed, T, w->scores, T);
    for (int64_t t = 0; t < T; t++) {
        float *scores_gradient = w->scores + t * T, dot = 0;
        for (int64_t u = 0; u < T; u++)
            dot += scores_gradient[u] * alpha[t * T + u];
        for (int64_t u = 0; u < T; u++)
            scores_gradient[u] = s->scale * alpha[t * T + u] * (scores_gradient[u] - dot);
    }
    product(T, d, T, row_major(w->scores, T), qkv + d, 3 * d, qkv_gradient, 3 * d);
    product(T, d, T, column_major(w->scores, T), qkv, 3 * d, qkv_gradient + d, 3 * d);
    product(T, d, T, column_major(alpha, T), branch, d, qkv_gradient + 2 * d, 3 * d);
}

/* Some sequences through one block: w->h in place. Their first row is number at of all. words: those of the first
   branch; those of the second lie branch_stride further on. */
AMX_TARGET static void block_forward(const Shape *s, const BlockParameters *p, const PackedMatrices *right,
                                     const Saved *k, int64_t at, int64_t sequences, const uint8_t *padded,
                                     const int16_t *words, int64_t branch_stride, const Scratch *w) {
    const int64_t T = s->length, d = s->width, F = s->hidden, rows = sequences * T;
    const Layout layout = layout_of(s);
    float *qkv = k->qkv + at * 3 * d;
    linear(&layout, d, 3 * d, w->h, right->qkv, p->qkv_bias, qkv, w->left);
    save_input(&layout, d, w->h, at, k->inputs.qkv);
    for (int64_t row = 0; row < rows; row += T)
        attend(s, qkv + row * 3 * d, padded + row, k->alpha + (at + row) * T, w->branch + row * d, w);
    apply_dropout(s, rows * d, words, w->branch);
    for (int64_t row = 0; row < rows; row++)
        add_and_norm(s, w->h + row * d, w->branch + row * d, p->norm1, p->offset1, k->normalised1 + (at + row) * d,
                     k->inv_std1 + at + row, w->attended + row * d);
    linear(&layout, d, F, w->attended, right->ffn1, p->ffn1_bias, w->wide, w->left);
    save_input(&layout, d, w->attended, at, k->inputs.ffn1);
    relu_with_mask(group_rows(s) * F, w->wide, k->positive + at * F / TILE);
    linear(&layout, F, d, w->wide, right->ffn2, p->ffn2_bias, w->branch, w->left);
    save_input(&layout, F, w->wide, at, k->inputs.ffn2);
    apply_dropout(s, rows * d, words ? words + branch_stride : 0, w->branch);
    for (int64_t row = 0; row < rows; row++)
        add_and_norm(s, w->attended + row * d, w->branch + row * d, p->norm2, p->offset2,
                     k->normalised2 + (at + row) * d, k->inv_std2 + at + row, w->h + row * d);
}

/* w->h: on entry the gradient of a block's output, on return that of its input. vectors: where this group's part of
   the gradients of biases and norms goes. */
AMX_TARGET static void block_backward(const Shape *s, const BlockParameters *p, const PackedMatrices *right,
                                      const Saved *k, const OutputGradients *f, const BlockParameters *vectors,
                                      int64_t at, int64_t sequences, const int16_t *words, int64_t branch_stride,
                                      const Scratch *w) {
    const int64_t T = s->length, d = s->width, F = s->hidden, rows = sequences * T;
    const Layout layout = layout_of(s);
    const float *normalised1 = k->normalised1 + at * d, *normalised2 = k->normalised2 + at * d;
    sum_rows(rows, d, w->h, 0, vectors->offset2);
    sum_rows(rows, d, w->h, normalised2, vectors->norm2);
    for (int64_t row = 0; row < rows; row++)
        norm_backward(d, w->h + row * d, p->norm2, normalised2 + row * d, k->inv_std2[at + row], w->sum + row * d);
    memcpy(w->branch, w->sum, (size_t)(rows * d) * sizeof *w->branch);
    apply_dropout(s, rows * d, words ? words + branch_stride : 0, w->branch);
    linear_backward(&layout, F, d, rows, w->branch, right->ffn2, at, f->ffn2, vectors->ffn2_bias, w->wide, w->left);
    apply_mask(group_rows(s) * F, k->positive + at * F / TILE, w->wide);
    linear_backward(&layout, d, F, rows, w->wide, right->ffn1, at, f->ffn1, vectors->ffn1_bias, w->h, w->left);
    add_to(rows * d, w->sum, w->h);
    sum_rows(rows, d, w->h, 0, vectors->offset1);
    sum_rows(rows, d, w->h, normalised1, vectors->norm1);
    for (int64_t row = 0; row < rows; row++)
        norm_backward(d, w->h + row * d, p->norm1, normalised1 + row * d, k->inv_std1[at + row], w->sum + row * d);
    memcpy(w->branch, w->sum, (size_t)(rows * d) * sizeof *w->branch);
    apply_dropout(s, rows * d, words, w->branch);
    for (int64_t row = 0; row < rows; row += T)
        attend_backward(s, k->qkv + (at + row) * 3 * d, k->alpha + (at + row) * T, w->branch + row * d,
                        w->wide + row * 3 * d, w);
    linear_backward(&layout, d, 3 * d, rows, w->wide, right->qkv, at, f->qkv, vectors->qkv_bias, w->h, w->left);
    add_to(rows * d, w->sum, w->h);
}

/* The words of a block's first branch, from a row on. words: [blocks, 2, sequences * length, width]. */
static const int16_t *dropout_words(const Shape *s, const int16_t *words, int64_t block, int64_t row) {
    return words ? words + (2 * block * s->sequences * s->length + row) * s->width : 0;
}

/* The sequences of a group. */
static int64_t sequences_of(const Shape *s, int64_t g) {
    const int64_t left = s->sequences - g * group(s);
    return left < group(s) ? left : group(s);
}

/* Strips of BLOCK rows in a block's three weights together. */
static int64_t strip_count(const Shape *s) { return (4 * s->width + s->hidden) / BLOCK; }

AMX_TARGET static void pack_strip(const Shape *s, int64_t strip,
                                  void (*pack)(int64_t, int64_t, int64_t, int64_t, const float *, uint16_t *),
                                  const BlockParameters *p, const PackedMatrices *to) {
    const int64_t d = s->width, F = s->hidden, row = strip * BLOCK;
    if (row < 3 * d)
        pack(s->planes, row, d, 3 * d, p->qkv, to->qkv);
    else if (row < 3 * d + F)
        pack(s->planes, row - 3 * d, d, F, p->ffn1, to->ffn1);
    else
        pack(s->planes, row - 3 * d - F, F, d, p->ffn2, to->ffn2);
}

AMX_TARGET static void gradient_strip(const Shape *s, int64_t strip, const OutputGradients *f,
                                      const PackedMatrices *inputs, const BlockParameters *gradients) {
    const int64_t d = s->width, F = s->hidden, row = strip * BLOCK;
    const Layout layout = layout_of(s);
    if (row < 3 * d)
        matrix_gradient(&layout, row, d, 3 * d, f->qkv, inputs->qkv, gradients->qkv);
    else if (row < 3 * d + F)
        matrix_gradient(&layout, row - 3 * d, d, F, f->ffn1, inputs->ffn1, gradients->ffn1);
    else
        matrix_gradient(&layout, row - 3 * d - F, F, d, f->ffn2, inputs->ffn2, gradients->ffn2);
}

/* x, out: [sequences, length, width]. padded: [sequences, length]. saved and workspace have saved_size and
   forward_workspace floats: zeros, or uninitialised where the sequences fill whole blocks of rows. */
AMX_TARGET void forward(const Shape *s, const float *x, const uint8_t *padded, const int16_t *words,
                        const BlockParameters *blocks, float *saved, float *workspace, float *out) {
    const int64_t d = s->width, L = s->blocks, threads = s->threads, branch_stride = s->sequences * s->length * d,
                  strips = strip_count(s);
    Saved k[L];
    PackedMatrices right[L];
    for (int64_t l = 0; l < L; l++) {
        saved = place_saved(s, saved, k + l);
        workspace = place_weights(s, workspace, right + l);
    }
#pragma omp parallel num_threads(threads)
    {
        Scratch w;
        place_scratch(s, workspace + omp_get_thread_num() * scratch_size(s), &w);
        configure_tiles();
#pragma omp for schedule(static)
        for (int64_t item = 0; item < strips * L; item++)
            pack_strip(s, item % strips, pack_forward, blocks + item / strips, right + item / strips);
#pragma omp for schedule(static)
        for (int64_t g = 0; g < group_count(s); g++) {
            const int64_t row = g * group(s) * s->length, n = sequences_of(s, g);
            const size_t bytes = (size_t)(n * s->length * d) * sizeof *x;
            memcpy(w.h, x + row * d, bytes);
            for (int64_t l = 0; l < L; l++)
                block_forward(s, blocks + l, right + l, k + l, g * group_rows(s), n, padded + row,
                              dropout_words(s, words, l, row), branch_stride, &w);
            memcpy(out + row * d, w.h, bytes);
        }
        release_tiles();
    }
}

/* The sum of all groups' parts, in the order of the groups. */
static void add_vectors(const Shape *s, const BlockParameters *parts, const BlockParameters *gradients) {
    const int64_t d = s->width, group_stride = 8 * d + s->hidden;
    const struct {
        const float *parts;
        float *gradients;
        int64_t n;
    } vectors[] = {{parts->qkv_bias, gradients->qkv_bias, 3 * d}, {parts->norm1, gradients->norm1, d},
                   {parts->offset1, gradients->offset1, d},       {parts->norm2, gradients->norm2, d},
                   {parts->offset2, gradients->offset2, d},       {parts->ffn1_bias, gradients->ffn1_bias, s->hidden},
                   {parts->ffn2_bias, gradients->ffn2_bias, d}};
    for (int64_t v = 0; v < 7; v++)
        for (int64_t i = 0; vectors[v].gradients && i < vectors[v].n; i++) {
            float sum = 0;
            for (int64_t g = 0; g < group_count(s); g++)
                sum += vectors[v].parts[g * group_stride + i];
            vectors[v].gradients[i] = sum;
        }
}

/* gradient, x_gradient: [sequences, length, width]. saved, words, blocks: of forward. workspace: as forward's, of
   backward_workspace floats. gradients: those of the parameters. Each is one sum over all rows in their order,
   whatever the number of threads. */
AMX_TARGET void backward(const Shape *s, const float *gradient, const int16_t *words, const BlockParameters *blocks,
                         float *saved, float *workspace, float *x_gradient, const BlockParameters *gradients) {
    const int64_t d = s->width, F = s->hidden, L = s->blocks, threads = s->threads,
                  branch_stride = s->sequences * s->length * d, strips = strip_count(s);
    Saved k[L];
    OutputGradients f[L];
    PackedMatrices right[L];
    for (int64_t l = 0; l < L; l++) {
        saved = place_saved(s, saved, k + l);
        workspace = place_output_gradients(s, workspace, f + l);
        workspace = place_weights(s, workspace, right + l);
    }
#pragma omp parallel num_threads(threads)
    {
        Scratch w;
        place_scratch(s, workspace + omp_get_thread_num() * scratch_size(s), &w);
        configure_tiles();
#pragma omp for schedule(static)
        for (int64_t item = 0; item < strips * L; item++)
            pack_strip(s, item % strips, pack_backward, blocks + item / strips, right + item / strips);
#pragma omp for schedule(static)
        for (int64_t g = 0; g < group_count(s); g++) {
            const int64_t row = g * group(s) * s->length, n = sequences_of(s, g);
            const size_t bytes = (size_t)(n * s->length * d) * sizeof *gradient;
            memcpy(w.h, gradient + row * d, bytes);
            for (int64_t l = L - 1; l >= 0; l--) {
                BlockParameters vectors;
                place_vectors(s, f[l].vectors.qkv_bias + g * (8 * d + F), &vectors);
                block_backward(s, blocks + l, right + l, k + l, f + l, &vectors, g * group_rows(s), n,
                               dropout_words(s, words, l, row), branch_stride, &w);
            }
            memcpy(x_gradient + row * d, w.h, bytes);
        }
#pragma omp for schedule(static) nowait
        for (int64_t item = 0; item < strips * L; item++)
            gradient_strip(s, item % strips, f + item / strips, &k[item / strips].inputs, gradients + item / strips);
#pragma omp for
        for (int64_t l = 0; l < L; l++)
            add_vectors(s, &f[l].vectors, gradients + l);
        release_tiles();
    }
}
#endif
