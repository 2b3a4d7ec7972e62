/* The first convolution of Atari's encoder, 5 x 5 with a stride of 5 and 32 channels, on the processor's matrix units (AMX): patches of bytes in, ReLU, bfloat16 out; and the
   gradients of its parameters. Bytes are multiplied as they are, so that no widened copy of the pixels passes through memory.
   The plain twin is networks.atari._widened_product. */
#include <stdint.h>

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <immintrin.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#ifdef _OPENMP
#include <omp.h>
#else
#define omp_get_num_threads() 1
#endif

#define ON_TILES __attribute__((target("amx-tile,amx-int8,amx-bf16,avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,fma")))
#define CHANNELS 32
/* A tile has 16 rows of 64 bytes; work goes in runs of two tiles of rows. */
#define TILE 16
#define TILE_BYTES 64
#define RUN (2 * TILE)
#define MOST_INPUTS 512
#define ALIGNED __attribute__((aligned(TILE_BYTES)))

/* Whether processor and kernel let this process use the matrix units. */
int supported(void) {
    unsigned a, vectors, c, units, more = 0, ignored;
    if (!__get_cpuid_count(7, 0, &a, &vectors, &c, &units) || !__get_cpuid_count(7, 1, &more, &ignored, &c, &ignored))
        return 0;
    const unsigned wanted_vectors = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31; /* AVX-512 F, DQ, BW, VL */
    const unsigned wanted_units = 1u << 22 | 1u << 24 | 1u << 25;               /* AMX bf16, tile, int8 */
    const int there = (vectors & wanted_vectors) == wanted_vectors && (units & wanted_units) == wanted_units && more >> 5 & 1; /* AVX-512 bf16 */
    const long ask_for_state = 0x1023, of_tiles = 18;
    return there && !syscall(SYS_arch_prctl, ask_for_state, of_tiles);
}

/* Every tile as large as it may be. */
ON_TILES static void configure(void) {
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } tiles = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        tiles.row_bytes[i] = TILE_BYTES;
        tiles.rows[i] = TILE;
    }
    _tile_loadconfig(&tiles);
}

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
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
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
    const int64_t row = CHANNELS * sizeof *out;
    _tile_stored(0, out, row);
    _tile_stored(1, out + TILE, row);
    _tile_stored(2, out + TILE * CHANNELS, row);
    _tile_stored(3, out + TILE * CHANNELS + TILE, row);
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

/* patches: uint8 [rows, inputs], weight: [32, inputs], bias: [32] -> out: bfloat16 [rows, 32], ReLU(patches weight^T / 255 + bias). Returns 0, or 1 for too many inputs. */
ON_TILES int forward(const uint8_t *patches, int64_t rows, int64_t inputs, const float *weight, const float *bias, uint16_t *out) {
    float step[CHANNELS];
    int8_t planes[MOST_INPUTS / TILE_BYTES * 2 * PLANE] ALIGNED = {0};
    if (inputs > MOST_INPUTS)
        return 1;
    quantise(weight, inputs, step, planes);
#pragma omp parallel
    {
        int32_t high[RUN * CHANNELS] ALIGNED, low[RUN * CHANNELS] ALIGNED;
        uint8_t last[RUN * MOST_INPUTS + TILE_BYTES];
        configure();
#pragma omp for schedule(static)
        for (int64_t first = 0; first < rows; first += RUN) {
            const uint8_t *run = patches + first * inputs;
            const int64_t n = rows - first < RUN ? rows - first : RUN;
            if ((first + RUN) * inputs + TILE_BYTES > rows * inputs) /* tiles read past the rows that they need */
                run = memcpy(last, run, (size_t)(n * inputs));
            multiply(run, inputs, planes, high);
            multiply(run, inputs, planes + PLANE, low);
            for (int64_t r = 0; r < n; r++)
                finish(high + r * CHANNELS, low + r * CHANNELS, step, bias, out + (first + r) * CHANNELS);
        }
        _tile_release();
    }
    return 0;
}

/* A run's gradient where the output is not 0, as a tile for each half of the channels: bfloat16 [32 channels][16 pairs of rows p and p + 16]. Even channels' sums are added to
   total[0..15], odd ones' to total[16..31]. n rows count. */
ON_TILES static inline void transpose(const uint16_t *out, const uint16_t *gradient, int64_t n, uint32_t *columns, float *total) {
    const __m512i upper = _mm512_set1_epi32((int)0xffff0000);
    uint32_t kept[RUN * TILE] ALIGNED = {0}; /* pairs of channels */
    __m512 even = _mm512_loadu_ps(total), odd = _mm512_loadu_ps(total + TILE);
    for (int64_t r = 0; r < n; r++) {
        const __mmask32 shown = _mm512_test_epi16_mask(_mm512_loadu_si512(out + r * CHANNELS), _mm512_set1_epi16(0x7fff));
        const __m512i g = _mm512_maskz_loadu_epi16(shown, gradient + r * CHANNELS);
        even = _mm512_add_ps(even, (__m512)_mm512_slli_epi32(g, 16));
        odd = _mm512_add_ps(odd, (__m512)_mm512_and_si512(g, upper));
        _mm512_store_si512(kept + r * TILE, g);
    }
    _mm512_storeu_ps(total, even);
    _mm512_storeu_ps(total + TILE, odd);
    const __m512i rows = _mm512_mullo_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), _mm512_set1_epi32(TILE));
    for (int c = 0; c < TILE; c++) {
        const __m512i a = _mm512_i32gather_epi32(rows, kept + c, 4), b = _mm512_i32gather_epi32(rows, kept + TILE * TILE + c, 4);
        _mm512_store_si512(columns + 2 * c * TILE, _mm512_or_si512(_mm512_andnot_si512(upper, a), _mm512_slli_epi32(b, 16)));
        _mm512_store_si512(columns + (2 * c + 1) * TILE, _mm512_or_si512(_mm512_srli_epi32(a, 16), _mm512_and_si512(b, upper)));
    }
}

/* A run of patches widened to bfloat16: [16 pairs of rows p and p + 16][width]. n rows count. */
ON_TILES static inline void interleave(const uint8_t *patches, int64_t n, int64_t inputs, int64_t width, uint32_t *pairs) {
    for (int64_t p = 0; p < TILE; p++)
        for (int64_t k = 0; k < width; k += TILE) {
            const __mmask16 there = inputs - k >= TILE ? 0xffff : inputs > k ? (__mmask16)((1 << (inputs - k)) - 1) : 0;
            const uint8_t *upper = patches + p * inputs + k, *lower = upper + TILE * inputs;
            const __m512 a = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(p < n ? there : 0, upper)));
            const __m512 b = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(p + TILE < n ? there : 0, lower)));
            _mm512_store_si512(pairs + p * width + k, _mm512_or_si512(_mm512_srli_epi32((__m512i)a, 16), (__m512i)b));
        }
}

/* sum [32, width] += columns pairs, for two tiles of inputs from k on, over several runs. */
ON_TILES static inline void accumulate(const uint32_t *columns, const uint32_t *pairs, int64_t runs, int64_t width, int64_t k, float *sum) {
    const int64_t row = width * sizeof *sum;
    _tile_loadd(0, sum + k, row);
    _tile_loadd(1, sum + k + TILE, row);
    _tile_loadd(2, sum + TILE * width + k, row);
    _tile_loadd(3, sum + TILE * width + k + TILE, row);
    for (int64_t run = 0; run < runs; run++, columns += CHANNELS * TILE, pairs += TILE * width) {
        _tile_loadd(4, columns, TILE_BYTES);
        _tile_loadd(5, columns + TILE * TILE, TILE_BYTES);
        _tile_loadd(6, pairs + k, row);
        _tile_loadd(7, pairs + k + TILE, row);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, sum + k, row);
    _tile_stored(1, sum + k + TILE, row);
    _tile_stored(2, sum + TILE * width + k, row);
    _tile_stored(3, sum + TILE * width + k + TILE, row);
}

/* Adds one thread's sums to the gradients. */
static void add(const float *sum, const float *total, int64_t inputs, int64_t width, float *weight_gradient, float *bias_gradient) {
    for (int channel = 0; channel < CHANNELS; channel++) {
        bias_gradient[channel] += total[channel % 2 * TILE + channel / 2];
        for (int64_t k = 0; k < inputs; k++)
            weight_gradient[channel * inputs + k] += sum[channel * width + k] / 255;
    }
}

/* Runs that are laid out before they are multiplied, so that the sums are not loaded for each. */
#define AT_ONCE 4

/* What of the gradient of forward's out, bfloat16 [rows, 32], reaches its parameters, added to weight_gradient [32, inputs] and bias_gradient [32], one thread after the other. */
ON_TILES int backward(const uint8_t *patches, const uint16_t *out, const uint16_t *gradient, int64_t rows, int64_t inputs, float *weight_gradient, float *bias_gradient) {
    const int64_t width = (inputs + RUN - 1) / RUN * RUN;
    if (inputs > MOST_INPUTS)
        return 1;
#pragma omp parallel
    {
        float sum[CHANNELS * MOST_INPUTS] ALIGNED, total[CHANNELS] = {0};
        uint32_t columns[AT_ONCE * CHANNELS * TILE] ALIGNED, pairs[AT_ONCE * TILE * MOST_INPUTS] ALIGNED;
        memset(sum, 0, (size_t)(CHANNELS * width) * sizeof *sum);
        configure();
#pragma omp for schedule(static)
        for (int64_t first = 0; first < rows; first += AT_ONCE * RUN) {
            int64_t runs = 0;
            for (int64_t r = first; r < rows && runs < AT_ONCE; r += RUN, runs++) {
                const int64_t n = rows - r < RUN ? rows - r : RUN;
                transpose(out + r * CHANNELS, gradient + r * CHANNELS, n, columns + runs * CHANNELS * TILE, total);
                interleave(patches + r * inputs, n, inputs, width, pairs + runs * TILE * width);
            }
            for (int64_t k = 0; k < width; k += RUN)
                accumulate(columns, pairs, runs, width, k, sum);
        }
        _tile_release();
#pragma omp for ordered schedule(static, 1)
        for (int thread = 0; thread < omp_get_num_threads(); thread++)
#pragma omp ordered
            add(sum, total, inputs, width, weight_gradient, bias_gradient);
    }
    return 0;
}
#else
int supported(void) { return 0; }
#endif
