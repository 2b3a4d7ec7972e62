/* DMControl's encoder: convolutions of 3 x 3 with ReLU and 32 filters, the first with stride 2, the others with stride
   1; and the gradients of their parameters. An image passes all layers before the next, so that its maps stay in the
   cache. The plain twin is networks.encoders.Convolutions._layers.

   A map is bfloat16 [rows, columns, 32 channels]: a pixel has 64 bytes, as a row of a tile has. Sixteen pixels in a row
   are a left operand as they lie. Pixels are counted through, p = y columns + x. Then a convolution is nine products,
   each of the same pixels shifted by a constant:

       out[p] = sum over taps (i, j) of  in[p + i columns + j] W[i, j]         columns: of the input

             columns = 7
           +---+---+---+---+---+---+---+
           | 0 | 1 | 2 | 3 | 4 | # | # |     #: the window would cross the right border. These two sums of a row are
           +---+---+---+---+---+---+---+        computed and left out.
           | 7 | 8 | 9 |10 |11 | # | # |
           +---+---+---+---+---+---+---+
*/
#include "tiles.h"

#if defined(__x86_64__) && defined(__linux__)
#include "../maps.h"
/* Numbers in two tiles of a right operand, bfloat16 [2][16 pairs of rows][16 columns of 2], or in four tiles of sums,
   float [32][32]. */
#define BLOCK_NUMBERS (BLOCK * BLOCK)

/* Sizes */

/* Blocks of 32 inputs in a row of the first layer's window. Other layers read pixels one by one. */
static inline int64_t row_blocks(const Shape *s) { return (row_numbers(s) + BLOCK - 1) / BLOCK; }

/* Blocks of a layer's weight. */
static inline int64_t weight_blocks(const Shape *s, int64_t layer) { return layer ? TAPS : 3 * row_blocks(s); }

/* Pixels of a layer's output that are computed, the first layer's excepted: up to the last valid one, those left out
   among them. */
static inline int64_t counted_pixels(const Shape *s, int64_t layer) {
    return rows(s, layer) * columns(s, layer - 1) - 2;
}

/* Memory */

/* Pixels that tiles read behind a map. */
#define BEHIND (BLOCK + 2)

/* A map, or a gradient. */
static inline uint16_t *take_pixels(char **from, int64_t n) {
    return take(from, (n + BEHIND) * FILTERS, sizeof(uint16_t));
}

/* First layer's windows

   A window's rows, 3 channels numbers each, are copied to rows of tiles, so that windows count through as pixels do.
   Rows of windows that begin at even rows of the image are apart from those that begin at odd ones:

       window (y, x)          even [rows + 1][columns][32], odd [rows][columns][32], the latter
         row 0:  even[y, x]   for each block of 32 inputs
         row 1:  odd[y, x]
         row 2:  even[y + 1, x]
*/
typedef struct {
    uint16_t *even, *odd; /* [blocks][pixels + BEHIND][32] */
    int64_t even_block, odd_block;
} Windows;

static void take_windows(const Shape *s, char **from, Windows *w) {
    w->even_block = (map_pixels(s, 0) + columns(s, 0) + BEHIND) * BLOCK;
    w->odd_block = (map_pixels(s, 0) + BEHIND) * BLOCK;
    w->even = take(from, row_blocks(s) * w->even_block, sizeof(uint16_t));
    w->odd = take(from, row_blocks(s) * w->odd_block, sizeof(uint16_t));
}

/* Up to 32 numbers, uint8 or bfloat16, as bfloat16. */
AMX_TARGET static inline __m512i load_numbers(const char *from, __mmask32 valid, int64_t pixel_bytes) {
    if (pixel_bytes == 2)
        return _mm512_maskz_loadu_epi16(valid, from);
    const __m256i bytes = _mm256_maskz_loadu_epi8(valid, from);
    const __m512i low = _mm512_cvtepu8_epi32(_mm256_castsi256_si128(bytes)),
                  high = _mm512_cvtepu8_epi32(_mm256_extracti128_si256(bytes, 1));
    return (__m512i)_mm512_cvtne2ps_pbh(_mm512_cvtepi32_ps(high), _mm512_cvtepi32_ps(low));
}

/* image: [height, width, channels], uint8 or bfloat16. */
AMX_TARGET static void copy_windows(const Shape *s, const char *image, const Windows *w) {
    const int64_t n = columns(s, 0), bytes = s->pixel_bytes, step = 2 * s->channels * bytes,
                  row = s->width * s->channels * bytes;
    for (int64_t k = 0; k < row_blocks(s); k++) {
        const int64_t left = row_numbers(s) - k * BLOCK;
        const __mmask32 valid = left < BLOCK ? (1u << left) - 1 : 0xffffffff;
        for (int64_t y = 0; y < 2 * rows(s, 0) + 1; y++) {
            const char *from = image + y * row + k * BLOCK * bytes;
            uint16_t *to = (y % 2 ? w->odd + k * w->odd_block : w->even + k * w->even_block) + y / 2 * n * BLOCK;
            for (int64_t x = 0; x < n; x++)
                _mm512_storeu_si512(to + x * BLOCK, load_numbers(from + x * step, valid, bytes));
        }
    }
}

/* Packed weights, and where pixels go */

/* Packs 16 filters of a weight as right operand: n <= 32 numbers each, every `step` numbers. */
AMX_TARGET static void pack_inputs(const float *weight, int64_t step, int64_t n, float divisor, uint16_t *to) {
    const uint32_t valid = n < BLOCK ? (1u << n) - 1 : 0xffffffff;
    __m512i filters[TILE];
    for (int64_t f = 0; f < TILE; f++, weight += step) {
        const __m512 a = _mm512_maskz_loadu_ps((__mmask16)valid, weight),
                     b = _mm512_maskz_loadu_ps((__mmask16)(valid >> TILE), weight + TILE);
        filters[f] = (__m512i)_mm512_cvtne2ps_pbh(_mm512_div_ps(b, _mm512_set1_ps(divisor)),
                                                  _mm512_div_ps(a, _mm512_set1_ps(divisor)));
    }
    transpose16(filters);
    for (int64_t p = 0; p < TILE; p++)
        _mm512_storeu_si512(to + p * BLOCK, filters[p]);
}

/* Packs a weight [32, 3, 3, channels]. The division of pixels by 255 is folded into the first layer's. */
AMX_TARGET static void pack_weight(const Shape *s, int64_t layer, const float *weight, uint16_t *to) {
    const int64_t blocks = layer ? 1 : row_blocks(s), parts = weight_blocks(s, layer) / blocks,
                  part = layer ? FILTERS : row_numbers(s);
    for (int64_t i = 0; i < parts; i++)
        for (int64_t k = 0; k < blocks; k++)
            for (int64_t half = 0; half < FILTERS; half += TILE, to += TILE * BLOCK)
                pack_inputs(weight + (half * parts + i) * part + k * BLOCK, parts * part,
                            part - k * BLOCK < BLOCK ? part - k * BLOCK : BLOCK, layer ? 1 : 255, to);
}

typedef struct {
    uint16_t *weights[MAX_LAYERS];
    int32_t *places[MAX_LAYERS]; /* of computed pixels in the output */
} Packed;

static void take_packed(const Shape *s, char **from, Packed *packed) {
    for (int64_t layer = 0; layer < s->layers; layer++) {
        packed->weights[layer] = take(from, weight_blocks(s, layer) * BLOCK_NUMBERS, sizeof(uint16_t));
        packed->places[layer] = take(from, layer ? counted_pixels(s, layer) : map_pixels(s, 0), sizeof(int32_t));
    }
}

static void pack_forward(const Shape *s, const float *const *weights, Packed *packed) {
    for (int64_t p = 0; p < map_pixels(s, 0); p++)
        packed->places[0][p] = (int32_t)p;
    for (int64_t layer = 0; layer < s->layers; layer++)
        pack_weight(s, layer, weights[layer], packed->weights[layer]);
    /* A pixel that is left out goes where the next valid one goes, which overwrites it. */
    for (int64_t layer = 1; layer < s->layers; layer++) {
        const int64_t from = columns(s, layer - 1), to = columns(s, layer);
        for (int64_t p = 0; p < counted_pixels(s, layer); p++)
            packed->places[layer][p] = (int32_t)(p / from * to + (p % from < to ? p % from : to));
    }
}

/* Forward */

/* Sums of BLOCK pixels, how many of them are valid, and where they go once they are finished: with bias and ReLU, or,
   where there is a map, where it is not 0. */
typedef struct {
    float *sums;
    int64_t n;
    const int32_t *places;
    const uint16_t *map; /* or NULL */
    uint16_t *to;
    const float *bias; /* where there is no map */
} Finish;

/* ReLU in bfloat16. NaN stays NaN: as integers, negative numbers are up to -128, negative NaNs above. */
AMX_TARGET static inline __m512i relu(__m512i x) {
    return _mm512_maskz_mov_epi16(_mm512_cmpgt_epi16_mask(x, _mm512_set1_epi16(-128)), x);
}

/* A pixel's gradient where the map is not 0. */
AMX_TARGET static inline __m512i masked(__m512i gradient, const uint16_t *map) {
    return _mm512_maskz_mov_epi16(_mm512_test_epi16_mask(_mm512_loadu_si512(map), _mm512_set1_epi16(0x7fff)), gradient);
}

/* Finishes pixels from `from` on, before `to`. */
AMX_TARGET static inline void finish(const Finish *f, int64_t from, int64_t to) {
    for (int64_t p = from; p < to && p < f->n; p++) {
        const float *sums = f->sums + p * FILTERS;
        __m512 a = _mm512_loadu_ps(sums), b = _mm512_loadu_ps(sums + TILE);
        if (!f->map) {
            a = _mm512_add_ps(a, _mm512_loadu_ps(f->bias));
            b = _mm512_add_ps(b, _mm512_loadu_ps(f->bias + TILE));
        }
        const __m512i x = (__m512i)_mm512_cvtne2ps_pbh(b, a);
        _mm512_storeu_si512(f->to + (int64_t)f->places[p] * FILTERS,
                            f->map ? masked(x, f->map + p * FILTERS) : relu(x));
    }
}

/* Adds BLOCK pixels times a block of a weight. */
AMX_TARGET static inline void add_pixels(const uint16_t *in, const uint16_t *weight) {
    add_product(in, in + TILE * FILTERS, TILE_BYTES, weight, weight + TILE * BLOCK, TILE_BYTES);
}

/* What the next image reads, in three pieces: fetched into the cache some LINES at a time, while this one is
   multiplied. */
#define LINES 12
typedef struct {
    const char *at[3], *end[3];
} Ahead;

/* A piece of so many bytes: behind those at `now`, if there is a next image. */
static inline void start_piece(Ahead *ahead, int piece, const void *now, int64_t bytes, int there) {
    ahead->at[piece] = (const char *)now + bytes;
    ahead->end[piece] = ahead->at[piece] + (there ? bytes : 0);
}

static inline void fetch(Ahead *ahead) {
    for (int piece = 0; piece < 3; piece++)
        for (int i = 0; i < LINES && ahead->at[piece] < ahead->end[piece]; i++, ahead->at[piece] += TILE_BYTES)
            __builtin_prefetch(ahead->at[piece], 0, 2);
}

/* A gradient's pixels, n blocks of them, that are transposed into strips [32 filters][STRIP_ROW], each of STRIP pixels
   with those before them. total: the sum of all pixels, [2][16 lanes] as pairs are transposed. */
#define STRIP (8 * BLOCK)
#define STRIP_ROW (STRIP + BLOCK)
typedef struct {
    const uint16_t *gradient;
    int64_t n;
    uint16_t *strips;
    float *total;
} Transposition;

/* Block b of all strips. */
static inline int64_t strip_offset(int64_t b) {
    return b * BLOCK / STRIP * FILTERS * STRIP_ROW + (b * BLOCK % STRIP + BLOCK);
}

/* Transposes 16 filters of block b, if there is one: first half 0, then half 1. */
AMX_TARGET static inline void transpose_half(const Transposition *t, int64_t b, int half) {
    if (b >= t->n)
        return;
    const __m512bh ones = (__m512bh)_mm512_set1_epi16(0x3f80);
    const uint16_t *gradient = t->gradient + b * BLOCK * FILTERS;
    uint16_t *to = t->strips + strip_offset(b);
    if (!half && b * BLOCK % STRIP == 0)
        for (int64_t f = 0; f < FILTERS; f++)
            to[f * STRIP_ROW - 1] = b ? to[(f - FILTERS) * STRIP_ROW + STRIP - 1] : 0;
    __m512i pairs[TILE];
    __m512 sum = _mm512_loadu_ps(t->total + half * TILE);
    for (int64_t r = 0; r < TILE; r++) {
        const __m512i one = _mm512_loadu_si512(gradient + 2 * r * FILTERS),
                      next = _mm512_loadu_si512(gradient + (2 * r + 1) * FILTERS);
        pairs[r] = half ? _mm512_unpackhi_epi16(one, next) : _mm512_unpacklo_epi16(one, next);
        sum = _mm512_dpbf16_ps(sum, (__m512bh)pairs[r], ones);
    }
    _mm512_storeu_ps(t->total + half * TILE, sum);
    transpose16(pairs);
    for (int64_t c = 0; c < TILE; c++)
        _mm512_storeu_si512(to + (4 * half + c / 4 * 8 + c % 4) * STRIP_ROW, pairs[c]);
}

AMX_TARGET static void transpose_all(const Transposition *t) {
    for (int64_t b = 0; b < t->n; b++) {
        transpose_half(t, b, 0);
        transpose_half(t, b, 1);
    }
}

/* in: bfloat16 [.., columns, 32] -> a map; or, with the weight turned and no bias, the gradient of a map. The pixels of
   a block are finished while the next block is multiplied. aside: transposed meanwhile, or NULL. */
AMX_TARGET static inline void convolve(const uint16_t *in, int64_t in_columns, const uint16_t *weight,
                                       const float *bias, int64_t n, const int32_t *places, const uint16_t *map,
                                       uint16_t *out, Ahead *ahead, const Transposition *aside) {
    float sums[2][BLOCK * FILTERS] ALIGNED;
    Finish last = {.n = 0};
    for (int64_t p = 0; p < n; p += BLOCK) {
        float *to = sums[p / BLOCK % 2];
        const uint16_t *w = weight;
        clear_sums();
#pragma GCC unroll 9
        for (int64_t tap = 0; tap < TAPS; tap++, w += BLOCK_NUMBERS) {
            add_pixels(in + (p + tap / 3 * in_columns + tap % 3) * FILTERS, w);
            finish(&last, 4 * tap, 4 * tap + 4);
            if (aside && tap % 5 == 1)
                transpose_half(aside, p / BLOCK, tap / 5);
        }
        fetch(ahead);
        store_sums(to, FILTERS);
        last = (Finish){to, n - p < BLOCK ? n - p : BLOCK, places + p, map ? map + p * FILTERS : NULL, out, bias};
    }
    finish(&last, 0, BLOCK);
}

/* windows -> a map. */
AMX_TARGET static void first_layer(const Shape *s, const Windows *windows, const Packed *packed, const float *bias,
                                   uint16_t *out) {
    const int64_t n = map_pixels(s, 0), row = columns(s, 0) * BLOCK;
    float sums[2][BLOCK * FILTERS] ALIGNED;
    Finish last = {.n = 0};
    for (int64_t p = 0; p < n; p += BLOCK) {
        float *to = sums[p / BLOCK % 2];
        const uint16_t *even = windows->even + p * BLOCK, *odd = windows->odd + p * BLOCK, *w = packed->weights[0];
        const int64_t step = row_blocks(s) * BLOCK_NUMBERS;
        clear_sums();
        for (int64_t k = 0; k < row_blocks(s); k++, w += BLOCK_NUMBERS) {
            add_pixels(even + k * windows->even_block, w);
            finish(&last, k * BLOCK, k * BLOCK + 12);
            add_pixels(odd + k * windows->odd_block, w + step);
            finish(&last, k * BLOCK + 12, k * BLOCK + 24);
            add_pixels(even + k * windows->even_block + row, w + 2 * step);
            finish(&last, k * BLOCK + 24, k * BLOCK + BLOCK);
        }
        store_sums(to, FILTERS);
        last = (Finish){to, n - p < BLOCK ? n - p : BLOCK, packed->places[0] + p, NULL, out, bias};
    }
    finish(&last, 0, BLOCK);
}

/* The map before -> a map. */
AMX_TARGET static void next_layer(const Shape *s, int64_t layer, const uint16_t *in, const Packed *packed,
                                  const float *bias, uint16_t *out, Ahead *ahead) {
    convolve(in, columns(s, layer - 1), packed->weights[layer], bias, counted_pixels(s, layer), packed->places[layer],
             NULL, out, ahead, NULL);
}

/* A thread's memory in forward. */
typedef struct {
    Windows windows;
    uint16_t *maps[2];
} Scratch;

static void take_scratch(const Shape *s, char **from, Scratch *scratch) {
    take_windows(s, from, &scratch->windows);
    for (int i = 0; i < 2; i++)
        scratch->maps[i] = take_pixels(from, map_pixels(s, 0));
}

static int64_t scratch_bytes(const Shape *s) {
    char *end = NULL;
    Scratch scratch;
    take_scratch(s, &end, &scratch);
    return (intptr_t)end;
}

/* In floats, as all sizes that are asked for. */
int64_t forward_workspace(const Shape *s) {
    char *end = NULL;
    Packed packed;
    take_packed(s, &end, &packed);
    return ((intptr_t)end + s->threads * scratch_bytes(s)) / (int64_t)sizeof(float);
}

/* Nothing is kept for backward: maps between layers are computed again. */
int64_t hidden_size(const Shape *s) { return (void)s, 0; }

/* pixels: uint8 or bfloat16 [images, height, width, channels]; weights: float [32, 3, 3, channels] and [32, 3, 3, 32];
   biases: float [32] -> out: bfloat16 [images, rows, columns, 32]. hidden: nothing, see hidden_size. */
AMX_TARGET void forward(const Shape *s, const char *pixels, const float *const *weights, const float *const *biases,
                        char *workspace, const void *hidden, uint16_t *out) {
    Packed packed;
    (void)hidden;
    take_packed(s, &workspace, &packed);
    pack_forward(s, weights, &packed);
    const int64_t last = s->layers - 1, threads = s->threads;
#pragma omp parallel num_threads(threads)
    {
        Scratch scratch;
        char *own = workspace + omp_get_thread_num() * scratch_bytes(s);
        take_scratch(s, &own, &scratch);
        configure_tiles();
#pragma omp for schedule(static)
        for (int64_t image = 0; image < s->images; image++) {
            const char *image_pixels = pixels + image * image_bytes(s);
            uint16_t *image_out = out + image * map_pixels(s, last) * FILTERS, *in = last ? scratch.maps[0] : image_out;
            Ahead ahead = {{0}, {0}};
            start_piece(&ahead, 0, image_pixels, image_bytes(s), image + 1 < s->images);
            copy_windows(s, image_pixels, &scratch.windows);
            first_layer(s, &scratch.windows, &packed, biases[0], in);
            for (int64_t layer = 1; layer < s->layers; layer++) {
                uint16_t *to = layer < last ? scratch.maps[layer % 2] : image_out;
                next_layer(s, layer, in, &packed, biases[layer], to, &ahead);
                in = to;
            }
        }
        release_tiles();
    }
}

/* Backward

   The gradient of a layer's sums lies with the columns of the layer's input, two zeros at the end of a row and two rows
   of zeros before and after all:

           0 0 0 0 0 0 0                      the pixels' order is the input's; the gradient of the input is a
           0 0 0 0 0 0 0                      convolution of this with the weight turned by half
           g g g g g 0 0
           g g g g g 0 0                      the gradient of the weight at tap (i, j) is the sum over p of
           0 0 0 0 0 0 0                      g[p]^T in[p + i columns + j]
           0 0 0 0 0 0 0

   The first layer has no gradient of its input; its gradient lies without zeros. The maps between layers are computed
   again, which takes no longer than to write them in forward and to read them here, and 0.3 MB less for each image. */

/* Zeros before the first pixel of a layer's gradient, in pixels. */
static inline int64_t border(const Shape *s, int64_t layer) { return layer ? 2 * columns(s, layer - 1) + 2 : 0; }

/* Columns in which a layer's gradient lies. */
static inline int64_t pitch(const Shape *s, int64_t layer) { return columns(s, layer ? layer - 1 : 0); }

/* Pixels of a layer's gradient with the zeros in its rows, and blocks of them. */
static inline int64_t gradient_pixels(const Shape *s, int64_t layer) { return rows(s, layer) * pitch(s, layer); }
static inline int64_t gradient_blocks(const Shape *s, int64_t layer) {
    return (gradient_pixels(s, layer) + BLOCK - 1) / BLOCK;
}

/* All pixels of a layer's gradient. */
static inline int64_t laid_pixels(const Shape *s, int64_t layer) {
    return 2 * border(s, layer) + gradient_pixels(s, layer);
}

/* The first layer's gradient has the most pixels. */
static inline int64_t strips_numbers(const Shape *s) {
    return round_up(gradient_blocks(s, 0) * BLOCK, STRIP) / STRIP * FILTERS * STRIP_ROW;
}

/* Sums of a layer: of the gradient of its weight, in blocks, and of its bias. */
static inline int64_t sum_numbers(const Shape *s, int64_t layer) {
    return weight_blocks(s, layer) * BLOCK_NUMBERS + FILTERS;
}

/* Of the layers before. */
static int64_t sums_before(const Shape *s, int64_t layer) {
    int64_t numbers = 0;
    for (int64_t before = 0; before < layer; before++)
        numbers += sum_numbers(s, before);
    return numbers;
}

/* What all threads share: packed weights, and the sums of each group of images. */
typedef struct {
    Packed forward, turned; /* turned: places are of the layer's output in its gradient */
    float *sums;
} Shared;

static void take_shared(const Shape *s, char **from, Shared *shared) {
    take_packed(s, from, &shared->forward);
    for (int64_t layer = 0; layer < s->layers; layer++) {
        shared->turned.weights[layer] = layer ? take(from, TAPS * BLOCK_NUMBERS, sizeof(uint16_t)) : NULL;
        shared->turned.places[layer] = take(from, map_pixels(s, layer), sizeof(int32_t));
    }
    shared->sums = take(from, groups(s) * sums_before(s, s->layers), sizeof(float));
}

/* A thread's memory in backward. */
typedef struct {
    Windows windows;
    uint16_t *maps[MAX_LAYERS], *gradients[MAX_LAYERS], *strips;
} Workspace;

static void take_workspace(const Shape *s, char **from, Workspace *own) {
    int64_t pixels[2] = {0};
    take_windows(s, from, &own->windows);
    for (int64_t layer = 0; layer < s->layers; layer++) {
        own->maps[layer] = layer + 1 < s->layers ? take_pixels(from, map_pixels(s, layer)) : NULL;
        if (pixels[layer % 2] < laid_pixels(s, layer))
            pixels[layer % 2] = laid_pixels(s, layer);
    }
    uint16_t *gradients[2] = {take_pixels(from, pixels[0]), take_pixels(from, pixels[1])};
    for (int64_t layer = 0; layer < s->layers; layer++)
        own->gradients[layer] = gradients[layer % 2];
    own->strips = take(from, strips_numbers(s), sizeof(uint16_t));
}

static int64_t own_bytes(const Shape *s) {
    char *end = NULL;
    Workspace own;
    take_workspace(s, &end, &own);
    return (intptr_t)end;
}

int64_t backward_workspace(const Shape *s) {
    char *end = NULL;
    Shared shared;
    take_shared(s, &end, &shared);
    return ((intptr_t)end + s->threads * own_bytes(s)) / (int64_t)sizeof(float);
}

/* Packs a weight [32, 3, 3, 32] for the gradient of the input: taps in reverse, pairs of filters, channels as
   columns. */
AMX_TARGET static void pack_turned(const float *weight, uint16_t *to) {
    for (int64_t tap = TAPS - 1; tap >= 0; tap--)
        for (int64_t half = 0; half < BLOCK; half += TILE)
            for (int64_t f = 0; f < FILTERS; f += 2, to += BLOCK) {
                const float *w = weight + (f * TAPS + tap) * FILTERS + half;
                _mm512_storeu_si512(to, round_pairs(_mm512_loadu_ps(w), _mm512_loadu_ps(w + TAPS * FILTERS)));
            }
}

static void pack_backward(const Shape *s, const float *const *weights, Shared *shared) {
    pack_forward(s, weights, &shared->forward);
    for (int64_t layer = 0; layer < s->layers; layer++) {
        const int64_t from = columns(s, layer), to = pitch(s, layer);
        if (layer)
            pack_turned(weights[layer], shared->turned.weights[layer]);
        for (int64_t p = 0; p < map_pixels(s, layer); p++)
            shared->turned.places[layer][p] = (int32_t)(border(s, layer) + p / from * to + p % from);
    }
}

/* Zeros around a layer's gradient and at the end of its rows: another layer's was in this memory. */
static void clear_border(const Shape *s, int64_t layer, uint16_t *gradient) {
    const int64_t before = border(s, layer), after = before + gradient_pixels(s, layer);
    const size_t pixel = FILTERS * sizeof *gradient;
    memset(gradient, 0, (size_t)before * pixel);
    memset(gradient + after * FILTERS, 0, (size_t)(before + BEHIND) * pixel);
    if (layer)
        for (int64_t end = before + pitch(s, layer); end <= after; end += pitch(s, layer))
            memset(gradient + (end - 2) * FILTERS, 0, 2 * pixel);
}

/* The gradient of the last layer's sums from that of its output. */
AMX_TARGET static void last_gradient(const uint16_t *gradient, const uint16_t *map, int64_t pixels,
                                     const int32_t *places, uint16_t *to) {
    for (int64_t p = 0; p < pixels; p++)
        _mm512_storeu_si512(to + (int64_t)places[p] * FILTERS,
                            masked(_mm512_loadu_si512(gradient + p * FILTERS), map + p * FILTERS));
}

/* The gradient of the sums of the layer before, while this layer's is transposed. */
AMX_TARGET static void previous_gradient(const Shape *s, int64_t layer, const Packed *turned, const Workspace *own,
                                         Ahead *ahead, const Transposition *aside) {
    clear_border(s, layer - 1, own->gradients[layer - 1]);
    convolve(own->gradients[layer], pitch(s, layer), turned->weights[layer], NULL, map_pixels(s, layer - 1),
             turned->places[layer - 1], own->maps[layer - 1], own->gradients[layer - 1], ahead, aside);
}

/* The lane of a channel in two vectors of interleaved pixels, see pair_pixels. */
static inline int64_t lane_of(int64_t channel) { return channel / 8 * 4 + channel % 4 + channel % 8 / 4 * TILE; }

/* Interleaves pixels of a map or of windows two by two, in place: a product over pixels reads pairs of them. Zeros are
   put behind. Interleaving works within 128 bits, so that the lanes are not in the order of channels. */
AMX_TARGET static void pair_pixels(uint16_t *map, int64_t pixels) {
    memset(map + pixels * FILTERS, 0, BEHIND * FILTERS * sizeof *map);
    for (int64_t p = 0; p < pixels; p += 2) {
        const __m512i a = _mm512_loadu_si512(map + p * FILTERS), b = _mm512_loadu_si512(map + (p + 1) * FILTERS);
        _mm512_storeu_si512(map + p * FILTERS, _mm512_unpacklo_epi16(a, b));
        _mm512_storeu_si512(map + (p + 1) * FILTERS, _mm512_unpackhi_epi16(a, b));
    }
}

/* sums [3][32 filters, 32 lanes] += transposed gradient times pairs of pixels, over n blocks of pixels. The first two
   are products with the same pixels of the gradient, the third one with others. Shifts: 1 to take the pixels from one
   before. */
AMX_TARGET static inline void accumulate(const uint16_t *strips, int64_t n, int64_t shift, const uint16_t *first,
                                         const uint16_t *second, int64_t other_shift, const uint16_t *third,
                                         float *const sums[3]) {
    const int64_t row = STRIP_ROW * sizeof *strips, pair = 2 * FILTERS * sizeof *first, sum = FILTERS * sizeof(float);
    for (int64_t half = 0; half < 2; half++, strips += TILE * STRIP_ROW) {
        const int64_t at = half * TILE * FILTERS;
        COMPILER_BARRIER();
        load_tile(0, sums[0] + at, sum);
        load_tile(1, sums[0] + at + TILE, sum);
        load_tile(2, sums[1] + at, sum);
        load_tile(3, sums[1] + at + TILE, sum);
        load_tile(4, sums[2] + at, sum);
        load_tile(5, sums[2] + at + TILE, sum);
        for (int64_t b = 0; b < n; b++) {
            const uint16_t *a = strips + strip_offset(b);
            const int64_t p = b * BLOCK * FILTERS;
            load_tile(6, a - shift, row);
            load_tile(7, first + p, pair);
            multiply_tiles(0, 6, 7);
            load_tile(7, first + p + BLOCK, pair);
            multiply_tiles(1, 6, 7);
            load_tile(7, second + p, pair);
            multiply_tiles(2, 6, 7);
            load_tile(7, second + p + BLOCK, pair);
            multiply_tiles(3, 6, 7);
            load_tile(6, a - other_shift, row);
            load_tile(7, third + p, pair);
            multiply_tiles(4, 6, 7);
            load_tile(7, third + p + BLOCK, pair);
            multiply_tiles(5, 6, 7);
        }
        store_tile(0, sums[0] + at, sum);
        store_tile(1, sums[0] + at + TILE, sum);
        store_tile(2, sums[1] + at, sum);
        store_tile(3, sums[1] + at + TILE, sum);
        store_tile(4, sums[2] + at, sum);
        store_tile(5, sums[2] + at + TILE, sum);
    }
}

/* Adds an image's part of the gradient of a layer's weight, from the transposed gradient of its sums. The map before
   becomes pairs of pixels. */
AMX_TARGET static void next_layer_sums(const Shape *s, int64_t layer, const Workspace *own, float *sums) {
    const int64_t n = gradient_blocks(s, layer), width = pitch(s, layer);
    pair_pixels(own->maps[layer - 1], map_pixels(s, layer - 1));
    for (int64_t i = 0; i < 3; i++, sums += 3 * BLOCK_NUMBERS) {
        /* Pairs begin at even pixels: an odd shift of the input is an even one and a shift of the gradient. */
        const int64_t odd = i * width % 2;
        const uint16_t *even = own->maps[layer - 1] + (i * width - odd) * FILTERS, *next = even + 2 * FILTERS;
        float *const to[3] = {sums, sums + 2 * BLOCK_NUMBERS, sums + BLOCK_NUMBERS};
        accumulate(own->strips, n, odd, even, next, !odd, odd ? next : even, to);
    }
}

AMX_TARGET static void first_layer_sums(const Shape *s, const Workspace *own, float *sums) {
    const int64_t blocks = row_blocks(s), n = gradient_blocks(s, 0), width = columns(s, 0), shift = width % 2,
                  step = blocks * BLOCK_NUMBERS;
    transpose_all(&(Transposition){own->gradients[0], n, own->strips, sums + 3 * step});
    for (int64_t k = 0; k < blocks; k++, sums += BLOCK_NUMBERS) {
        uint16_t *even = own->windows.even + k * own->windows.even_block,
                 *odd = own->windows.odd + k * own->windows.odd_block;
        float *const to[3] = {sums, sums + step, sums + 2 * step};
        pair_pixels(even, map_pixels(s, 0) + width);
        pair_pixels(odd, map_pixels(s, 0));
        accumulate(own->strips, n, 0, even, odd, shift, even + (width - shift) * FILTERS, to);
    }
}

/* Adds up the groups' sums of a filter and writes the gradients: weight [32, 3, 3, channels], bias [32]. sums: of the
   layer, in the first group. */
static void write_gradients(const Shape *s, int64_t layer, int64_t filter, const float *sums, float *weight,
                            float *bias) {
    const int64_t blocks = layer ? 1 : row_blocks(s), parts = weight_blocks(s, layer) / blocks,
                  part = layer ? FILTERS : row_numbers(s), all = sums_before(s, s->layers);
    for (int64_t block = 0; block < parts * blocks; block++) {
        const float *row = sums + block * BLOCK_NUMBERS + filter * FILTERS;
        float sum[FILTERS] = {0};
        for (int64_t group = 0; group < groups(s); group++)
            for (int64_t lane = 0; lane < FILTERS; lane++)
                sum[lane] += row[group * all + lane];
        for (int64_t c = 0; c < BLOCK; c++) {
            const int64_t k = block % blocks * BLOCK + c;
            if (k < part)
                weight[(filter * parts + block / blocks) * part + k] = sum[lane_of(c)] / (layer ? 1 : 255);
        }
    }
    float sum = 0;
    for (int64_t group = 0; group < groups(s); group++)
        sum += sums[group * all + parts * blocks * BLOCK_NUMBERS + lane_of(filter)];
    bias[filter] = sum;
}

/* An image's part of the gradients: added to the sums of its group. */
AMX_TARGET static void image_sums(const Shape *s, const char *pixels, const uint16_t *out, const uint16_t *gradient,
                                  const float *const *biases, const Shared *shared, const Workspace *own, float *sums,
                                  Ahead *ahead) {
    const int64_t last = s->layers - 1;
    copy_windows(s, pixels, &own->windows);
    if (last)
        first_layer(s, &own->windows, &shared->forward, biases[0], own->maps[0]);
    for (int64_t layer = 1; layer < last; layer++)
        next_layer(s, layer, own->maps[layer - 1], &shared->forward, biases[layer], own->maps[layer], ahead);
    clear_border(s, last, own->gradients[last]);
    last_gradient(gradient, out, map_pixels(s, last), shared->turned.places[last], own->gradients[last]);
    for (int64_t layer = last; layer > 0 && layer >= s->lowest; layer--) {
        float *layer_sums = sums + sums_before(s, layer);
        const Transposition transposition = {own->gradients[layer] + border(s, layer) * FILTERS,
                                             gradient_blocks(s, layer), own->strips,
                                             layer_sums + TAPS * BLOCK_NUMBERS};
        if (layer > s->lowest)
            previous_gradient(s, layer, &shared->turned, own, ahead, &transposition);
        else
            transpose_all(&transposition);
        next_layer_sums(s, layer, own, layer_sums);
    }
    if (s->lowest == 0)
        first_layer_sums(s, own, sums);
}

/* The gradients of weights and biases of the layers from `lowest` on, from that of the output: bfloat16 [images, rows,
   columns, 32]. hidden: nothing. */
AMX_TARGET void backward(const Shape *s, const char *pixels, const void *hidden, const uint16_t *out,
                         const uint16_t *gradient, const float *const *weights, const float *const *biases,
                         char *workspace, float *const *weight_gradients, float *const *bias_gradients) {
    Shared shared;
    (void)hidden;
    take_shared(s, &workspace, &shared);
    pack_backward(s, weights, &shared);
    const int64_t last = s->layers - 1, lowest = s->lowest, threads = s->threads, all = sums_before(s, s->layers),
                  out_size = map_pixels(s, last) * FILTERS;
#pragma omp parallel num_threads(threads)
    {
        Workspace own;
        char *from = workspace + omp_get_thread_num() * own_bytes(s);
        take_workspace(s, &from, &own);
        configure_tiles();
#pragma omp for schedule(static)
        for (int64_t group = 0; group < groups(s); group++) {
            const int64_t end = (group + 1) * IMAGES < s->images ? (group + 1) * IMAGES : s->images;
            float *sums = shared.sums + group * all;
            memset(sums, 0, (size_t)all * sizeof *sums);
            for (int64_t image = group * IMAGES; image < end; image++) {
                const char *own_pixels = pixels + image * image_bytes(s);
                const uint16_t *own_out = out + image * out_size, *own_gradient = gradient + image * out_size;
                const int64_t bytes = out_size * sizeof *out;
                Ahead ahead;
                start_piece(&ahead, 0, own_pixels, image_bytes(s), image + 1 < s->images);
                start_piece(&ahead, 1, own_out, bytes, image + 1 < s->images);
                start_piece(&ahead, 2, own_gradient, bytes, image + 1 < s->images);
                image_sums(s, own_pixels, own_out, own_gradient, biases, &shared, &own, sums, &ahead);
            }
        }
        release_tiles();
#pragma omp for schedule(static)
        for (int64_t i = lowest * FILTERS; i < s->layers * FILTERS; i++) {
            const int64_t layer = i / FILTERS;
            write_gradients(s, layer, i % FILTERS, shared.sums + sums_before(s, layer), weight_gradients[layer],
                            bias_gradients[layer]);
        }
    }
}
#endif
