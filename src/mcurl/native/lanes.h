/* The vectors that winograd.h is written in: sixteen float32 of AVX-512, or, with LANES_8, eight of AVX2. A number is
   computed by the same operations in the same order in both, so results are equal, bit by bit. */
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

#ifdef LANES_8
#define TARGET __attribute__((target("avx2,fma")))
#define LANES 8
#define UNIT 4    /* rows that are multiplied together: of patches or filters, */
#define WINDOWS 6 /* and of windows, or numbers of them */
typedef __m256 Vector;

static inline int has_lanes(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

#define fill(number) _mm256_set1_ps(number)
#define load(from) _mm256_loadu_ps(from)
#define store(to, x) _mm256_storeu_ps(to, x)
#define plus(a, b) _mm256_add_ps(a, b)
#define minus(a, b) _mm256_sub_ps(a, b)
#define product(a, b) _mm256_mul_ps(a, b)
#define fused(a, b, c) _mm256_fmadd_ps(a, b, c)            /* a b + c */
#define fused_minus(a, b, c) _mm256_fnmadd_ps(a, b, c)     /* c - a b */
#define first_of(x) _mm256_cvtss_f32(x)

TARGET INLINE Vector load_bfloat16(const void *from) {
    return (Vector)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(from)), 16);
}

TARGET INLINE Vector load_bytes(const void *from) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(from)));
}

/* Rounds to the nearest bfloat16, to even where two are as near. NaN stays NaN. */
TARGET INLINE void store_bfloat16(void *to, Vector x) {
    const __m256i bits = (__m256i)x, last = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1)),
                  up = _mm256_add_epi32(bits, _mm256_add_epi32(last, _mm256_set1_epi32(0x7fff))),
                  quiet = _mm256_or_si256(bits, _mm256_set1_epi32(1 << 22)),
                  nan = (__m256i)_mm256_cmp_ps(x, x, _CMP_UNORD_Q),
                  rounded = _mm256_srli_epi32(_mm256_blendv_epi8(up, quiet, nan), 16);
    const __m128i low = _mm256_castsi256_si128(rounded), high = _mm256_extracti128_si256(rounded, 1);
    _mm_storeu_si128(to, _mm_packus_epi32(low, high));
}

/* ReLU. NaN stays NaN. */
TARGET INLINE Vector relu(Vector x) { return _mm256_and_ps(_mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_NLE_UQ), x); }

/* A gradient where the map is not 0. */
TARGET INLINE Vector masked(Vector gradient, Vector map) {
    return _mm256_and_ps(_mm256_cmp_ps(map, _mm256_setzero_ps(), _CMP_NEQ_UQ), gradient);
}

/* Numbers of pixels: bytes, bfloat16 or float32. */
TARGET INLINE Vector load_pixels(const char *from, int64_t bytes) {
    return bytes == sizeof(float) ? load((const float *)from) : bytes == 2 ? load_bfloat16(from) : load_bytes(from);
}

/* Widens n numbers of pixels. */
TARGET INLINE void widen(const char *from, int64_t n, int64_t bytes, float *to) {
    if (n < LANES) {
        char numbers[LANES * sizeof(float)] = {0};
        float widened[LANES];
        memcpy(numbers, from, (size_t)(n * bytes));
        store(widened, load_pixels(numbers, bytes));
        memcpy(to, widened, (size_t)n * sizeof *to);
        return;
    }
    for (int64_t at = 0; at + LANES <= n; at += LANES)
        store(to + at, load_pixels(from + at * bytes, bytes));
    store(to + n - LANES, load_pixels(from + (n - LANES) * bytes, bytes)); /* the rest, with some again */
}
#else
#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,fma")))
#define LANES 16
#define UNIT 8
#define WINDOWS 14
typedef __m512 Vector;

static inline int has_lanes(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}

#define fill(number) _mm512_set1_ps(number)
#define load(from) _mm512_loadu_ps(from)
#define store(to, x) _mm512_storeu_ps(to, x)
#define plus(a, b) _mm512_add_ps(a, b)
#define minus(a, b) _mm512_sub_ps(a, b)
#define product(a, b) _mm512_mul_ps(a, b)
#define fused(a, b, c) _mm512_fmadd_ps(a, b, c)
#define fused_minus(a, b, c) _mm512_fnmadd_ps(a, b, c)
#define first_of(x) _mm512_cvtss_f32(x)

TARGET INLINE Vector load_bfloat16(const void *from) {
    return (Vector)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(from)), 16);
}

TARGET INLINE void store_bfloat16(void *to, Vector x) {
    const __m512i bits = (__m512i)x, last = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1)),
                  up = _mm512_add_epi32(bits, _mm512_add_epi32(last, _mm512_set1_epi32(0x7fff)));
    const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    const __m512i rounded = _mm512_mask_or_epi32(up, nan, bits, _mm512_set1_epi32(1 << 22));
    _mm256_storeu_si256(to, _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16)));
}

TARGET INLINE Vector relu(Vector x) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_NLE_UQ), x);
}

TARGET INLINE Vector masked(Vector gradient, Vector map) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(map, _mm512_setzero_ps(), _CMP_NEQ_UQ), gradient);
}

/* Up to sixteen numbers of pixels. */
TARGET INLINE Vector load_pixels(const char *from, __mmask16 valid, int64_t bytes) {
    if (bytes == sizeof(float))
        return _mm512_maskz_loadu_ps(valid, from);
    if (bytes == 2)
        return (Vector)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(valid, from)), 16);
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(valid, from)));
}

TARGET INLINE void widen(const char *from, int64_t n, int64_t bytes, float *to) {
    for (int64_t at = 0; at < n; at += LANES) {
        const __mmask16 valid = n - at < LANES ? (__mmask16)((1u << (n - at)) - 1) : 0xffff;
        _mm512_mask_storeu_ps(to + at, valid, load_pixels(from + at * bytes, valid, bytes));
    }
}
#endif
