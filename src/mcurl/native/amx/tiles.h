/* The processor's matrix units (AMX): what every source that multiplies on them has in common. */
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
#define omp_get_thread_num() ((void)threads, 0)
#endif

#define ON_TILES __attribute__((target("amx-tile,amx-int8,amx-bf16,avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,fma")))
/* A tile has 16 rows of 64 bytes; work goes in runs of two tiles of rows. */
#define TILE 16
#define TILE_BYTES 64
#define RUN (2 * TILE)
#define ALIGNED __attribute__((aligned(TILE_BYTES)))

static inline int64_t whole(int64_t n, int64_t of) { return (n + of - 1) / of * of; }

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

/* GCC's loads of tiles do not say that they read memory: what was written before must be there. */
#define WRITTEN() __asm__ volatile("" ::: "memory")

/* Every tile as large as it may be: palette, bytes of a row, rows. */
ON_TILES static void configure(void) {
    static const uint16_t tiles[TILE_BYTES / 2] = {1, 0, 0, 0, 0, 0, 0, 0, TILE_BYTES, TILE_BYTES, TILE_BYTES, TILE_BYTES, TILE_BYTES, TILE_BYTES, TILE_BYTES, TILE_BYTES,
                                                   0, 0, 0, 0, 0, 0, 0, 0, 0x1010, 0x1010, 0x1010, 0x1010};
    WRITTEN();
    _tile_loadconfig(tiles);
}

/* Tiles 0 to 3 are sums: two tiles of rows by two tiles of columns of 4 bytes, in a matrix with so many columns. */
ON_TILES static inline void clear_sums(void) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}

ON_TILES static inline void load_sums(const float *from, int64_t columns) {
    const int64_t row = columns * sizeof *from;
    WRITTEN();
    _tile_loadd(0, from, row);
    _tile_loadd(1, from + TILE, row);
    _tile_loadd(2, from + TILE * columns, row);
    _tile_loadd(3, from + TILE * columns + TILE, row);
}

ON_TILES static inline void store_sums(float *to, int64_t columns) {
    const int64_t row = columns * sizeof *to;
    _tile_stored(0, to, row);
    _tile_stored(1, to + TILE, row);
    _tile_stored(2, to + TILE * columns, row);
    _tile_stored(3, to + TILE * columns + TILE, row);
}

/* sums += a b in bfloat16: two tiles of rows of a, two tiles of columns of b in pairs; the bytes from one row of a tile to the next. */
ON_TILES static inline void add_product(const void *a, const void *lower_a, int64_t a_row, const void *b, const void *right_b, int64_t b_row) {
    WRITTEN();
    _tile_loadd(4, a, a_row);
    _tile_loadd(5, lower_a, a_row);
    _tile_loadd(6, b, b_row);
    _tile_loadd(7, right_b, b_row);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
}

/* Sixteen rows of sixteen numbers become columns. */
ON_TILES static inline void turn(__m512i r[TILE]) {
    __m512i t[TILE];
    for (int i = 0; i < TILE; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < TILE; i += 4)
        for (int j = 0; j < 2; j++) {
            r[i + 2 * j] = _mm512_unpacklo_epi64(t[i + j], t[i + j + 2]);
            r[i + 2 * j + 1] = _mm512_unpackhi_epi64(t[i + j], t[i + j + 2]);
        }
    /* Now lane l of r[4 i + j] is column 4 l + j of rows 4 i to 4 i + 3. */
    for (int j = 0; j < 4; j++) {
        const __m512i even = _mm512_shuffle_i32x4(r[j], r[4 + j], 0x88), even2 = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0x88);
        const __m512i odd = _mm512_shuffle_i32x4(r[j], r[4 + j], 0xdd), odd2 = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0xdd);
        r[j] = _mm512_shuffle_i32x4(even, even2, 0x88);
        r[8 + j] = _mm512_shuffle_i32x4(even, even2, 0xdd);
        r[4 + j] = _mm512_shuffle_i32x4(odd, odd2, 0x88);
        r[12 + j] = _mm512_shuffle_i32x4(odd, odd2, 0xdd);
    }
}

/* Two rows of numbers rounded to bfloat16, a number of each in a pair. */
ON_TILES static inline __m512i rounded_pairs(__m512 lower, __m512 upper) {
    const __m512i a = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(lower)), b = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(upper));
    return _mm512_or_si512(a, _mm512_slli_epi32(b, 16));
}
#else
int supported(void) { return 0; }
#endif
