/* A Transformer's blocks (post-norm, one head; equation 9 of the paper) over short sequences, and all their gradients, on the processor's matrix units (AMX). A few sequences at a time
   pass all blocks, so that what they make stays in the cache. The units multiply bfloat16: a matrix is one plane of it, or the sum of two, which is nearly float32. Everything else is
   float32. The plain twin is networks.transformer.Transformer._blocks. */
#include "products.h"

#if defined(__x86_64__) && defined(__linux__)

/* One block's parameters, or their gradients: the matrices [out, in]. */
typedef struct {
    float *qkv, *qkv_bias, *norm1, *offset1, *norm2, *offset2, *ffn1, *ffn1_bias, *ffn2, *ffn2_bias;
} Block;

/* hidden: of the feed-forward net. planes: 1 or 2. Where random words are given, a number of a branch whose word is below drop_below is dropped, and the others are multiplied by kept. */
typedef struct {
    int64_t sequences, length, width, hidden, blocks, planes, threads, drop_below;
    float scale, eps, kept;
} Shape;

/* Sequences that are worked on together, and their rows in whole runs. */
static int64_t group(const Shape *s) { return s->length < RUN ? RUN / s->length : 1; }
static int64_t group_rows(const Shape *s) { return whole(group(s) * s->length, RUN); }
static int64_t groups(const Shape *s) { return (s->sequences + group(s) - 1) / group(s); }
static int64_t all_rows(const Shape *s) { return groups(s) * group_rows(s); }
static Plan plan_of(const Shape *s) { return (Plan){s->planes, group_rows(s), all_rows(s)}; }

/* Matrices on the right of a product, in planes of bfloat16. */
typedef struct {
    uint16_t *qkv, *ffn1, *ffn2;
} Pairs;

static float *pairs_of(const Shape *s, int64_t rows_of_qkv, int64_t columns_of_qkv, int64_t rows_of_ffn1, int64_t columns_of_ffn1, int64_t rows_of_ffn2, int64_t columns_of_ffn2,
                       float *room, Pairs *p) {
    p->qkv = (uint16_t *)take(&room, s->planes * rows_of_qkv * columns_of_qkv / 2);
    p->ffn1 = (uint16_t *)take(&room, s->planes * rows_of_ffn1 * columns_of_ffn1 / 2);
    p->ffn2 = (uint16_t *)take(&room, s->planes * rows_of_ffn2 * columns_of_ffn2 / 2);
    return room;
}

/* The parameters of a block. */
static float *weights_of(const Shape *s, float *room, Pairs *p) {
    const int64_t d = s->width, F = s->hidden;
    return pairs_of(s, d, 3 * d, d, F, F, d, room, p);
}

/* What the gradients need of one block: what came into its matrices, and what is [all rows, columns]. positive: a bit for each number of the feed-forward net's. */
typedef struct {
    Pairs inputs;
    float *qkv, *alpha, *hat1, *hat2, *root1, *root2;
    uint16_t *positive;
} Kept;

static float *kept_of(const Shape *s, float *room, Kept *k) {
    const int64_t rows = all_rows(s), d = s->width;
    room = pairs_of(s, rows, d, rows, d, rows, s->hidden, room, &k->inputs);
    k->qkv = take(&room, rows * 3 * d);
    k->alpha = take(&room, rows * s->length);
    k->hat1 = take(&room, rows * d);
    k->hat2 = take(&room, rows * d);
    k->root1 = take(&room, rows);
    k->root2 = take(&room, rows);
    k->positive = (uint16_t *)take(&room, rows * s->hidden / TILE / 2);
    return room;
}

/* The gradients of what one block's matrices gave, turned over, in planes of bfloat16; and each group's part of those of its vectors. */
typedef struct {
    uint16_t *qkv, *ffn1, *ffn2;
    Block vectors;
} Flow;

/* Where the gradients of the vectors lie, one after the other. Returns how many numbers they are. */
static int64_t vectors_of(const Shape *s, float *at, Block *b) {
    const int64_t d = s->width;
    *b = (Block){.qkv_bias = at, .norm1 = at + 3 * d, .offset1 = at + 4 * d, .norm2 = at + 5 * d, .offset2 = at + 6 * d, .ffn2_bias = at + 7 * d, .ffn1_bias = at + 8 * d};
    return 8 * d + s->hidden;
}

static float *flow_of(const Shape *s, float *room, Flow *f) {
    const int64_t rows = all_rows(s), d = s->width;
    f->qkv = (uint16_t *)take(&room, s->planes * rows * 3 * d / 2);
    f->ffn1 = (uint16_t *)take(&room, s->planes * rows * s->hidden / 2);
    f->ffn2 = (uint16_t *)take(&room, s->planes * rows * d / 2);
    return room + groups(s) * vectors_of(s, room, &f->vectors);
}

/* What a thread works in, for the rows of a group. left: the left side of a product. h: what passes from block to block. */
typedef struct {
    uint16_t *left;
    float *h, *between, *branch, *sum, *wide, *turned, *scores;
} Work;

static float *work_of(const Shape *s, float *room, Work *w) {
    const int64_t rows = group_rows(s), d = s->width, widest = 3 * d > s->hidden ? 3 * d : s->hidden;
    w->left = (uint16_t *)take(&room, s->planes * rows * widest / 2);
    w->h = take(&room, rows * d);
    w->between = take(&room, rows * d);
    w->branch = take(&room, rows * d);
    w->sum = take(&room, rows * d);
    w->wide = take(&room, rows * widest);
    w->turned = take(&room, s->length * d);
    w->scores = take(&room, s->length * s->length);
    return room;
}

/* Numbers of room: what forward keeps for backward, and what each of them works in. */
int64_t kept_room(const Shape *s) {
    Kept k;
    return s->blocks * (kept_of(s, 0, &k) - (float *)0);
}

static int64_t work_room(const Shape *s) {
    Work w;
    return work_of(s, 0, &w) - (float *)0;
}

int64_t forward_room(const Shape *s) {
    Pairs p;
    return s->blocks * (weights_of(s, 0, &p) - (float *)0) + s->threads * work_room(s);
}

int64_t backward_room(const Shape *s) {
    Flow f;
    return forward_room(s) + s->blocks * (flow_of(s, 0, &f) - (float *)0);
}

/* Small products, row by row in float32 */

/* A matrix whose number (i, j) is at[i * row + j * column]. */
typedef struct {
    const float *at;
    int64_t row, column;
} Matrix;

static inline Matrix rows_of(const float *at, int64_t width) { return (Matrix){at, width, 1}; }
static inline Matrix columns_of(const float *at, int64_t width) { return (Matrix){at, 1, width}; }

#define ROWS 8
ON_TILES static inline __mmask16 first(int64_t n) { return n >= TILE ? 0xffff : n <= 0 ? 0 : (__mmask16)((1u << n) - 1); }

/* A block of c = a b: so many rows, and two vectors of columns. */
ON_TILES static inline __attribute__((always_inline)) void block_product(const int rows, int64_t columns, int64_t inner, Matrix a, const float *b, int64_t b_row, float *c, int64_t c_row) {
    const __mmask16 left = first(columns), right = first(columns - TILE);
    __m512 sums[ROWS][2] = {{{0}}};
    for (int64_t k = 0; k < inner; k++, b += b_row) {
        const __m512 b0 = _mm512_maskz_loadu_ps(left, b), b1 = _mm512_maskz_loadu_ps(right, b + TILE);
        for (int i = 0; i < rows; i++) {
            const __m512 of_a = _mm512_set1_ps(a.at[i * a.row + k * a.column]);
            sums[i][0] = _mm512_fmadd_ps(of_a, b0, sums[i][0]);
            sums[i][1] = _mm512_fmadd_ps(of_a, b1, sums[i][1]);
        }
    }
    for (int i = 0; i < rows; i++) {
        _mm512_mask_storeu_ps(c + i * c_row, left, sums[i][0]);
        _mm512_mask_storeu_ps(c + i * c_row + TILE, right, sums[i][1]);
    }
}

/* c [rows, columns] = a b, whatever their sizes. */
ON_TILES static void product(int64_t rows, int64_t columns, int64_t inner, Matrix a, const float *b, int64_t b_row, float *c, int64_t c_row) {
    for (int64_t j = 0; j < columns; j += 2 * TILE) {
        int64_t i = 0;
        for (; i + ROWS <= rows; i += ROWS)
            block_product(ROWS, columns - j, inner, (Matrix){a.at + i * a.row, a.row, a.column}, b + j, b_row, c + i * c_row + j, c_row);
        for (; i < rows; i++)
            block_product(1, columns - j, inner, (Matrix){a.at + i * a.row, a.row, a.column}, b + j, b_row, c + i * c_row + j, c_row);
    }
}

/* to [columns, rows] = from [rows, columns] turned over, the columns in whole tiles. */
ON_TILES static void turn_over(int64_t rows, int64_t columns, const float *from, int64_t from_row, float *to) {
    for (int64_t i = 0; i < rows; i += TILE)
        for (int64_t j = 0; j < columns; j += TILE) {
            __m512i block[TILE];
            for (int64_t r = 0; r < TILE; r++)
                block[r] = i + r < rows ? _mm512_loadu_si512(from + (i + r) * from_row + j) : _mm512_setzero_si512();
            turn(block);
            for (int64_t c = 0; c < TILE; c++)
                _mm512_mask_storeu_ps(to + (j + c) * rows + i, first(rows - i), (__m512)block[c]);
        }
}

/* A block's parts */

/* Drops from a branch, in place. words: one for each number, or NULL. */
ON_TILES static void drop(const Shape *s, int64_t n, const int16_t *words, float *branch) {
    const __m512i below = _mm512_set1_epi32((int)s->drop_below);
    for (int64_t i = 0; words && i < n; i += TILE) {
        const __m512i word = _mm512_cvtepi16_epi32(_mm256_loadu_si256((const __m256i *)(words + i)));
        _mm512_storeu_ps(branch + i, _mm512_maskz_mul_ps(_mm512_cmpge_epi32_mask(word, below), _mm512_loadu_ps(branch + i), _mm512_set1_ps(s->kept)));
    }
}

/* hat = LayerNorm(x + branch) without weights, and out with them, for a row of each. */
ON_TILES static void add_and_norm(const Shape *s, const float *x, const float *branch, const float *weight, const float *offset, float *hat, float *root, float *out) {
    for (int64_t i = 0; i < s->width; i++)
        hat[i] = x[i] + branch[i];
    normalise(s->width, s->eps, hat, root);
    for (int64_t i = 0; i < s->width; i++)
        out[i] = hat[i] * weight[i] + offset[i];
}

/* Attention's weights from its scores, in place. */
ON_TILES static void softmax(int64_t n, float *row, float scale, const uint8_t *padded) {
    float most = -INFINITY, sum = 0;
    for (int64_t u = 0; u < n; u++) {
        /* A large finite number, so that a sequence of nothing but padding gives no NaN. */
        row[u] = row[u] * scale + (padded[u] ? -1e9f : 0.0f);
        most = row[u] > most ? row[u] : most;
    }
    for (int64_t u = 0; u < n; u++)
        sum += row[u] = expf(row[u] - most);
    for (int64_t u = 0; u < n; u++)
        row[u] /= sum;
}

/* One sequence's attention: queries, keys and values [length, 3 width] -> alpha [length, length] and branch [length, width]. */
ON_TILES static void attend(const Shape *s, const float *qkv, const uint8_t *padded, float *alpha, float *branch, const Work *w) {
    const int64_t T = s->length, d = s->width;
    turn_over(T, d, qkv + d, 3 * d, w->turned);
    product(T, T, d, rows_of(qkv, 3 * d), w->turned, T, alpha, T);
    for (int64_t t = 0; t < T; t++)
        softmax(T, alpha + t * T, s->scale, padded);
    product(T, d, T, rows_of(alpha, T), qkv + 2 * d, 3 * d, branch, d);
}

/* The gradient of qkv from that of the branch. */
ON_TILES static void attend_backward(const Shape *s, const float *qkv, const float *alpha, const float *branch, float *of_qkv, const Work *w) {
    const int64_t T = s->length, d = s->width;
    turn_over(T, d, qkv + 2 * d, 3 * d, w->turned);
    product(T, T, d, rows_of(branch, d), w->turned, T, w->scores, T);
    for (int64_t t = 0; t < T; t++) {
        float *of_scores = w->scores + t * T, along = 0;
        for (int64_t u = 0; u < T; u++)
            along += of_scores[u] * alpha[t * T + u];
        for (int64_t u = 0; u < T; u++)
            of_scores[u] = s->scale * alpha[t * T + u] * (of_scores[u] - along);
    }
    product(T, d, T, rows_of(w->scores, T), qkv + d, 3 * d, of_qkv, 3 * d);
    product(T, d, T, columns_of(w->scores, T), qkv, 3 * d, of_qkv + d, 3 * d);
    product(T, d, T, columns_of(alpha, T), branch, d, of_qkv + 2 * d, 3 * d);
}

/* Some sequences, from row at on of what is kept, through one block: w->h in place. words: those of the first branch; the second's lie second further on. */
ON_TILES static void block_forward(const Shape *s, const Block *p, const Pairs *right, const Kept *k, int64_t at, int64_t sequences, const uint8_t *padded, const int16_t *words, int64_t second,
                                   const Work *w) {
    const int64_t T = s->length, d = s->width, F = s->hidden, rows = sequences * T;
    const Plan plan = plan_of(s);
    float *qkv = k->qkv + at * 3 * d;
    linear(&plan, d, 3 * d, w->h, right->qkv, p->qkv_bias, qkv, w->left);
    keep_input(&plan, d, w->h, at, k->inputs.qkv);
    for (int64_t row = 0; row < rows; row += T)
        attend(s, qkv + row * 3 * d, padded + row, k->alpha + (at + row) * T, w->branch + row * d, w);
    drop(s, rows * d, words, w->branch);
    for (int64_t row = 0; row < rows; row++)
        add_and_norm(s, w->h + row * d, w->branch + row * d, p->norm1, p->offset1, k->hat1 + (at + row) * d, k->root1 + at + row, w->between + row * d);
    linear(&plan, d, F, w->between, right->ffn1, p->ffn1_bias, w->wide, w->left);
    keep_input(&plan, d, w->between, at, k->inputs.ffn1);
    keep_positive(group_rows(s) * F, w->wide, k->positive + at * F / TILE);
    linear(&plan, F, d, w->wide, right->ffn2, p->ffn2_bias, w->branch, w->left);
    keep_input(&plan, F, w->wide, at, k->inputs.ffn2);
    drop(s, rows * d, words ? words + second : 0, w->branch);
    for (int64_t row = 0; row < rows; row++)
        add_and_norm(s, w->between + row * d, w->branch + row * d, p->norm2, p->offset2, k->hat2 + (at + row) * d, k->root2 + at + row, w->h + row * d);
}

/* w->h: the gradient of what came out of a block, and then of what came in. vectors: where this group's part of the vectors' gradients goes. */
ON_TILES static void block_backward(const Shape *s, const Block *p, const Pairs *right, const Kept *k, const Flow *f, const Block *vectors, int64_t at, int64_t sequences, const int16_t *words,
                                    int64_t second, const Work *w) {
    const int64_t T = s->length, d = s->width, F = s->hidden, rows = sequences * T;
    const Plan plan = plan_of(s);
    const float *hat1 = k->hat1 + at * d, *hat2 = k->hat2 + at * d;
    sum_rows(rows, d, w->h, 0, vectors->offset2);
    sum_rows(rows, d, w->h, hat2, vectors->norm2);
    for (int64_t row = 0; row < rows; row++)
        norm_backward(d, w->h + row * d, p->norm2, hat2 + row * d, k->root2[at + row], w->sum + row * d);
    memcpy(w->branch, w->sum, (size_t)(rows * d) * sizeof *w->branch);
    drop(s, rows * d, words ? words + second : 0, w->branch);
    linear_backward(&plan, F, d, rows, w->branch, right->ffn2, at, f->ffn2, vectors->ffn2_bias, w->wide, w->left);
    where_positive(group_rows(s) * F, k->positive + at * F / TILE, w->wide);
    linear_backward(&plan, d, F, rows, w->wide, right->ffn1, at, f->ffn1, vectors->ffn1_bias, w->h, w->left);
    add(rows * d, w->sum, w->h);
    sum_rows(rows, d, w->h, 0, vectors->offset1);
    sum_rows(rows, d, w->h, hat1, vectors->norm1);
    for (int64_t row = 0; row < rows; row++)
        norm_backward(d, w->h + row * d, p->norm1, hat1 + row * d, k->root1[at + row], w->sum + row * d);
    memcpy(w->branch, w->sum, (size_t)(rows * d) * sizeof *w->branch);
    drop(s, rows * d, words, w->branch);
    for (int64_t row = 0; row < rows; row += T)
        attend_backward(s, k->qkv + (at + row) * 3 * d, k->alpha + (at + row) * T, w->branch + row * d, w->wide + row * 3 * d, w);
    linear_backward(&plan, d, 3 * d, rows, w->wide, right->qkv, at, f->qkv, vectors->qkv_bias, w->h, w->left);
    add(rows * d, w->sum, w->h);
}

/* The words of a block's first branch from a row on. words: [blocks, 2, sequences * length, width]. */
static const int16_t *words_of(const Shape *s, const int16_t *words, int64_t block, int64_t row) {
    return words ? words + (2 * block * s->sequences * s->length + row) * s->width : 0;
}

/* The sequences of a group. */
static int64_t sequences_of(const Shape *s, int64_t g) {
    const int64_t left = s->sequences - g * group(s);
    return left < group(s) ? left : group(s);
}

/* Runs of rows in a block's three matrices, one after the other. */
static int64_t runs_of(const Shape *s) { return (4 * s->width + s->hidden) / RUN; }

ON_TILES static void pack_run(const Shape *s, int64_t run, void (*pack)(int64_t, int64_t, int64_t, int64_t, const float *, uint16_t *), const Block *p, const Pairs *to) {
    const int64_t d = s->width, F = s->hidden, row = run * RUN;
    if (row < 3 * d)
        pack(s->planes, row, d, 3 * d, p->qkv, to->qkv);
    else if (row < 3 * d + F)
        pack(s->planes, row - 3 * d, d, F, p->ffn1, to->ffn1);
    else
        pack(s->planes, row - 3 * d - F, F, d, p->ffn2, to->ffn2);
}

ON_TILES static void gradient_run(const Shape *s, int64_t run, const Flow *f, const Pairs *inputs, const Block *made) {
    const int64_t d = s->width, F = s->hidden, row = run * RUN;
    const Plan plan = plan_of(s);
    if (row < 3 * d)
        matrix_gradient(&plan, row, d, 3 * d, f->qkv, inputs->qkv, made->qkv);
    else if (row < 3 * d + F)
        matrix_gradient(&plan, row - 3 * d, d, F, f->ffn1, inputs->ffn1, made->ffn1);
    else
        matrix_gradient(&plan, row - 3 * d - F, F, d, f->ffn2, inputs->ffn2, made->ffn2);
}

/* x, out: [sequences, length, width]. padded: [sequences, length]. kept, room: zeros of kept_room and forward_room, or anything where no group has rows that belong to no sequence. */
ON_TILES void forward(const Shape *s, const float *x, const uint8_t *padded, const int16_t *words, const Block *blocks, float *kept, float *room, float *out) {
    const int64_t d = s->width, L = s->blocks, threads = s->threads, second = s->sequences * s->length * d, runs = runs_of(s);
    Kept k[L];
    Pairs right[L];
    for (int64_t l = 0; l < L; l++) {
        kept = kept_of(s, kept, k + l);
        room = weights_of(s, room, right + l);
    }
#pragma omp parallel num_threads(threads)
    {
        Work w;
        work_of(s, room + omp_get_thread_num() * work_room(s), &w);
        configure();
#pragma omp for schedule(static)
        for (int64_t item = 0; item < runs * L; item++)
            pack_run(s, item % runs, pack_forward, blocks + item / runs, right + item / runs);
#pragma omp for schedule(static)
        for (int64_t g = 0; g < groups(s); g++) {
            const int64_t row = g * group(s) * s->length, n = sequences_of(s, g);
            const size_t bytes = (size_t)(n * s->length * d) * sizeof *x;
            memcpy(w.h, x + row * d, bytes);
            for (int64_t l = 0; l < L; l++)
                block_forward(s, blocks + l, right + l, k + l, g * group_rows(s), n, padded + row, words_of(s, words, l, row), second, &w);
            memcpy(out + row * d, w.h, bytes);
        }
        _tile_release();
    }
}

/* The sum of all groups' parts, in their order. */
static void add_vectors(const Shape *s, const Block *parts, const Block *made) {
    const int64_t d = s->width, of_group = 8 * d + s->hidden;
    const struct {
        const float *parts;
        float *made;
        int64_t n;
    } vectors[] = {{parts->qkv_bias, made->qkv_bias, 3 * d},   {parts->norm1, made->norm1, d}, {parts->offset1, made->offset1, d}, {parts->norm2, made->norm2, d},
                   {parts->offset2, made->offset2, d}, {parts->ffn1_bias, made->ffn1_bias, s->hidden}, {parts->ffn2_bias, made->ffn2_bias, d}};
    for (int64_t v = 0; v < 7; v++)
        for (int64_t i = 0; vectors[v].made && i < vectors[v].n; i++) {
            float sum = 0;
            for (int64_t g = 0; g < groups(s); g++)
                sum += vectors[v].parts[g * of_group + i];
            vectors[v].made[i] = sum;
        }
}

/* gradient, of_x: [sequences, length, width]. kept: what forward left there; words and blocks: what it was given. room: as forward's, of backward_room. made: the gradients of the
   parameters. Each number of them is one sum over all rows in their order, whichever thread takes it. */
ON_TILES void backward(const Shape *s, const float *gradient, const int16_t *words, const Block *blocks, float *kept, float *room, float *of_x, const Block *made) {
    const int64_t d = s->width, F = s->hidden, L = s->blocks, threads = s->threads, second = s->sequences * s->length * d, runs = runs_of(s);
    Kept k[L];
    Flow f[L];
    Pairs right[L];
    for (int64_t l = 0; l < L; l++) {
        kept = kept_of(s, kept, k + l);
        room = flow_of(s, room, f + l);
        room = weights_of(s, room, right + l);
    }
#pragma omp parallel num_threads(threads)
    {
        Work w;
        work_of(s, room + omp_get_thread_num() * work_room(s), &w);
        configure();
#pragma omp for schedule(static)
        for (int64_t item = 0; item < runs * L; item++)
            pack_run(s, item % runs, pack_backward, blocks + item / runs, right + item / runs);
#pragma omp for schedule(static)
        for (int64_t g = 0; g < groups(s); g++) {
            const int64_t row = g * group(s) * s->length, n = sequences_of(s, g);
            const size_t bytes = (size_t)(n * s->length * d) * sizeof *gradient;
            memcpy(w.h, gradient + row * d, bytes);
            for (int64_t l = L - 1; l >= 0; l--) {
                Block vectors;
                vectors_of(s, f[l].vectors.qkv_bias + g * (8 * d + F), &vectors);
                block_backward(s, blocks + l, right + l, k + l, f + l, &vectors, g * group_rows(s), n, words_of(s, words, l, row), second, &w);
            }
            memcpy(of_x + row * d, w.h, bytes);
        }
#pragma omp for schedule(static) nowait
        for (int64_t item = 0; item < runs * L; item++)
            gradient_run(s, item % runs, f + item / runs, &k[item / runs].inputs, made + item / runs);
#pragma omp for
        for (int64_t l = 0; l < L; l++)
            add_vectors(s, &f[l].vectors, made + l);
        _tile_release();
    }
}
#endif
