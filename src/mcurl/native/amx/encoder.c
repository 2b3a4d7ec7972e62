/* Atari's encoder: two convolutions, 5 x 5 with stride 5 and ReLU, 32 and 64 channels, over patches of bytes; and
   the gradients of its parameters. Sixteen stacks at a time pass both layers, so that what lies between them stays
   in the cache. Bytes are multiplied as they are, without a widened copy of the pixels. The plain twin is
   networks.atari.DataEfficientEncoder._layers. */
#include "tiles.h"

#if defined(__x86_64__) && defined(__linux__)
#define CHANNELS 32
#define PATCH 25
/* The second layer's channels and inputs; an input is a patch of patches. */
#define FEATURES 64
#define HIDDEN (PATCH * CHANNELS)
#define MAX_INPUTS 512
/* Stacks that pass both layers together. */
#define STACKS 16

/* First layer */

/* Quantises the weights of a channel to integers of 15 bits in two planes of bytes, w = step * (128 * high + low);
   step contains the division of pixels by 255; it is NaN for a channel with a weight that is not finite. Planes are in
   the order in which tiles are read: [block of 64 inputs][plane][half of the channels][16][16 channels][4 inputs]. */
#define PLANE (2 * TILE * TILE_BYTES)
static void quantise(const float *weight, int64_t inputs, float *step, int8_t *planes) {
    for (int channel = 0; channel < CHANNELS; channel++) {
        const float *w = weight + channel * inputs;
        float largest = 1e-30f, zero = 0; /* NaN if a weight is not finite */
        for (int64_t k = 0; k < inputs; k++) {
            largest = __builtin_fmaxf(largest, __builtin_fabsf(w[k]));
            zero += 0 * w[k];
        }
        const int finite = zero == 0;
        const float per_step = (127 * 128) / largest;
        step[channel] = 1 / (255 * per_step) + zero;
        for (int64_t k = 0; k < inputs; k++) {
            const int round_up = finite ? (int)__builtin_rintf(w[k] * per_step) : 0, high = (round_up + 64) >> 7;
            int8_t *to = planes + k / 64 * 2 * PLANE + channel / TILE * TILE * TILE_BYTES + k % 64 / 4 * TILE_BYTES +
                         channel % TILE * 4 + k % 4;
            to[0] = (int8_t)high;
            to[PLANE] = (int8_t)(round_up - 128 * high);
        }
    }
}

/* One row of both planes' products -> ReLU(product + bias), rounded to bfloat16. NaN stays NaN. */
AMX_TARGET static inline void finish_row(const int32_t *high, const int32_t *low, const float *step, const float *bias,
                                         uint16_t *out) {
    __m512 y[2];
    for (int half = 0; half < 2; half++) {
        const __m512i round_up = _mm512_add_epi32(_mm512_slli_epi32(_mm512_load_si512(high + half * TILE), 7),
                                                  _mm512_load_si512(low + half * TILE));
        const __m512 sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(round_up), _mm512_loadu_ps(step + half * TILE),
                                           _mm512_loadu_ps(bias + half * TILE));
        y[half] = _mm512_max_ps(_mm512_setzero_ps(), sum);
    }
    _mm512_storeu_si512(out, (__m512i)_mm512_cvtne2ps_pbh(y[1], y[0]));
}

/* patches: uint8 [rows, inputs] -> out: bfloat16 [rows, 32]. Tiles read past the rows that they need. readable: the
   bytes from patches on that may be read. */
AMX_TARGET static void first_layer(const uint8_t *patches, int64_t rows, int64_t readable, int64_t inputs,
                                   const int8_t *planes, const float *step, const float *bias, uint16_t *out) {
    int32_t high[BLOCK * CHANNELS] ALIGNED, low[BLOCK * CHANNELS] ALIGNED;
    uint8_t last[BLOCK * MAX_INPUTS + TILE_BYTES];
    for (int64_t first = 0; first < rows; first += BLOCK) {
        const uint8_t *block = patches + first * inputs;
        const int64_t n = rows - first < BLOCK ? rows - first : BLOCK;
        if ((first + BLOCK) * inputs + TILE_BYTES > readable)
            block = memcpy(last, block, (size_t)(n * inputs));
        multiply_bytes(block, inputs, planes, 2 * PLANE, high);
        multiply_bytes(block, inputs, planes + PLANE, 2 * PLANE, low);
        for (int64_t r = 0; r < n; r++)
            finish_row(high + r * CHANNELS, low + r * CHANNELS, step, bias, out + (first + r) * CHANNELS);
    }
}

/* The gradient of BLOCK rows where the output is not 0, as a tile for each half of the channels: bfloat16 [32
   channels][16 pairs of rows p and p + 16]. Adds the sums of even channels to total[0..15], those of odd channels to
   total[16..31]. n: valid rows. */
AMX_TARGET static inline void transpose_gradient(const uint16_t *out, const uint16_t *gradient, int64_t n,
                                                 uint32_t *columns, float *total) {
    const __m512i upper = _mm512_set1_epi32((int)0xffff0000);
    __m512i saved[2][TILE] = {{{0}}}; /* pairs of channels */
    __m512 even = _mm512_loadu_ps(total), odd = _mm512_loadu_ps(total + TILE);
    for (int64_t r = 0; r < n; r++) {
        const __mmask32 positive =
            _mm512_test_epi16_mask(_mm512_loadu_si512(out + r * CHANNELS), _mm512_set1_epi16(0x7fff));
        const __m512i g = _mm512_maskz_loadu_epi16(positive, gradient + r * CHANNELS);
        even = _mm512_add_ps(even, (__m512)_mm512_slli_epi32(g, 16));
        odd = _mm512_add_ps(odd, (__m512)_mm512_and_si512(g, upper));
        saved[r / TILE][r % TILE] = g;
    }
    _mm512_storeu_ps(total, even);
    _mm512_storeu_ps(total + TILE, odd);
    transpose16(saved[0]);
    transpose16(saved[1]);
    for (int c = 0; c < TILE; c++) {
        const __m512i a = saved[0][c], b = saved[1][c];
        _mm512_store_si512(columns + 2 * c * TILE,
                           _mm512_or_si512(_mm512_andnot_si512(upper, a), _mm512_slli_epi32(b, 16)));
        _mm512_store_si512(columns + (2 * c + 1) * TILE,
                           _mm512_or_si512(_mm512_srli_epi32(a, 16), _mm512_and_si512(b, upper)));
    }
}

/* BLOCK patches widened to bfloat16: [16 pairs of rows p and p + 16][width]. Reads past the end of a row; the sums
   of what it reads there are ignored. */
AMX_TARGET static inline void pack_patches(const uint8_t *patches, int64_t inputs, int64_t width, uint32_t *pairs) {
    for (int64_t p = 0; p < TILE; p++)
        for (int64_t k = 0; k < width; k += TILE) {
            const __m128i *lower = (const __m128i *)(patches + p * inputs + k),
                          *upper = (const __m128i *)(patches + (p + TILE) * inputs + k);
            const __m512 a = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(lower))),
                         b = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(upper)));
            _mm512_store_si512(pairs + p * width + k, _mm512_or_si512(_mm512_srli_epi32((__m512i)a, 16), (__m512i)b));
        }
}

/* sum [32, width] += columns pairs, for two tiles of inputs from k on, over several blocks of rows. */
AMX_TARGET static inline void accumulate(const uint32_t *columns, const uint32_t *pairs, int64_t blocks, int64_t width,
                                         int64_t k, float *sum) {
    load_sums(sum + k, width);
    for (int64_t block = 0; block < blocks; block++, columns += CHANNELS * TILE, pairs += TILE * width)
        add_product(columns, columns + TILE * TILE, TILE_BYTES, pairs + k, pairs + k + TILE, width * sizeof *pairs);
    store_sums(sum + k, width);
}

/* Blocks of rows that are packed before they are multiplied, so that the sums are not loaded for each. */
#define BLOCKS_AT_ONCE 4

/* The gradients of the first layer's parameters from that of its output out, bfloat16 [rows, 32]: added to sum [32,
   width] and total [32] (see transpose_gradient). */
AMX_TARGET static void first_layer_gradients(const uint8_t *patches, const uint16_t *out, const uint16_t *gradient,
                                             int64_t rows, int64_t readable, int64_t inputs, int64_t width, float *sum,
                                             float *total) {
    uint8_t last[BLOCK * MAX_INPUTS + TILE_BYTES] = {0};
    uint32_t columns[BLOCKS_AT_ONCE * CHANNELS * TILE] ALIGNED, pairs[BLOCKS_AT_ONCE * TILE * MAX_INPUTS] ALIGNED;
    for (int64_t first = 0; first < rows; first += BLOCKS_AT_ONCE * BLOCK) {
        int64_t blocks = 0;
        for (int64_t r = first; r < rows && blocks < BLOCKS_AT_ONCE; r += BLOCK, blocks++) {
            const int64_t n = rows - r < BLOCK ? rows - r : BLOCK;
            const uint8_t *block = patches + r * inputs;
            if ((r + BLOCK) * inputs + BLOCK > readable)
                block = memcpy(last, block, (size_t)(n * inputs));
            transpose_gradient(out + r * CHANNELS, gradient + r * CHANNELS, n, columns + blocks * CHANNELS * TILE,
                               total);
            pack_patches(block, inputs, width, pairs + blocks * TILE * width);
        }
        for (int64_t k = 0; k < width; k += BLOCK)
            accumulate(columns, pairs, blocks, width, k, sum);
    }
}

/* Second layer */

/* Tiles of pairs of inputs: weight [64, 800] -> bfloat16 [25 blocks of 32 inputs][4 quarters of the channels][16
   pairs][16 channels]. */
AMX_TARGET static void pack_input_pairs(const float *weight, uint32_t *tiles) {
    for (int64_t k = 0; k < HIDDEN; k += BLOCK)
        for (int64_t channel = 0; channel < FEATURES; channel += TILE, tiles += TILE * TILE) {
            __m512i rows[TILE];
            for (int64_t c = 0; c < TILE; c++) {
                const float *w = weight + (channel + c) * HIDDEN + k;
                rows[c] = (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(w + TILE), _mm512_loadu_ps(w));
            }
            transpose16(rows);
            for (int64_t p = 0; p < TILE; p++)
                _mm512_store_si512(tiles + p * TILE, rows[p]);
        }
}

/* Tiles of pairs of channels: weight [64, 800] -> bfloat16 [32 pairs][800]. */
AMX_TARGET static void pack_channel_pairs(const float *weight, uint32_t *pairs) {
    for (int64_t p = 0; p < FEATURES / 2; p++)
        for (int64_t k = 0; k < HIDDEN; k += TILE)
            _mm512_store_si512(pairs + p * HIDDEN + k, round_pairs(_mm512_loadu_ps(weight + 2 * p * HIDDEN + k),
                                                                   _mm512_loadu_ps(weight + (2 * p + 1) * HIDDEN + k)));
}

/* h: bfloat16 [rows, 800] -> float [rows, 64], without bias. rows: a multiple of TILE; out has memory for a multiple
   of BLOCK. */
AMX_TARGET static void second_layer(const uint16_t *h, int64_t rows, const uint32_t *tiles, float *out) {
    for (int64_t r = 0; r < rows; r += BLOCK) {
        const uint16_t *upper = h + r * HIDDEN, *lower = r + TILE < rows ? upper + TILE * HIDDEN : upper;
        for (int64_t quarter = 0; quarter < 4; quarter += 2) {
            const uint32_t *w = tiles + quarter * TILE * TILE;
            clear_sums();
            for (int64_t k = 0; k < HIDDEN; k += BLOCK, w += 4 * TILE * TILE)
                add_product(upper + k, lower + k, HIDDEN * sizeof *h, w, w + TILE * TILE, TILE_BYTES);
            store_sums(out + r * FEATURES + quarter * TILE, FEATURES);
        }
    }
}

/* A stack's features: ReLU(h + bias), from [cells, 64] to [64, cells]. */
static void finish_features(const float *h, int64_t cells, const float *bias, float *features) {
    for (int64_t channel = 0; channel < FEATURES; channel++)
        for (int64_t cell = 0; cell < cells; cell++) {
            const float y = h[cell * FEATURES + channel] + bias[channel];
            features[channel * cells + cell] = y < 0 ? 0 : y;
        }
}

/* A stack's gradient where the features are not 0, rounded to bfloat16: by_cell [cells, 64] and by_channel [64,
   columns]. Adds its sum to total [64]. saved: scratch memory for [64, cells]. */
AMX_TARGET static void start_gradient(const float *features, const float *gradient, int64_t cells, int64_t columns,
                                      uint16_t *saved, uint16_t *by_cell, uint16_t *by_channel, float *total) {
    for (int64_t i = 0; i < FEATURES * cells; i += TILE) {
        const __mmask16 positive = _mm512_cmp_ps_mask(_mm512_loadu_ps(features + i), _mm512_setzero_ps(), _CMP_NLE_UQ);
        _mm256_storeu_si256((__m256i *)(saved + i),
                            (__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(positive, gradient + i)));
    }
    for (int64_t channel = 0; channel < FEATURES; channel++)
        for (int64_t cell = 0; cell < cells; cell++)
            by_cell[cell * FEATURES + channel] = by_channel[channel * columns + cell] = saved[channel * cells + cell];
    for (int64_t channel = 0; channel < FEATURES; channel += TILE) {
        __m512 sum = _mm512_loadu_ps(total + channel);
        for (int64_t cell = 0; cell < cells; cell++) {
            const __m512i bits =
                _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(by_cell + cell * FEATURES + channel)));
            sum = _mm512_add_ps(sum, (__m512)_mm512_slli_epi32(bits, 16));
        }
        _mm512_storeu_ps(total + channel, sum);
    }
}

/* The gradient of the first layer's output, bfloat16 [rows, 800], from gradient: bfloat16 [rows, 64]. pairs: of
   pack_channel_pairs. rows: a multiple of BLOCK. */
AMX_TARGET static void second_layer_backward(const uint16_t *gradient, int64_t rows, const uint32_t *pairs,
                                             uint16_t *out) {
    float sums[BLOCK * BLOCK] ALIGNED;
    for (int64_t r = 0; r < rows; r += BLOCK)
        for (int64_t k = 0; k < HIDDEN; k += BLOCK) {
            clear_sums();
            for (int64_t channel = 0; channel < FEATURES; channel += BLOCK) {
                const uint16_t *upper = gradient + r * FEATURES + channel;
                const uint32_t *w = pairs + channel / 2 * HIDDEN + k;
                add_product(upper, upper + TILE * FEATURES, FEATURES * sizeof *gradient, w, w + TILE,
                            HIDDEN * sizeof *pairs);
            }
            store_sums(sums, BLOCK);
            for (int64_t i = 0; i < BLOCK; i++)
                _mm512_storeu_si512(out + (r + i) * HIDDEN + k,
                                    (__m512i)_mm512_cvtne2ps_pbh(_mm512_load_ps(sums + i * BLOCK + TILE),
                                                                 _mm512_load_ps(sums + i * BLOCK)));
        }
}

/* Interleaves sixteen numbers of two rows of bfloat16; an invalid row is 0. */
AMX_TARGET static inline __m512i pair_rows(const uint16_t *lower, int valid, const uint16_t *upper, int upper_valid) {
    const __m256i zeros = _mm256_setzero_si256();
    const __m512i a = _mm512_cvtepu16_epi32(valid ? _mm256_loadu_si256((const __m256i *)lower) : zeros);
    const __m512i b = _mm512_cvtepu16_epi32(upper_valid ? _mm256_loadu_si256((const __m256i *)upper) : zeros);
    return _mm512_or_si512(a, _mm512_slli_epi32(b, 16));
}

/* sum [64, 800] += gradient^T h. by_channel: the gradient, bfloat16 [64, columns], 0 from n on; h: bfloat16 [n,
   800]. columns: a multiple of BLOCK. pairs: scratch memory for [columns / 2, 32]. */
AMX_TARGET static void second_layer_gradient(const uint16_t *by_channel, const uint16_t *h, int64_t n, int64_t columns,
                                             uint32_t *pairs, float *sum) {
    const int64_t rows = round_up(n, BLOCK);
    for (int64_t k = 0; k < HIDDEN; k += BLOCK) {
        for (int64_t r = 0; r < rows; r += 2)
            for (int64_t half = 0; half < BLOCK; half += TILE) {
                const uint16_t *at = h + r * HIDDEN + k + half;
                _mm512_store_si512(pairs + r / 2 * BLOCK + half, pair_rows(at, r < n, at + HIDDEN, r + 1 < n));
            }
        for (int64_t channel = 0; channel < FEATURES; channel += BLOCK) {
            float *to = sum + channel * HIDDEN + k;
            load_sums(to, HIDDEN);
            for (int64_t r = 0; r < rows; r += BLOCK) {
                const uint16_t *upper = by_channel + channel * columns + r;
                const uint32_t *right = pairs + r / 2 * BLOCK;
                add_product(upper, upper + TILE * columns, columns * sizeof *by_channel, right, right + TILE,
                            BLOCK * sizeof *pairs);
            }
            store_sums(to, HIDDEN);
        }
    }
}

/* Both layers */

/* Rows of the second layer in a group of stacks, a multiple of BLOCK. */
static inline int64_t group_rows(int64_t cells) { return round_up(STACKS * cells, BLOCK); }

/* Gradients are summed over some stacks, one after the other, and then over these GROUPS at most: the sums' order does
   not depend on the number of threads. */
#define GROUPS 8
static inline int64_t stacks_of_group(int64_t stacks) {
    return stacks ? round_up((stacks + GROUPS - 1) / GROUPS, STACKS) : STACKS;
}
static inline int64_t groups(int64_t stacks) {
    return (stacks + stacks_of_group(stacks) - 1) / stacks_of_group(stacks);
}

/* Sums of a group: of the second layer's weight and bias, then of the first one's. */
static inline int64_t sum_numbers(int64_t inputs) {
    return FEATURES * (HIDDEN + 1) + CHANNELS * (round_up(inputs, BLOCK) + 1);
}

/* Of all groups. */
int64_t backward_sums(int64_t stacks, int64_t inputs) { return groups(stacks) * sum_numbers(inputs); }

/* Workspace of each thread of forward and of backward, in bytes. */
int64_t forward_workspace(int64_t cells) {
    return group_rows(cells) * (HIDDEN * sizeof(uint16_t) + FEATURES * sizeof(float));
}

int64_t backward_workspace(int64_t cells) {
    const int64_t row_bytes = group_rows(cells) * (HIDDEN * sizeof(uint16_t) + 2 * FEATURES * sizeof(uint16_t) +
                                                   BLOCK / 2 * sizeof(uint32_t));
    return round_up(row_bytes + FEATURES * cells * sizeof(uint16_t), TILE_BYTES);
}

/* patches: uint8 [stacks, cells * 25, inputs]; weight1 [32, inputs], bias1 [32]; weight2 [64, 25 * 32], bias2 [64]
   -> features: float [stacks, 64 * cells], and the first layer's output, saved for backward unless saved is NULL:
   bfloat16 [stacks * cells, 800], with memory for 16 rows more. Returns 0, or 1 for too many inputs. */
AMX_TARGET int forward(const uint8_t *patches, int64_t stacks, int64_t cells, int64_t inputs, const float *weight1,
                       const float *bias1, const float *weight2, const float *bias2, uint16_t *saved, float *features,
                       uint8_t *workspace, int64_t threads) {
    const int64_t stack_size = cells * PATCH * inputs;
    float step[CHANNELS];
    int8_t planes[MAX_INPUTS / TILE_BYTES * 2 * PLANE] ALIGNED = {0};
    uint32_t tiles[FEATURES * HIDDEN / 2] ALIGNED;
    if (inputs > MAX_INPUTS)
        return 1;
    quantise(weight1, inputs, step, planes);
    pack_input_pairs(weight2, tiles);
#pragma omp parallel num_threads(threads)
    {
        uint16_t *hidden = (uint16_t *)(workspace + omp_get_thread_num() * forward_workspace(cells));
        float *out = (float *)(hidden + group_rows(cells) * HIDDEN);
        configure_tiles();
#pragma omp for schedule(static)
        for (int64_t s = 0; s < stacks; s += STACKS) {
            const int64_t n = stacks - s < STACKS ? stacks - s : STACKS;
            uint16_t *h = saved ? saved + s * cells * HIDDEN : hidden;
            first_layer(patches + s * stack_size, n * cells * PATCH, (stacks - s) * stack_size, inputs, planes, step,
                        bias1, h);
            second_layer(h, round_up(n * cells, TILE), tiles, out);
            for (int64_t i = 0; i < n; i++)
                finish_features(out + i * cells * FEATURES, cells, bias2, features + (s + i) * FEATURES * cells);
        }
        release_tiles();
    }
    return 0;
}

/* Adds a channel of the first layer, of a group, to the gradients. */
static void add_channel(int64_t channel, const float *sum1, const float *total1, int64_t inputs, int64_t width,
                        float *weight1, float *bias1) {
    bias1[channel] += total1[channel % 2 * TILE + channel / 2];
    for (int64_t k = 0; k < inputs; k++)
        weight1[channel * inputs + k] += sum1[channel * width + k] / 255;
}

/* Adds a channel of the second layer, of a group, to the gradients. */
static void add_feature(int64_t channel, const float *sum2, const float *total2, float *weight2, float *bias2) {
    bias2[channel] += total2[channel];
    for (int64_t k = 0; k < HIDDEN; k++)
        weight2[channel * HIDDEN + k] += sum2[channel * HIDDEN + k];
}

/* Adds the gradients of the parameters. sums: backward_sums floats. */
AMX_TARGET int backward(const uint8_t *patches, const uint16_t *saved, const float *features, const float *gradient,
                        int64_t stacks, int64_t cells, int64_t inputs, const float *weight2, float *weight1_gradient,
                        float *bias1_gradient, float *weight2_gradient, float *bias2_gradient, float *sums,
                        uint8_t *workspace, int64_t threads) {
    const int64_t width = round_up(inputs, BLOCK), max_rows = group_rows(cells), stack_size = FEATURES * cells,
                  patches_size = cells * PATCH * inputs, size = sum_numbers(inputs);
    const int64_t total2_at = FEATURES * HIDDEN, sum1_at = total2_at + FEATURES, total1_at = sum1_at + CHANNELS * width;
    uint32_t channel_pairs[FEATURES / 2 * HIDDEN] ALIGNED;
    if (inputs > MAX_INPUTS)
        return 1;
    pack_channel_pairs(weight2, channel_pairs);
#pragma omp parallel num_threads(threads)
    {
        uint16_t *hidden_gradient = (uint16_t *)(workspace + omp_get_thread_num() * backward_workspace(cells));
        uint16_t *by_cell = hidden_gradient + max_rows * HIDDEN, *by_channel = by_cell + max_rows * FEATURES,
                 *masked = by_channel + max_rows * FEATURES;
        uint32_t *pairs = (uint32_t *)(masked + stack_size);
        configure_tiles();
#pragma omp for schedule(static)
        for (int64_t group = 0; group < groups(stacks); group++) {
            const int64_t first = group * stacks_of_group(stacks), next = first + stacks_of_group(stacks),
                          end = next < stacks ? next : stacks;
            float *sum = sums + group * size;
            memset(sum, 0, (size_t)size * sizeof *sum);
            for (int64_t s = first; s < end; s += STACKS) {
                const int64_t n = end - s < STACKS ? end - s : STACKS, rows = n * cells;
                const uint16_t *h = saved + s * cells * HIDDEN;
                memset(by_cell, 0, (size_t)(2 * max_rows * FEATURES) * sizeof *by_cell);
                for (int64_t i = 0; i < n; i++)
                    start_gradient(features + (s + i) * stack_size, gradient + (s + i) * stack_size, cells, max_rows,
                                   masked, by_cell + i * cells * FEATURES, by_channel + i * cells, sum + total2_at);
                second_layer_gradient(by_channel, h, rows, max_rows, pairs, sum);
                second_layer_backward(by_cell, round_up(rows, BLOCK), channel_pairs, hidden_gradient);
                first_layer_gradients(patches + s * patches_size, h, hidden_gradient, rows * PATCH,
                                      (stacks - s) * patches_size, inputs, width, sum + sum1_at, sum + total1_at);
            }
        }
        release_tiles();
#pragma omp for schedule(static)
        for (int64_t channel = 0; channel < CHANNELS + FEATURES; channel++)
            for (int64_t group = 0; group < groups(stacks); group++) {
                const float *sum = sums + group * size;
                if (channel < CHANNELS)
                    add_channel(channel, sum + sum1_at, sum + total1_at, inputs, width, weight1_gradient,
                                bias1_gradient);
                else
                    add_feature(channel - CHANNELS, sum, sum + total2_at, weight2_gradient, bias2_gradient);
            }
    }
    return 0;
}
#endif
