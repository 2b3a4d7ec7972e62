/* Atari's encoder on the processor's matrix units (AMX): two convolutions, 5 x 5 with a stride of 5 and ReLU, 32 and 64 channels wide, over patches of bytes; and the gradients of its
   parameters. Sixteen stacks at a time pass both layers, so that what lies between them stays in the cache; bytes are multiplied as they are, so that no widened copy of the pixels is made.
   The plain twin is networks.atari.DataEfficientEncoder._layers. */
#include "tiles.h"

#if defined(__x86_64__) && defined(__linux__)
#define CHANNELS 32
#define PATCH 25
/* The second layer's channels and inputs, a patch of patches. */
#define FEATURES 64
#define HIDDEN (PATCH * CHANNELS)
#define MOST_INPUTS 512
/* Stacks that pass both layers together. */
#define GROUP 16

/* First layer */

/* The weights of a channel as integers of 15 bits in two planes of bytes, w = step * (128 * high + low), a byte's pixel divided by 255 already. Planes are in the order in which tiles of
   weights are read: [block of 64 inputs][plane][half of the channels][16][16 channels][4 inputs]. */
#define PLANE (2 * TILE * TILE_BYTES)
static void quantise(const float *weight, int64_t inputs, float *step, int8_t *planes) {
    for (int channel = 0; channel < CHANNELS; channel++) {
        const float *w = weight + channel * inputs;
        float largest = 1e-30f;
        for (int64_t k = 0; k < inputs; k++)
            largest = __builtin_fmaxf(largest, __builtin_fabsf(w[k]));
        const float per_step = (127 * 128) / largest;
        step[channel] = 1 / (255 * per_step);
        for (int64_t k = 0; k < inputs; k++) {
            const int whole = (int)__builtin_rintf(w[k] * per_step), high = (whole + 64) >> 7;
            int8_t *to = planes + k / 64 * 2 * PLANE + channel / TILE * TILE * TILE_BYTES + k % 64 / 4 * TILE_BYTES + channel % TILE * 4 + k % 4;
            to[0] = (int8_t)high;
            to[PLANE] = (int8_t)(whole - 128 * high);
        }
    }
}

/* The products of a run of rows with one plane: int32 [32 rows, 32 channels]. */
ON_TILES static inline void multiply(const uint8_t *patches, int64_t inputs, const int8_t *plane, int32_t *out) {
    clear_sums();
    WRITTEN();
    for (int64_t k = 0; k < inputs; k += TILE_BYTES, plane += 2 * PLANE) {
        _tile_loadd(4, patches + k, inputs);
        _tile_loadd(5, patches + k + TILE * inputs, inputs);
        _tile_loadd(6, plane, TILE_BYTES);
        _tile_loadd(7, plane + TILE * TILE_BYTES, TILE_BYTES);
        _tile_dpbusd(0, 4, 6);
        _tile_dpbusd(1, 4, 7);
        _tile_dpbusd(2, 5, 6);
        _tile_dpbusd(3, 5, 7);
    }
    store_sums((float *)out, CHANNELS);
}

/* One row of both planes' products -> ReLU(product + bias), rounded to bfloat16. */
ON_TILES static inline void finish(const int32_t *high, const int32_t *low, const float *step, const float *bias, uint16_t *out) {
    __m512 y[2];
    for (int half = 0; half < 2; half++) {
        const __m512i whole = _mm512_add_epi32(_mm512_slli_epi32(_mm512_load_si512(high + half * TILE), 7), _mm512_load_si512(low + half * TILE));
        const __m512 sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(whole), _mm512_loadu_ps(step + half * TILE), _mm512_loadu_ps(bias + half * TILE));
        y[half] = _mm512_max_ps(sum, _mm512_setzero_ps());
    }
    _mm512_storeu_si512(out, (__m512i)_mm512_cvtne2ps_pbh(y[1], y[0]));
}

/* patches: uint8 [rows, inputs] -> out: bfloat16 [rows, 32]. Tiles read past the rows that they need; readable counts the bytes from patches on that may be read. */
ON_TILES static void first_layer(const uint8_t *patches, int64_t rows, int64_t readable, int64_t inputs, const int8_t *planes, const float *step, const float *bias, uint16_t *out) {
    int32_t high[RUN * CHANNELS] ALIGNED, low[RUN * CHANNELS] ALIGNED;
    uint8_t last[RUN * MOST_INPUTS + TILE_BYTES];
    for (int64_t first = 0; first < rows; first += RUN) {
        const uint8_t *run = patches + first * inputs;
        const int64_t n = rows - first < RUN ? rows - first : RUN;
        if ((first + RUN) * inputs + TILE_BYTES > readable)
            run = memcpy(last, run, (size_t)(n * inputs));
        multiply(run, inputs, planes, high);
        multiply(run, inputs, planes + PLANE, low);
        for (int64_t r = 0; r < n; r++)
            finish(high + r * CHANNELS, low + r * CHANNELS, step, bias, out + (first + r) * CHANNELS);
    }
}

/* A run's gradient where the output is not 0, as a tile for each half of the channels: bfloat16 [32 channels][16 pairs of rows p and p + 16]. Even channels' sums are added to
   total[0..15], odd ones' to total[16..31]. n rows count. */
ON_TILES static inline void transpose(const uint16_t *out, const uint16_t *gradient, int64_t n, uint32_t *columns, float *total) {
    const __m512i upper = _mm512_set1_epi32((int)0xffff0000);
    __m512i kept[2][TILE] = {{{0}}}; /* pairs of channels */
    __m512 even = _mm512_loadu_ps(total), odd = _mm512_loadu_ps(total + TILE);
    for (int64_t r = 0; r < n; r++) {
        const __mmask32 shown = _mm512_test_epi16_mask(_mm512_loadu_si512(out + r * CHANNELS), _mm512_set1_epi16(0x7fff));
        const __m512i g = _mm512_maskz_loadu_epi16(shown, gradient + r * CHANNELS);
        even = _mm512_add_ps(even, (__m512)_mm512_slli_epi32(g, 16));
        odd = _mm512_add_ps(odd, (__m512)_mm512_and_si512(g, upper));
        kept[r / TILE][r % TILE] = g;
    }
    _mm512_storeu_ps(total, even);
    _mm512_storeu_ps(total + TILE, odd);
    turn(kept[0]);
    turn(kept[1]);
    for (int c = 0; c < TILE; c++) {
        const __m512i a = kept[0][c], b = kept[1][c];
        _mm512_store_si512(columns + 2 * c * TILE, _mm512_or_si512(_mm512_andnot_si512(upper, a), _mm512_slli_epi32(b, 16)));
        _mm512_store_si512(columns + (2 * c + 1) * TILE, _mm512_or_si512(_mm512_srli_epi32(a, 16), _mm512_and_si512(b, upper)));
    }
}

/* A run of patches widened to bfloat16: [16 pairs of rows p and p + 16][width]. What follows a row is read along, and its sums are never looked at. */
ON_TILES static inline void interleave(const uint8_t *patches, int64_t inputs, int64_t width, uint32_t *pairs) {
    for (int64_t p = 0; p < TILE; p++)
        for (int64_t k = 0; k < width; k += TILE) {
            const __m128i *lower = (const __m128i *)(patches + p * inputs + k), *upper = (const __m128i *)(patches + (p + TILE) * inputs + k);
            const __m512 a = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(lower))), b = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(upper)));
            _mm512_store_si512(pairs + p * width + k, _mm512_or_si512(_mm512_srli_epi32((__m512i)a, 16), (__m512i)b));
        }
}

/* sum [32, width] += columns pairs, for two tiles of inputs from k on, over several runs. */
ON_TILES static inline void accumulate(const uint32_t *columns, const uint32_t *pairs, int64_t runs, int64_t width, int64_t k, float *sum) {
    load_sums(sum + k, width);
    for (int64_t run = 0; run < runs; run++, columns += CHANNELS * TILE, pairs += TILE * width)
        add_product(columns, columns + TILE * TILE, TILE_BYTES, pairs + k, pairs + k + TILE, width * sizeof *pairs);
    store_sums(sum + k, width);
}

/* Runs that are laid out before they are multiplied, so that the sums are not loaded for each. */
#define AT_ONCE 4

/* What of the gradient of the first layer's out, bfloat16 [rows, 32], reaches its parameters, added to sum [32, width] and total [32] (of transpose). */
ON_TILES static void first_layer_gradients(const uint8_t *patches, const uint16_t *out, const uint16_t *gradient, int64_t rows, int64_t readable, int64_t inputs, int64_t width, float *sum,
                                           float *total) {
    uint8_t last[RUN * MOST_INPUTS + TILE_BYTES] = {0};
    uint32_t columns[AT_ONCE * CHANNELS * TILE] ALIGNED, pairs[AT_ONCE * TILE * MOST_INPUTS] ALIGNED;
    for (int64_t first = 0; first < rows; first += AT_ONCE * RUN) {
        int64_t runs = 0;
        for (int64_t r = first; r < rows && runs < AT_ONCE; r += RUN, runs++) {
            const int64_t n = rows - r < RUN ? rows - r : RUN;
            const uint8_t *run = patches + r * inputs;
            if ((r + RUN) * inputs + RUN > readable)
                run = memcpy(last, run, (size_t)(n * inputs));
            transpose(out + r * CHANNELS, gradient + r * CHANNELS, n, columns + runs * CHANNELS * TILE, total);
            interleave(run, inputs, width, pairs + runs * TILE * width);
        }
        for (int64_t k = 0; k < width; k += RUN)
            accumulate(columns, pairs, runs, width, k, sum);
    }
}

/* Second layer */

/* Tiles of pairs of inputs: weight [64, 800] -> bfloat16 [25 blocks of 32 inputs][4 quarters of the channels][16 pairs][16 channels]. */
ON_TILES static void pair_inputs(const float *weight, uint32_t *tiles) {
    for (int64_t k = 0; k < HIDDEN; k += RUN)
        for (int64_t channel = 0; channel < FEATURES; channel += TILE, tiles += TILE * TILE) {
            __m512i rows[TILE];
            for (int64_t c = 0; c < TILE; c++) {
                const float *w = weight + (channel + c) * HIDDEN + k;
                rows[c] = (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(w + TILE), _mm512_loadu_ps(w));
            }
            turn(rows);
            for (int64_t p = 0; p < TILE; p++)
                _mm512_store_si512(tiles + p * TILE, rows[p]);
        }
}

/* Tiles of pairs of channels: weight [64, 800] -> bfloat16 [32 pairs][800]. */
ON_TILES static void pair_channels(const float *weight, uint32_t *pairs) {
    for (int64_t p = 0; p < FEATURES / 2; p++)
        for (int64_t k = 0; k < HIDDEN; k += TILE)
            _mm512_store_si512(pairs + p * HIDDEN + k, rounded_pairs(_mm512_loadu_ps(weight + 2 * p * HIDDEN + k), _mm512_loadu_ps(weight + (2 * p + 1) * HIDDEN + k)));
}

/* h: bfloat16 [rows, 800] -> float [rows, 64], without bias. rows in whole tiles; out has room for whole runs. */
ON_TILES static void second_layer(const uint16_t *h, int64_t rows, const uint32_t *tiles, float *out) {
    for (int64_t r = 0; r < rows; r += RUN) {
        const uint16_t *upper = h + r * HIDDEN, *lower = r + TILE < rows ? upper + TILE * HIDDEN : upper;
        for (int64_t quarter = 0; quarter < 4; quarter += 2) {
            const uint32_t *w = tiles + quarter * TILE * TILE;
            clear_sums();
            for (int64_t k = 0; k < HIDDEN; k += RUN, w += 4 * TILE * TILE)
                add_product(upper + k, lower + k, HIDDEN * sizeof *h, w, w + TILE * TILE, TILE_BYTES);
            store_sums(out + r * FEATURES + quarter * TILE, FEATURES);
        }
    }
}

/* A stack's features of the second layer: ReLU(h + bias), from [cells, 64] to [64, cells]. */
static void finish_features(const float *h, int64_t cells, const float *bias, float *features) {
    for (int64_t channel = 0; channel < FEATURES; channel++)
        for (int64_t cell = 0; cell < cells; cell++) {
            const float y = h[cell * FEATURES + channel] + bias[channel];
            features[channel * cells + cell] = y > 0 ? y : 0;
        }
}

/* A stack's gradient where the features are not 0, rounded to bfloat16: by_cell [cells, 64] and by_channel [64, columns]; its sum is added to total [64]. kept: room for [64, cells]. */
ON_TILES static void start_gradient(const float *features, const float *gradient, int64_t cells, int64_t columns, uint16_t *kept, uint16_t *by_cell, uint16_t *by_channel, float *total) {
    for (int64_t i = 0; i < FEATURES * cells; i += TILE) {
        const __mmask16 shown = _mm512_cmp_ps_mask(_mm512_loadu_ps(features + i), _mm512_setzero_ps(), _CMP_NLE_UQ);
        _mm256_storeu_si256((__m256i *)(kept + i), (__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(shown, gradient + i)));
    }
    for (int64_t channel = 0; channel < FEATURES; channel++)
        for (int64_t cell = 0; cell < cells; cell++)
            by_cell[cell * FEATURES + channel] = by_channel[channel * columns + cell] = kept[channel * cells + cell];
    for (int64_t channel = 0; channel < FEATURES; channel += TILE) {
        __m512 sum = _mm512_loadu_ps(total + channel);
        for (int64_t cell = 0; cell < cells; cell++) {
            const __m512i bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(by_cell + cell * FEATURES + channel)));
            sum = _mm512_add_ps(sum, (__m512)_mm512_slli_epi32(bits, 16));
        }
        _mm512_storeu_ps(total + channel, sum);
    }
}

/* gradient: bfloat16 [rows, 64], pairs: of pair_channels -> what reaches the first layer's out, bfloat16 [rows, 800]. rows in whole runs. */
ON_TILES static void through_second_layer(const uint16_t *gradient, int64_t rows, const uint32_t *pairs, uint16_t *out) {
    float sums[RUN * RUN] ALIGNED;
    for (int64_t r = 0; r < rows; r += RUN)
        for (int64_t k = 0; k < HIDDEN; k += RUN) {
            clear_sums();
            for (int64_t channel = 0; channel < FEATURES; channel += RUN) {
                const uint16_t *upper = gradient + r * FEATURES + channel;
                const uint32_t *w = pairs + channel / 2 * HIDDEN + k;
                add_product(upper, upper + TILE * FEATURES, FEATURES * sizeof *gradient, w, w + TILE, HIDDEN * sizeof *pairs);
            }
            store_sums(sums, RUN);
            for (int64_t i = 0; i < RUN; i++)
                _mm512_storeu_si512(out + (r + i) * HIDDEN + k, (__m512i)_mm512_cvtne2ps_pbh(_mm512_load_ps(sums + i * RUN + TILE), _mm512_load_ps(sums + i * RUN)));
        }
}

/* Sixteen numbers of two rows of bfloat16 as pairs; a row that is not there is 0. */
ON_TILES static inline __m512i paired(const uint16_t *lower, int there, const uint16_t *upper, int upper_there) {
    const __m256i nothing = _mm256_setzero_si256();
    const __m512i a = _mm512_cvtepu16_epi32(there ? _mm256_loadu_si256((const __m256i *)lower) : nothing);
    const __m512i b = _mm512_cvtepu16_epi32(upper_there ? _mm256_loadu_si256((const __m256i *)upper) : nothing);
    return _mm512_or_si512(a, _mm512_slli_epi32(b, 16));
}

/* sum [64, 800] += gradient^T h: by_channel is the gradient, bfloat16 [64, columns], 0 from n on; h bfloat16 [n, 800]. columns in whole runs; pairs: room for [columns / 2, 32]. */
ON_TILES static void second_layer_gradient(const uint16_t *by_channel, const uint16_t *h, int64_t n, int64_t columns, uint32_t *pairs, float *sum) {
    const int64_t rows = whole(n, RUN);
    for (int64_t k = 0; k < HIDDEN; k += RUN) {
        for (int64_t r = 0; r < rows; r += 2)
            for (int64_t half = 0; half < RUN; half += TILE) {
                const uint16_t *at = h + r * HIDDEN + k + half;
                _mm512_store_si512(pairs + r / 2 * RUN + half, paired(at, r < n, at + HIDDEN, r + 1 < n));
            }
        for (int64_t channel = 0; channel < FEATURES; channel += RUN) {
            float *to = sum + channel * HIDDEN + k;
            load_sums(to, HIDDEN);
            for (int64_t r = 0; r < rows; r += RUN) {
                const uint16_t *upper = by_channel + channel * columns + r;
                const uint32_t *right = pairs + r / 2 * RUN;
                add_product(upper, upper + TILE * columns, columns * sizeof *by_channel, right, right + TILE, RUN * sizeof *pairs);
            }
            store_sums(to, HIDDEN);
        }
    }
}

/* Both layers */

/* Rows of the second layer in a group of stacks, in whole runs. */
static inline int64_t group_rows(int64_t cells) { return whole(GROUP * cells, RUN); }

/* Bytes that each thread of forward and of backward works in. */
int64_t forward_room(int64_t cells) { return group_rows(cells) * (HIDDEN * sizeof(uint16_t) + FEATURES * sizeof(float)); }

int64_t backward_room(int64_t cells, int64_t inputs) {
    const int64_t of_rows = group_rows(cells) * (HIDDEN * sizeof(uint16_t) + 2 * FEATURES * sizeof(uint16_t) + RUN / 2 * sizeof(uint32_t));
    return of_rows + FEATURES * cells * sizeof(uint16_t) + (FEATURES * (HIDDEN + 1) + CHANNELS * (whole(inputs, RUN) + 1)) * sizeof(float);
}

/* patches: uint8 [stacks, cells * 25, inputs]; weight1 [32, inputs], bias1 [32]; weight2 [64, 25 * 32], bias2 [64] -> features: float [stacks, 64 * cells], and what lies between the layers,
   kept for backward unless it is null: bfloat16 [stacks * cells, 800], with room for 16 rows more. Returns 0, or 1 for too many inputs. */
ON_TILES int forward(const uint8_t *patches, int64_t stacks, int64_t cells, int64_t inputs, const float *weight1, const float *bias1, const float *weight2, const float *bias2, uint16_t *kept,
                     float *features, uint8_t *room, int64_t threads) {
    const int64_t of_stack = cells * PATCH * inputs;
    float step[CHANNELS];
    int8_t planes[MOST_INPUTS / TILE_BYTES * 2 * PLANE] ALIGNED = {0};
    uint32_t tiles[FEATURES * HIDDEN / 2] ALIGNED;
    if (inputs > MOST_INPUTS)
        return 1;
    quantise(weight1, inputs, step, planes);
    pair_inputs(weight2, tiles);
#pragma omp parallel num_threads(threads)
    {
        uint16_t *own = (uint16_t *)(room + omp_get_thread_num() * forward_room(cells));
        float *out = (float *)(own + group_rows(cells) * HIDDEN);
        configure();
#pragma omp for schedule(static)
        for (int64_t s = 0; s < stacks; s += GROUP) {
            const int64_t n = stacks - s < GROUP ? stacks - s : GROUP;
            uint16_t *h = kept ? kept + s * cells * HIDDEN : own;
            first_layer(patches + s * of_stack, n * cells * PATCH, (stacks - s) * of_stack, inputs, planes, step, bias1, h);
            second_layer(h, whole(n * cells, TILE), tiles, out);
            for (int64_t i = 0; i < n; i++)
                finish_features(out + i * cells * FEATURES, cells, bias2, features + (s + i) * FEATURES * cells);
        }
        _tile_release();
    }
    return 0;
}

/* Adds one thread's sums to the gradients. */
static void add(const float *sum1, const float *total1, const float *sum2, const float *total2, int64_t inputs, int64_t width, float *weight1, float *bias1, float *weight2, float *bias2) {
    for (int channel = 0; channel < CHANNELS; channel++) {
        bias1[channel] += total1[channel % 2 * TILE + channel / 2];
        for (int64_t k = 0; k < inputs; k++)
            weight1[channel * inputs + k] += sum1[channel * width + k] / 255;
    }
    for (int channel = 0; channel < FEATURES; channel++)
        bias2[channel] += total2[channel];
    for (int64_t k = 0; k < FEATURES * HIDDEN; k++)
        weight2[k] += sum2[k];
}

/* What of the gradient of features reaches the parameters, added to the gradients of each, one thread after the other. */
ON_TILES int backward(const uint8_t *patches, const uint16_t *kept, const float *features, const float *gradient, int64_t stacks, int64_t cells, int64_t inputs, const float *weight2,
                      float *weight1_gradient, float *bias1_gradient, float *weight2_gradient, float *bias2_gradient, uint8_t *room, int64_t threads) {
    const int64_t width = whole(inputs, RUN), most = group_rows(cells), of_stack = FEATURES * cells, of_patches = cells * PATCH * inputs;
    uint32_t channel_pairs[FEATURES / 2 * HIDDEN] ALIGNED;
    if (inputs > MOST_INPUTS)
        return 1;
    pair_channels(weight2, channel_pairs);
#pragma omp parallel num_threads(threads)
    {
        uint16_t *through = (uint16_t *)(room + omp_get_thread_num() * backward_room(cells, inputs));
        uint16_t *by_cell = through + most * HIDDEN, *by_channel = by_cell + most * FEATURES, *masked = by_channel + most * FEATURES;
        uint32_t *pairs = (uint32_t *)(masked + of_stack);
        float *sum2 = (float *)(pairs + most / 2 * RUN), *total2 = sum2 + FEATURES * HIDDEN, *sum1 = total2 + FEATURES, *total1 = sum1 + CHANNELS * width;
        memset(sum2, 0, (size_t)(FEATURES * (HIDDEN + 1) + CHANNELS * (width + 1)) * sizeof *sum2);
        configure();
#pragma omp for schedule(static)
        for (int64_t s = 0; s < stacks; s += GROUP) {
            const int64_t n = stacks - s < GROUP ? stacks - s : GROUP, rows = n * cells;
            const uint16_t *h = kept + s * cells * HIDDEN;
            memset(by_cell, 0, (size_t)(2 * most * FEATURES) * sizeof *by_cell);
            for (int64_t i = 0; i < n; i++)
                start_gradient(features + (s + i) * of_stack, gradient + (s + i) * of_stack, cells, most, masked, by_cell + i * cells * FEATURES, by_channel + i * cells, total2);
            second_layer_gradient(by_channel, h, rows, most, pairs, sum2);
            through_second_layer(by_cell, whole(rows, RUN), channel_pairs, through);
            first_layer_gradients(patches + s * of_patches, h, through, rows * PATCH, (stacks - s) * of_patches, inputs, width, sum1, total1);
        }
        _tile_release();
#pragma omp for ordered schedule(static, 1)
        for (int thread = 0; thread < omp_get_num_threads(); thread++)
#pragma omp ordered
            add(sum1, total1, sum2, total2, inputs, width, weight1_gradient, bias1_gradient, weight2_gradient, bias2_gradient);
    }
    return 0;
}
#endif
