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
#define FILTERS 32
#define TAPS 9
#define MAX_LAYERS 16
/* Numbers in two tiles of a right operand, bfloat16 [2][16 pairs of rows][16 columns of 2], or in four tiles of sums,
   float [32][32]. */
#define BLOCK_NUMBERS (BLOCK * BLOCK)
/* Images whose gradients are summed one after the other; the sums of groups are added in order. */
#define IMAGES 8
/* Pixels whose gradients are transposed at once, and numbers of a row of the transpose: one more pixel before them. */
#define STRIP (4 * BLOCK)
#define STRIP_ROW (STRIP + BLOCK)

typedef struct {
    int64_t images, channels, height, width, layers, lowest, threads; /* lowest: first layer with gradients */
} Shape;

/* Sizes */

/* Rows or columns of a layer's output. */
static inline int64_t side(int64_t pixels, int64_t layer) { return (pixels - 3) / 2 + 1 - 2 * layer; }

static inline int64_t map_pixels(const Shape *s, int64_t layer) {
    return side(s->height, layer) * side(s->width, layer);
}

/* The first layer reads the three pixels of a row of its window as one row of 3 channels numbers, in blocks of 32. */
static inline int64_t row_blocks(const Shape *s) { return (3 * s->channels + BLOCK - 1) / BLOCK; }

/* Blocks of a layer's weight. */
static inline int64_t weight_blocks(const Shape *s, int64_t layer) { return layer ? TAPS : 3 * row_blocks(s); }

/* Tiles of sixteen pixels in a row of the first layer's output; the last overlaps the one before. */
static inline int64_t segments(const Shape *s) { return (side(s->width, 0) + TILE - 1) / TILE; }

/* The first pixel of such a tile. */
static inline int64_t segment_start(const Shape *s, int64_t segment) {
    const int64_t last = side(s->width, 0) - TILE, x = segment * TILE;
    return x <= last ? x : last > 0 ? last : 0;
}

/* Numbers from an image's first one on that tiles of the first layer read; they may be more than an image has. */
static inline int64_t read_numbers(const Shape *s) {
    const int64_t y = 2 * (side(s->height, 0) - 1) + 2, x = 2 * (segment_start(s, segments(s) - 1) + TILE - 1);
    return (y * s->width + x) * s->channels + row_blocks(s) * BLOCK;
}

static inline int64_t image_numbers(const Shape *s) { return s->height * s->width * s->channels; }

/* Numbers of the maps that backward needs beside the output, of an image. */
static inline int64_t saved_numbers(const Shape *s) {
    int64_t pixels = 0;
    for (int64_t layer = 0; layer + 1 < s->layers; layer++)
        pixels += map_pixels(s, layer);
    return pixels * FILTERS;
}

/* Pixels of a layer's output that are computed: up to the last valid one, those left out among them. */
static inline int64_t counted_pixels(const Shape *s, int64_t layer) {
    return side(s->height, layer) * side(s->width, layer - 1) - 2;
}

/* Memory */

/* Takes the next bytes of a workspace; from a workspace at NULL it only counts them. */
static inline void *take(char **from, int64_t bytes) {
    char *result = *from;
    *from += round_up(bytes, TILE_BYTES);
    return result;
}

/* What all threads share: packed weights, and where the pixels that are computed go. */
typedef struct {
    uint16_t *weights[MAX_LAYERS];
    int32_t *places[MAX_LAYERS]; /* of computed pixels in the output; of the first layer unused */
} Packed;

static void take_packed(const Shape *s, char **from, Packed *packed) {
    for (int64_t layer = 0; layer < s->layers; layer++)
        packed->weights[layer] = take(from, weight_blocks(s, layer) * BLOCK_NUMBERS * sizeof(uint16_t));
    for (int64_t layer = 1; layer < s->layers; layer++)
        packed->places[layer] = take(from, counted_pixels(s, layer) * sizeof(int32_t));
}

/* A thread's memory in forward. Tiles read up to BLOCK pixels behind a map. */
typedef struct {
    uint16_t *image, *maps[2];
} Scratch;

static void take_scratch(const Shape *s, char **from, Scratch *scratch) {
    scratch->image = take(from, read_numbers(s) * sizeof(uint16_t));
    for (int i = 0; i < 2; i++)
        scratch->maps[i] = take(from, (map_pixels(s, 0) + BLOCK) * FILTERS * sizeof(uint16_t));
}

static int64_t scratch_bytes(const Shape *s) {
    char *end = NULL;
    Scratch scratch;
    take_scratch(s, &end, &scratch);
    return (intptr_t)end;
}

/* Both sizes are in floats. */
int64_t saved_size(const Shape *s) { return (s->images * saved_numbers(s) + BLOCK * FILTERS) / 2; }

int64_t forward_workspace(const Shape *s) {
    char *end = NULL;
    Packed packed;
    take_packed(s, &end, &packed);
    return ((intptr_t)end + s->threads * scratch_bytes(s)) / (int64_t)sizeof(float);
}

/* Forward */

/* Packs rows of a weight as right operands: of 16 filters, n <= 32 numbers each, every `step` numbers. */
AMX_TARGET static void pack_inputs(const float *weight, int64_t step, int64_t n, float divisor, uint16_t *to) {
    const __mmask16 low = (__mmask16)(n < TILE ? (1 << n) - 1 : 0xffff),
                    high = (__mmask16)(n < TILE ? 0 : (1 << (n - TILE)) - 1);
    __m512i rows[TILE];
    for (int64_t f = 0; f < TILE; f++, weight += step) {
        const __m512 a = _mm512_maskz_loadu_ps(low, weight), b = _mm512_maskz_loadu_ps(high, weight + TILE);
        rows[f] = (__m512i)_mm512_cvtne2ps_pbh(_mm512_div_ps(b, _mm512_set1_ps(divisor)),
                                               _mm512_div_ps(a, _mm512_set1_ps(divisor)));
    }
    transpose16(rows);
    for (int64_t p = 0; p < TILE; p++)
        _mm512_storeu_si512(to + p * BLOCK, rows[p]);
}

/* Packs a weight [32, 3, 3, channels]. The division of pixels by 255 is folded into the first layer's. */
AMX_TARGET static void pack_weight(const Shape *s, int64_t layer, const float *weight, uint16_t *to) {
    const int64_t blocks = layer ? 1 : row_blocks(s), rows = weight_blocks(s, layer) / blocks,
                  row = layer ? FILTERS : 3 * s->channels;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t k = 0; k < blocks; k++, to += BLOCK_NUMBERS) {
            const int64_t left = row - k * BLOCK, n = left < BLOCK ? left : BLOCK;
            for (int64_t half = 0; half < 2; half++)
                pack_inputs(weight + (half * TILE * rows + i) * row + k * BLOCK, rows * row, n, layer ? 1 : 255,
                            to + half * TILE * BLOCK);
        }
}

static void pack_forward(const Shape *s, const float *const *weights, Packed *packed) {
    for (int64_t layer = 0; layer < s->layers; layer++)
        pack_weight(s, layer, weights[layer], packed->weights[layer]);
    /* A pixel that is left out goes where the next valid one goes, which overwrites it. */
    for (int64_t layer = 1; layer < s->layers; layer++) {
        const int64_t from = side(s->width, layer - 1), to = from - 2;
        for (int64_t p = 0; p < counted_pixels(s, layer); p++)
            packed->places[layer][p] = (int32_t)(p / from * to + (p % from < to ? p % from : to));
    }
}

/* Starts the sums of two tiles of pixels at the bias. */
AMX_TARGET static inline void start_at(const float *bias) {
    COMPILER_BARRIER();
    _tile_loadd(0, bias, 0);
    _tile_loadd(1, bias + TILE, 0);
    _tile_loadd(2, bias, 0);
    _tile_loadd(3, bias + TILE, 0);
}

/* The sums of BLOCK pixels over nine taps. in: the first of them at the first tap. */
AMX_TARGET static inline void convolve(const uint16_t *in, int64_t columns, const uint16_t *weight, const float *bias,
                                       float *sums) {
    start_at(bias);
    for (int i = 0; i < 3; i++, in += columns * FILTERS)
        for (int j = 0; j < 3; j++, weight += BLOCK_NUMBERS)
            add_product(in + j * FILTERS, in + (j + TILE) * FILTERS, TILE_BYTES, weight, weight + TILE * BLOCK,
                        TILE_BYTES);
    store_sums(sums, FILTERS);
}

/* Rounds 32 sums of a pixel to bfloat16. */
AMX_TARGET static inline __m512i rounded(const float *sums) {
    return (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(sums + TILE), _mm512_loadu_ps(sums));
}

/* ReLU in bfloat16. NaN stays NaN: as integers, negative numbers are up to -128, negative NaNs above. */
AMX_TARGET static inline __m512i relu(__m512i x) {
    return _mm512_maskz_mov_epi16(_mm512_cmpgt_epi16_mask(x, _mm512_set1_epi16(-128)), x);
}

/* image: bfloat16 [height, width, channels], with memory for read_numbers -> out: bfloat16 [rows, columns, 32]. */
AMX_TARGET static void first_layer(const Shape *s, const uint16_t *image, const uint16_t *weight, const float *bias,
                                   uint16_t *out) {
    const int64_t rows = side(s->height, 0), columns = side(s->width, 0), per_row = segments(s),
                  blocks = row_blocks(s), row = s->width * s->channels, pixel = 2 * s->channels,
                  valid = columns < TILE ? columns : TILE;
    float sums[BLOCK * FILTERS] ALIGNED;
    for (int64_t tile = 0; tile < rows * per_row; tile += 2) {
        const uint16_t *from[2];
        uint16_t *to[2];
        for (int64_t i = 0; i < 2; i++) {
            const int64_t t = tile + i < rows * per_row ? tile + i : tile, y = t / per_row,
                          x = segment_start(s, t % per_row);
            from[i] = image + 2 * y * row + x * pixel;
            to[i] = out + (y * columns + x) * FILTERS;
        }
        const uint16_t *w = weight;
        start_at(bias);
        for (int64_t i = 0; i < 3; i++)
            for (int64_t k = 0; k < blocks; k++, w += BLOCK_NUMBERS)
                add_product(from[0] + i * row + k * BLOCK, from[1] + i * row + k * BLOCK, pixel * sizeof *image, w,
                            w + TILE * BLOCK, TILE_BYTES);
        store_sums(sums, FILTERS);
        for (int64_t i = 0; i < 2; i++)
            for (int64_t p = 0; p < valid; p++)
                _mm512_storeu_si512(to[i] + p * FILTERS, relu(rounded(sums + (i * TILE + p) * FILTERS)));
    }
}

/* in: bfloat16 [rows + 2, columns + 2, 32] -> out: bfloat16 [rows, columns, 32]. places: of Packed. */
AMX_TARGET static void next_layer(const uint16_t *in, int64_t columns, int64_t counted, const int32_t *places,
                                  const uint16_t *weight, const float *bias, uint16_t *out) {
    float sums[BLOCK * FILTERS] ALIGNED;
    for (int64_t first = 0; first < counted; first += BLOCK) {
        const int64_t n = counted - first < BLOCK ? counted - first : BLOCK;
        convolve(in + first * FILTERS, columns, weight, bias, sums);
        for (int64_t p = 0; p < n; p++)
            _mm512_storeu_si512(out + (int64_t)places[first + p] * FILTERS, relu(rounded(sums + p * FILTERS)));
    }
}

/* The image, or a copy where tiles would read past the last one. */
static const uint16_t *readable_image(const Shape *s, const uint16_t *pixels, int64_t image, uint16_t *copy) {
    const int64_t n = image_numbers(s), readable = (s->images - image) * n, needed = read_numbers(s);
    if (needed <= readable)
        return pixels + image * n;
    memset(copy, 0, (size_t)needed * sizeof *copy);
    return memcpy(copy, pixels + image * n, (size_t)(n < needed ? n : needed) * sizeof *copy);
}

/* pixels: bfloat16 [images, height, width, channels]; weights: float [32, 3, 3, channels] and [32, 3, 3, 32];
   biases: float [32] -> out: bfloat16 [images, rows, columns, 32]. saved: the maps of the other layers, image by
   image, or NULL. */
AMX_TARGET void forward(const Shape *s, const uint16_t *pixels, const float *const *weights,
                        const float *const *biases, uint16_t *saved, char *workspace, uint16_t *out) {
    Packed packed;
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
            uint16_t *next_saved = saved ? saved + image * saved_numbers(s) : NULL;
            const uint16_t *in = readable_image(s, pixels, image, scratch.image);
            for (int64_t layer = 0; layer < s->layers; layer++) {
                uint16_t *to = layer == last ? out + image * map_pixels(s, last) * FILTERS
                               : saved       ? next_saved
                                             : scratch.maps[layer % 2];
                if (layer == 0)
                    first_layer(s, in, packed.weights[0], biases[0], to);
                else
                    next_layer(in, side(s->width, layer - 1), counted_pixels(s, layer), packed.places[layer],
                               packed.weights[layer], biases[layer], to);
                if (saved)
                    next_saved += map_pixels(s, layer) * FILTERS;
                in = to;
            }
        }
        _tile_release();
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

   The first layer has no gradient of its input; its gradient lies without zeros. */

/* Zeros before the first pixel of a layer's gradient, in pixels. */
static inline int64_t border(const Shape *s, int64_t layer) { return layer ? 2 * side(s->width, layer - 1) + 2 : 0; }

/* Columns in which a layer's gradient lies. */
static inline int64_t pitch(const Shape *s, int64_t layer) { return side(s->width, layer ? layer - 1 : 0); }

/* Pixels of a layer's gradient with the zeros in its rows. */
static inline int64_t gradient_pixels(const Shape *s, int64_t layer) {
    return side(s->height, layer) * pitch(s, layer);
}

/* Pairs of pixels of a layer's input that its weight's gradient reads. */
static inline int64_t input_pairs(const Shape *s, int64_t layer) {
    return round_up(gradient_pixels(s, layer), BLOCK) / 2 + pitch(s, layer) + 1;
}

/* Sums of a layer: of the gradient of its weight, in blocks, and of its bias. */
static inline int64_t sum_numbers(const Shape *s, int64_t layer) {
    return weight_blocks(s, layer) * BLOCK_NUMBERS + FILTERS;
}

static int64_t all_sum_numbers(const Shape *s, int64_t first) {
    int64_t numbers = 0;
    for (int64_t layer = first; layer < s->layers; layer++)
        numbers += sum_numbers(s, layer);
    return numbers;
}

static inline int64_t groups(const Shape *s) { return (s->images + IMAGES - 1) / IMAGES; }

/* What all threads share: packed weights, and the sums of each group of images. */
typedef struct {
    uint16_t *weights[MAX_LAYERS];
    int32_t *offsets; /* of the first layer's windows in an image, in numbers */
    int32_t *places[MAX_LAYERS]; /* of the pixels of a layer's output in its gradient */
    float *sums;
} Shared;

static void take_shared(const Shape *s, char **from, Shared *shared) {
    for (int64_t layer = 1; layer < s->layers; layer++)
        shared->weights[layer] = take(from, TAPS * BLOCK_NUMBERS * sizeof(uint16_t));
    shared->offsets = take(from, map_pixels(s, 0) * sizeof(int32_t));
    for (int64_t layer = 0; layer < s->layers; layer++)
        shared->places[layer] = take(from, map_pixels(s, layer) * sizeof(int32_t));
    shared->sums = take(from, groups(s) * all_sum_numbers(s, 0) * sizeof(float));
}

/* A thread's memory. strips: transposed gradients [32 filters][STRIP_ROW]: in the middle those of STRIP pixels. pairs:
   pairs of pixels of a layer's input [..][32 channels][2]. */
typedef struct {
    uint16_t *image, *gradients[MAX_LAYERS], *strip, *pairs;
} Workspace;

static void take_workspace(const Shape *s, char **from, Workspace *own) {
    int64_t pairs = weight_blocks(s, 0) * STRIP / 2;
    own->image = take(from, read_numbers(s) * sizeof(uint16_t));
    for (int64_t layer = 0; layer < s->layers; layer++) {
        const int64_t pixels = 2 * border(s, layer) + gradient_pixels(s, layer) + BLOCK;
        own->gradients[layer] = take(from, pixels * FILTERS * sizeof(uint16_t));
        if (layer && pairs < input_pairs(s, layer))
            pairs = input_pairs(s, layer);
    }
    own->strip = take(from, FILTERS * STRIP_ROW * sizeof(uint16_t));
    own->pairs = take(from, 2 * pairs * FILTERS * sizeof(uint16_t));
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
    const int64_t columns = side(s->width, 0);
    for (int64_t layer = 1; layer < s->layers; layer++)
        pack_turned(weights[layer], shared->weights[layer]);
    for (int64_t p = 0; p < map_pixels(s, 0); p++)
        shared->offsets[p] = (int32_t)(2 * (p / columns * s->width + p % columns) * s->channels);
    for (int64_t layer = 0; layer < s->layers; layer++) {
        const int64_t from = side(s->width, layer), to = pitch(s, layer);
        for (int64_t p = 0; p < map_pixels(s, layer); p++)
            shared->places[layer][p] = (int32_t)(border(s, layer) + p / from * to + p % from);
    }
}

/* A pixel's gradient where the map is not 0. */
AMX_TARGET static inline __m512i masked(__m512i gradient, const uint16_t *map) {
    return _mm512_maskz_mov_epi16(_mm512_test_epi16_mask(_mm512_loadu_si512(map), _mm512_set1_epi16(0x7fff)), gradient);
}

/* The gradient of the last layer's sums from that of its output. */
AMX_TARGET static void last_gradient(const uint16_t *gradient, const uint16_t *map, int64_t pixels,
                                     const int32_t *places, uint16_t *to) {
    for (int64_t p = 0; p < pixels; p++)
        _mm512_storeu_si512(to + (int64_t)places[p] * FILTERS,
                            masked(_mm512_loadu_si512(gradient + p * FILTERS), map + p * FILTERS));
}

/* The gradient of the sums of the layer before, whose map and places those are. gradient: with its zeros. */
AMX_TARGET static void previous_gradient(const uint16_t *gradient, int64_t columns, const uint16_t *weight,
                                         const uint16_t *map, int64_t pixels, const int32_t *places, uint16_t *to) {
    static const float no_bias[FILTERS];
    float sums[BLOCK * FILTERS] ALIGNED;
    for (int64_t first = 0; first < pixels; first += BLOCK) {
        const int64_t n = pixels - first < BLOCK ? pixels - first : BLOCK;
        convolve(gradient + first * FILTERS, columns, weight, no_bias, sums);
        for (int64_t p = 0; p < n; p++)
            _mm512_storeu_si512(to + (int64_t)places[first + p] * FILTERS,
                                masked(rounded(sums + p * FILTERS), map + (first + p) * FILTERS));
    }
}

/* The channel of the first of two interleaved halves at lane i: interleaving works within 128 bits. The second half has
   the channel 4 behind. */
static inline int64_t interleaved(int64_t lane) { return lane / 4 * 8 + lane % 4; }

/* Two pixels' channels in pairs: two vectors, see interleaved. */
AMX_TARGET static inline void pair_pixels(__m512i a, __m512i b, uint16_t *to) {
    _mm512_storeu_si512(to, _mm512_unpacklo_epi16(a, b));
    _mm512_storeu_si512(to + BLOCK, _mm512_unpackhi_epi16(a, b));
}

/* Transposes BLOCK pixels of a gradient into rows of STRIP_ROW; adds them to total [2][16 lanes], see interleaved. */
AMX_TARGET static inline void transpose_gradient(const uint16_t *gradient, uint16_t *to, float *total) {
    const __m512bh ones = (__m512bh)_mm512_set1_epi16(0x3f80);
    for (int half = 0; half < 2; half++, to += 4 * STRIP_ROW) {
        __m512i pairs[TILE];
        __m512 sum = _mm512_loadu_ps(total + half * TILE);
        for (int64_t r = 0; r < TILE; r++) {
            const __m512i a = _mm512_loadu_si512(gradient + 2 * r * FILTERS),
                          b = _mm512_loadu_si512(gradient + (2 * r + 1) * FILTERS);
            pairs[r] = half ? _mm512_unpackhi_epi16(a, b) : _mm512_unpacklo_epi16(a, b);
            sum = _mm512_dpbf16_ps(sum, (__m512bh)pairs[r], ones);
        }
        _mm512_storeu_ps(total + half * TILE, sum);
        transpose16(pairs);
        for (int64_t c = 0; c < TILE; c++)
            _mm512_storeu_si512(to + interleaved(c) * STRIP_ROW, pairs[c]);
    }
}

/* Transposes the next strip of a gradient, n blocks of pixels. The pixel before them remains before them. */
AMX_TARGET static void next_strip(const uint16_t *gradient, int64_t n, int first, uint16_t *strip, float *total) {
    for (int64_t f = 0; f < FILTERS; f++)
        strip[f * STRIP_ROW + BLOCK - 1] = first ? 0 : strip[f * STRIP_ROW + BLOCK + STRIP - 1];
    for (int64_t block = 0; block < n; block++)
        transpose_gradient(gradient + block * BLOCK * FILTERS, strip + (block + 1) * BLOCK, total);
}

/* sums [32 filters, 32 lanes] += strip pairs, over n blocks of pixels. shift: 1 to take the pixels from one before. */
AMX_TARGET static inline void accumulate(const uint16_t *strip, int64_t shift, const uint16_t *pairs, int64_t n,
                                         float *sums) {
    load_sums(sums, FILTERS);
    strip += BLOCK - shift;
    for (int64_t block = 0; block < n; block++, strip += BLOCK, pairs += BLOCK * FILTERS)
        add_product(strip, strip + TILE * STRIP_ROW, STRIP_ROW * sizeof *strip, pairs, pairs + BLOCK,
                    2 * FILTERS * sizeof *pairs);
    store_sums(sums, FILTERS);
}

/* Adds an image's part of the gradients of a layer's weight and bias. in: the map before, of so many pixels. gradient:
   from the first pixel behind the border on. pixels: of the gradient. */
AMX_TARGET static void next_layer_sums(const uint16_t *in, int64_t in_pixels, const uint16_t *gradient, int64_t pixels,
                                       int64_t columns, uint16_t *strip, uint16_t *pairs, float *sums) {
    float *total = sums + TAPS * BLOCK_NUMBERS;
    int64_t paired = 0;
    for (int64_t first = 0; first < pixels; first += STRIP) {
        const int64_t left = (pixels - first + BLOCK - 1) / BLOCK, n = left < STRIP / BLOCK ? left : STRIP / BLOCK,
                      end = (first + n * BLOCK) / 2 + columns + 1;
        next_strip(gradient + first * FILTERS, n, first == 0, strip, total);
        for (; paired < end; paired++) {
            const uint16_t *at = in + 2 * paired * FILTERS;
            const __m512i a = 2 * paired < in_pixels ? _mm512_loadu_si512(at) : _mm512_setzero_si512(),
                          b = 2 * paired + 1 < in_pixels ? _mm512_loadu_si512(at + FILTERS) : _mm512_setzero_si512();
            pair_pixels(a, b, pairs + 2 * paired * FILTERS);
        }
        for (int64_t tap = 0; tap < TAPS; tap++) {
            /* Pairs begin at even pixels: an odd shift of the input is an even one and a shift of the gradient. */
            const int64_t offset = tap / 3 * columns + tap % 3, shift = offset % 2;
            accumulate(strip, shift, pairs + (first + offset - shift) * FILTERS, n, sums + tap * BLOCK_NUMBERS);
        }
    }
}

/* The same for the first layer. offsets: of the windows of its pixels. */
AMX_TARGET static void first_layer_sums(const Shape *s, const uint16_t *image, const int32_t *offsets,
                                        const uint16_t *gradient, uint16_t *strip, uint16_t *pairs, float *sums) {
    const int64_t blocks = row_blocks(s), pixels = map_pixels(s, 0), row = s->width * s->channels;
    float *total = sums + 3 * blocks * BLOCK_NUMBERS;
    for (int64_t first = 0; first < pixels; first += STRIP) {
        const int64_t left = (pixels - first + BLOCK - 1) / BLOCK, n = left < STRIP / BLOCK ? left : STRIP / BLOCK;
        next_strip(gradient + first * FILTERS, n, first == 0, strip, total);
        for (int64_t p = first; p < first + n * BLOCK; p += 2) {
            const uint16_t *a = image + offsets[p < pixels ? p : pixels - 1],
                           *b = image + offsets[p + 1 < pixels ? p + 1 : pixels - 1];
            uint16_t *to = pairs + (p - first) * FILTERS;
            for (int64_t i = 0; i < 3; i++)
                for (int64_t k = 0; k < blocks; k++, to += STRIP * FILTERS)
                    pair_pixels(_mm512_loadu_si512(a + i * row + k * BLOCK),
                                _mm512_loadu_si512(b + i * row + k * BLOCK), to);
        }
        for (int64_t block = 0; block < 3 * blocks; block++)
            accumulate(strip, 0, pairs + block * STRIP * FILTERS, n, sums + block * BLOCK_NUMBERS);
    }
}

/* Adds up the groups' sums of a filter and writes the gradients: weight [32, 3, 3, channels], bias [32]. */
static void write_gradients(const Shape *s, int64_t layer, int64_t filter, const float *sums, float *weight,
                            float *bias) {
    const int64_t blocks = layer ? 1 : row_blocks(s), rows = weight_blocks(s, layer) / blocks,
                  row = layer ? FILTERS : 3 * s->channels, all = all_sum_numbers(s, 0);
    for (int64_t block = 0; block < rows * blocks; block++) {
        float sum[FILTERS] = {0};
        for (int64_t group = 0; group < groups(s); group++)
            for (int64_t lane = 0; lane < FILTERS; lane++)
                sum[lane] += sums[group * all + block * BLOCK_NUMBERS + filter * FILTERS + lane];
        for (int64_t lane = 0; lane < FILTERS; lane++) {
            const int64_t k = block % blocks * BLOCK + interleaved(lane % TILE) + lane / TILE * 4;
            if (k < row)
                weight[(filter * rows + block / blocks) * row + k] = layer ? sum[lane] : sum[lane] / 255;
        }
    }
    float sum = 0;
    const int64_t lane = filter % 8 < 4 ? filter / 8 * 4 + filter % 4 : TILE + filter / 8 * 4 + filter % 4;
    for (int64_t group = 0; group < groups(s); group++)
        sum += sums[group * all + rows * blocks * BLOCK_NUMBERS + lane];
    bias[filter] = sum;
}

/* The gradients of weights and biases of the layers from `lowest` on, from that of the output: bfloat16 [images, rows,
   columns, 32]. pixels, saved, out: of forward. */
AMX_TARGET void backward(const Shape *s, const uint16_t *pixels, const uint16_t *saved, const uint16_t *out,
                         const uint16_t *gradient, const float *const *weights, char *workspace,
                         float *const *weight_gradients, float *const *bias_gradients) {
    Shared shared;
    take_shared(s, &workspace, &shared);
    pack_backward(s, weights, &shared);
    const int64_t last = s->layers - 1, lowest = s->lowest, threads = s->threads, all = all_sum_numbers(s, 0);
#pragma omp parallel num_threads(threads)
    {
        Workspace own;
        char *from = workspace + omp_get_thread_num() * own_bytes(s);
        memset(from, 0, (size_t)own_bytes(s));
        take_workspace(s, &from, &own);
        configure_tiles();
#pragma omp for schedule(static)
        for (int64_t group = 0; group < groups(s); group++) {
            const int64_t end = (group + 1) * IMAGES < s->images ? (group + 1) * IMAGES : s->images;
            float *group_sums = shared.sums + group * all;
            memset(group_sums, 0, (size_t)all * sizeof *group_sums);
            for (int64_t image = group * IMAGES; image < end; image++) {
                const int64_t out_numbers = map_pixels(s, last) * FILTERS;
                const uint16_t *map = saved + (image + 1) * saved_numbers(s);
                float *sums = group_sums + all;
                last_gradient(gradient + image * out_numbers, out + image * out_numbers, map_pixels(s, last),
                              shared.places[last], own.gradients[last]);
                for (int64_t layer = last; layer >= lowest; layer--) {
                    const uint16_t *g = own.gradients[layer];
                    sums -= sum_numbers(s, layer);
                    if (layer == 0) {
                        first_layer_sums(s, readable_image(s, pixels, image, own.image), shared.offsets, g, own.strip,
                                         own.pairs, sums);
                        continue;
                    }
                    const int64_t in_pixels = map_pixels(s, layer - 1), columns = pitch(s, layer);
                    map -= in_pixels * FILTERS;
                    next_layer_sums(map, in_pixels, g + border(s, layer) * FILTERS, gradient_pixels(s, layer), columns,
                                    own.strip, own.pairs, sums);
                    if (layer > lowest)
                        previous_gradient(g, columns, shared.weights[layer], map, in_pixels, shared.places[layer - 1],
                                          own.gradients[layer - 1]);
                }
            }
        }
        _tile_release();
#pragma omp for schedule(static)
        for (int64_t i = lowest * FILTERS; i < s->layers * FILTERS; i++) {
            const int64_t layer = i / FILTERS;
            const float *sums = shared.sums + all - all_sum_numbers(s, layer);
            write_gradients(s, layer, i % FILTERS, sums, weight_gradients[layer], bias_gradients[layer]);
        }
    }
}
#endif
