/* What every source that multiplies tiles shares. README.md beside this file has pictures of the layouts. */
#include <stdint.h>

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <immintrin.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#else
#define omp_get_num_threads() 1
#define omp_get_thread_num() ((void)threads, 0)
#endif

/* A tile has 16 rows of 64 bytes. Products are computed in blocks of two tiles by two tiles. */
#define TILE 16
#define TILE_BYTES 64
#define BLOCK (2 * TILE)
#define ALIGNED __attribute__((aligned(TILE_BYTES)))

static inline int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

/* GCC's tile loads do not declare that they read memory. The barrier makes earlier stores happen before them. */
#define COMPILER_BARRIER() __asm__ volatile("" ::: "memory")

#ifdef VECTOR_TILES
#include "vectors.h"
#else
#include "units.h"
#endif

/* Tiles 0 to 3 are accumulators: two tiles of rows by two tiles of columns of 4 bytes, of a matrix with so many
   columns. */
AMX_TARGET static inline void clear_sums(void) {
    clear_tile(0);
    clear_tile(1);
    clear_tile(2);
    clear_tile(3);
}

AMX_TARGET static inline void load_sums(const float *from, int64_t columns) {
    const int64_t row = columns * sizeof *from;
    COMPILER_BARRIER();
    load_tile(0, from, row);
    load_tile(1, from + TILE, row);
    load_tile(2, from + TILE * columns, row);
    load_tile(3, from + TILE * columns + TILE, row);
}

AMX_TARGET static inline void store_sums(float *to, int64_t columns) {
    const int64_t row = columns * sizeof *to;
    store_tile(0, to, row);
    store_tile(1, to + TILE, row);
    store_tile(2, to + TILE * columns, row);
    store_tile(3, to + TILE * columns + TILE, row);
}

/* Accumulators += a b in bfloat16. a: two tiles of rows; b: two tiles of columns in VNNI pairs. a_row, b_row: bytes
   from one row of a tile to the next. */
AMX_TARGET static inline void add_product(const void *a, const void *a_lower, int64_t a_row, const void *b,
                                          const void *b_right, int64_t b_row);

/* out: int32 [32, 32] = left, unsigned bytes [32, inputs], times right, signed bytes: two tiles of columns for 64
   inputs, `block` bytes further on those for the next 64, zeros where there are no inputs. May read 63 bytes past the
   end of left, and use the accumulators. */
AMX_TARGET static inline void multiply_bytes(const uint8_t *left, int64_t inputs, const int8_t *right, int64_t block,
                                             int32_t *out);

#ifndef VECTOR_TILES
AMX_TARGET static inline void add_product(const void *a, const void *a_lower, int64_t a_row, const void *b,
                                          const void *b_right, int64_t b_row) {
    COMPILER_BARRIER();
    load_tile(4, a, a_row);
    load_tile(5, a_lower, a_row);
    load_tile(6, b, b_row);
    load_tile(7, b_right, b_row);
    multiply_tiles(0, 4, 6);
    multiply_tiles(1, 4, 7);
    multiply_tiles(2, 5, 6);
    multiply_tiles(3, 5, 7);
}

AMX_TARGET static inline void multiply_bytes(const uint8_t *left, int64_t inputs, const int8_t *right, int64_t block,
                                             int32_t *out) {
    clear_sums();
    COMPILER_BARRIER();
    for (int64_t k = 0; k < inputs; k += TILE_BYTES, right += block) {
        load_tile(4, left + k, inputs);
        load_tile(5, left + k + TILE * inputs, inputs);
        load_tile(6, right, TILE_BYTES);
        load_tile(7, right + TILE * TILE_BYTES, TILE_BYTES);
        multiply_byte_tiles(0, 4, 6);
        multiply_byte_tiles(1, 4, 7);
        multiply_byte_tiles(2, 5, 6);
        multiply_byte_tiles(3, 5, 7);
    }
    store_sums((float *)out, BLOCK);
}
#endif

/* Transposes sixteen rows of sixteen 32-bit numbers. */
AMX_TARGET static inline void transpose16(__m512i r[TILE]) {
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
        const __m512i even = _mm512_shuffle_i32x4(r[j], r[4 + j], 0x88),
                      even2 = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0x88);
        const __m512i odd = _mm512_shuffle_i32x4(r[j], r[4 + j], 0xdd),
                      odd2 = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0xdd);
        r[j] = _mm512_shuffle_i32x4(even, even2, 0x88);
        r[8 + j] = _mm512_shuffle_i32x4(even, even2, 0xdd);
        r[4 + j] = _mm512_shuffle_i32x4(odd, odd2, 0x88);
        r[12 + j] = _mm512_shuffle_i32x4(odd, odd2, 0xdd);
    }
}

/* Rounds two rows to bfloat16 and interleaves them: a VNNI pair in each 32-bit lane. */
AMX_TARGET static inline __m512i round_pairs(__m512 lower, __m512 upper) {
    const __m512i a = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(lower)),
                  b = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(upper));
    return _mm512_or_si512(a, _mm512_slli_epi32(b, 16));
}
#else
int supported(void) { return 0; }
#endif
