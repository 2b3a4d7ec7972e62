/* Tiles in memory, multiplied by AVX-512: for processors without matrix units. The names and the arguments are those of
   AMX's intrinsics, so that the layers are written once.

   A tile is a place in memory until it is a sum: then its numbers are its own. Memory that a tile was loaded from must
   not change before its last use. A left operand is widened to float32 once, even and odd columns apart, so that one
   instruction multiplies one of its numbers, from memory, by sixteen columns:

       left row r     a0 a1 | a2 a3 | ...      wide[r]  a0 a2 a4 ... a30 | a1 a3 a5 ... a31
       right pair p   x0 y0 | x1 y1 | ...      -> x0 x1 ... x15,  y0 y1 ... y15
       sums[r] += wide[r][p] x + wide[r][16 + p] y

   This is twice as fast as AVX-512's own product of bfloat16 on Intel's processors. Denormal numbers are zeros, as on
   the matrix units. Sixteen sums stay in registers for 32 inner columns, and each number is loaded for one product: a
   block of two tiles by two tiles loads half as much, see the end. */
#define AMX_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vnni,fma")))

typedef struct {
    float sums[TILE * TILE] ALIGNED;
    float wide[TILE * BLOCK] ALIGNED;
    const char *at; /* NULL: sums hold the tile's numbers */
    int64_t row;    /* bytes from one row to the next */
    int widened;
} Tile;

static _Thread_local Tile tiles[8];
static _Thread_local unsigned control;

/* Intel's processors: others may multiply bfloat16 faster, and were not tried. */
int supported(void) {
    unsigned eax, ebx, ecx, edx, eax1 = 0, ignored, vendor[3];
    if (!__get_cpuid(0, &eax, &vendor[0], &vendor[2], &vendor[1]) || memcmp(vendor, "GenuineIntel", sizeof vendor) ||
        !__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) ||
        !__get_cpuid_count(7, 1, &eax1, &ignored, &ignored, &ignored))
        return 0;
    const unsigned avx512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;                  /* F, DQ, BW, VL */
    return (ebx & avx512) == avx512 && ecx >> 11 & 1 && eax1 >> 5 & 1 &&                /* VNNI, bf16 */
           __builtin_cpu_supports("avx512f");                                           /* the kernel's part */
}

static inline void configure_tiles(void) {
    const unsigned flush_to_zero = 1u << 15, denormals_are_zeros = 1u << 6;
    control = _mm_getcsr();
    _mm_setcsr(control | flush_to_zero | denormals_are_zeros);
}

static inline void release_tiles(void) { _mm_setcsr(control); }

AMX_TARGET static inline void clear_tile(int t) {
    for (int r = 0; r < TILE; r++)
        _mm512_store_ps(tiles[t].sums + r * TILE, _mm512_setzero_ps());
    tiles[t].at = NULL;
}

static inline void load_tile(int t, const void *at, int64_t row) {
    tiles[t].at = at;
    tiles[t].row = row;
    tiles[t].widened = 0;
}

AMX_TARGET static inline float *own_sums(Tile *tile) {
    if (tile->at)
        for (int r = 0; r < TILE; r++)
            _mm512_store_ps(tile->sums + r * TILE, _mm512_loadu_ps(tile->at + r * tile->row));
    tile->at = NULL;
    return tile->sums;
}

AMX_TARGET static inline void store_tile(int t, void *to, int64_t row) {
    const float *sums = own_sums(&tiles[t]);
    for (int r = 0; r < TILE; r++)
        _mm512_storeu_ps((char *)to + r * row, _mm512_load_ps(sums + r * TILE));
}

/* The lower and the upper numbers of sixteen pairs, in float32. */
AMX_TARGET static inline __m512 lower_numbers(__m512i pairs) { return (__m512)_mm512_slli_epi32(pairs, 16); }
AMX_TARGET static inline __m512 upper_numbers(__m512i pairs) {
    return (__m512)_mm512_and_si512(pairs, _mm512_set1_epi32((int)0xffff0000));
}

/* Widens sixteen rows of pairs: lower numbers, and upper ones `upper` numbers further on. */
AMX_TARGET static inline void widen_rows(const void *from, int64_t row, float *to, int64_t upper) {
    for (int r = 0; r < TILE; r++) {
        const __m512i pairs = _mm512_loadu_si512((const char *)from + r * row);
        _mm512_store_ps(to + r * BLOCK, lower_numbers(pairs));
        _mm512_store_ps(to + r * BLOCK + upper, upper_numbers(pairs));
    }
}

AMX_TARGET static inline const float *widen(Tile *tile) {
    if (!tile->widened)
        widen_rows(tile->at, tile->row, tile->wide, TILE);
    tile->widened = 1;
    return tile->wide;
}

AMX_TARGET static __attribute__((noinline)) void add_wide(float *c, const float *a, const char *b, int64_t b_row) {
    __m512 sums[TILE];
    for (int r = 0; r < TILE; r++)
        sums[r] = _mm512_load_ps(c + r * TILE);
    for (int p = 0; p < TILE; p++) {
        const __m512i pairs = _mm512_loadu_si512(b + p * b_row);
        const __m512 lower = lower_numbers(pairs), upper = upper_numbers(pairs);
#pragma GCC unroll 16
        for (int r = 0; r < TILE; r++)
            sums[r] = _mm512_fmadd_ps(_mm512_set1_ps(a[r * BLOCK + p]), lower, sums[r]);
#pragma GCC unroll 16
        for (int r = 0; r < TILE; r++)
            sums[r] = _mm512_fmadd_ps(_mm512_set1_ps(a[r * BLOCK + TILE + p]), upper, sums[r]);
    }
    for (int r = 0; r < TILE; r++)
        _mm512_store_ps(c + r * TILE, sums[r]);
}

/* Tile c += a b in bfloat16. */
AMX_TARGET static inline void multiply_tiles(int c, int a, int b) {
    add_wide(own_sums(&tiles[c]), widen(&tiles[a]), tiles[b].at, tiles[b].row);
}

/* Blocks of two tiles by two tiles: both operands are widened, and each number of a left row is multiplied by the 32
   columns of both right tiles. */

/* Rows that are multiplied together: their sums fill half of the registers. */
#define AT_ONCE 8

/* AT_ONCE rows of the sums of both tiles += left [AT_ONCE][32] right [32][32]. */
AMX_TARGET static __attribute__((noinline)) void multiply_rows(const float *left, const float *right, float *sums,
                                                                float *right_sums) {
    __m512 a[AT_ONCE], b[AT_ONCE];
#pragma GCC unroll 8
    for (int r = 0; r < AT_ONCE; r++) {
        a[r] = _mm512_load_ps(sums + r * TILE);
        b[r] = _mm512_load_ps(right_sums + r * TILE);
    }
    for (int k = 0; k < BLOCK; k++) {
        const __m512 x = _mm512_load_ps(right + k * BLOCK), y = _mm512_load_ps(right + k * BLOCK + TILE);
#pragma GCC unroll 8
        for (int r = 0; r < AT_ONCE; r++) {
            const __m512 number = _mm512_set1_ps(left[r * BLOCK + k]);
            a[r] = _mm512_fmadd_ps(number, x, a[r]);
            b[r] = _mm512_fmadd_ps(number, y, b[r]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < AT_ONCE; r++) {
        _mm512_store_ps(sums + r * TILE, a[r]);
        _mm512_store_ps(right_sums + r * TILE, b[r]);
    }
}

AMX_TARGET static inline void add_product(const void *a, const void *a_lower, int64_t a_row, const void *b,
                                          const void *b_right, int64_t b_row) {
    float left[BLOCK * BLOCK] ALIGNED, right[BLOCK * BLOCK] ALIGNED;
    widen_rows(a, a_row, left, TILE);
    widen_rows(a_lower, a_row, left + TILE * BLOCK, TILE);
    widen_rows(b, b_row, right, TILE * BLOCK);
    widen_rows(b_right, b_row, right + TILE, TILE * BLOCK);
    for (int r = 0; r < BLOCK; r += AT_ONCE)
        multiply_rows(left + r * BLOCK, right, own_sums(&tiles[r / TILE * 2]) + r % TILE * TILE,
                      own_sums(&tiles[r / TILE * 2 + 1]) + r % TILE * TILE);
}

/* sums += four unsigned times four signed bytes, in each lane. With the intrinsic, GCC 12 copies the sums, which takes
   1.4 times as long. */
#define add_bytes(sums, left, right) __asm__("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(left), "v"(right))

AMX_TARGET static inline void multiply_bytes(const uint8_t *left, int64_t inputs, const int8_t *right, int64_t block,
                                             int32_t *out) {
    for (int64_t i = 0; i < BLOCK; i += AT_ONCE, left += AT_ONCE * inputs, out += AT_ONCE * BLOCK) {
        __m512i a[AT_ONCE], b[AT_ONCE];
#pragma GCC unroll 8
        for (int r = 0; r < AT_ONCE; r++)
            a[r] = b[r] = _mm512_setzero_si512();
        for (int64_t k = 0; k < inputs; k += 4) {
            const int8_t *row = right + k / TILE_BYTES * block + k % TILE_BYTES / 4 * TILE_BYTES;
            const __m512i x = _mm512_load_si512(row), y = _mm512_load_si512(row + TILE * TILE_BYTES);
#pragma GCC unroll 8
            for (int r = 0; r < AT_ONCE; r++) {
                int32_t four;
                memcpy(&four, left + r * inputs + k, sizeof four);
                const __m512i numbers = _mm512_set1_epi32(four);
                add_bytes(a[r], numbers, x);
                add_bytes(b[r], numbers, y);
            }
        }
#pragma GCC unroll 8
        for (int r = 0; r < AT_ONCE; r++) {
            _mm512_store_si512(out + r * BLOCK, a[r]);
            _mm512_store_si512(out + r * BLOCK + TILE, b[r]);
        }
    }
}
