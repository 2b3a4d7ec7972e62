/* Tiles in the registers of the matrix units. GCC's intrinsics are macros: the number of a tile is part of the
   instruction. */
#include <sys/syscall.h>
#include <unistd.h>

#define AMX_TARGET                                                                                                     \
    __attribute__((target("amx-tile,amx-int8,amx-bf16,avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,fma")))
#define load_tile(t, at, row) _tile_loadd(t, at, row)
#define store_tile(t, to, row) _tile_stored(t, to, row)
#define clear_tile(t) _tile_zero(t)
#define multiply_tiles(c, a, b) _tile_dpbf16ps(c, a, b)
#define multiply_byte_tiles(c, a, b) _tile_dpbusd(c, a, b)
#define release_tiles() _tile_release()

/* Whether the processor has the instructions and the kernel lets this process use the tiles. */
int supported(void) {
    unsigned eax, ebx, ecx, edx, eax1 = 0, ignored;
    if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) || !__get_cpuid_count(7, 1, &eax1, &ignored, &ecx, &ignored))
        return 0;
    const unsigned avx512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;                   /* F, DQ, BW, VL */
    const unsigned amx = 1u << 22 | 1u << 24 | 1u << 25;                                 /* bf16, tile, int8 */
    const int present = (ebx & avx512) == avx512 && (edx & amx) == amx && eax1 >> 5 & 1; /* AVX-512 bf16 */
    const long arch_req_xcomp_perm = 0x1023, xfeature_xtiledata = 18;
    return present && !syscall(SYS_arch_prctl, arch_req_xcomp_perm, xfeature_xtiledata);
}

/* Configures all eight tiles at their full size: palette, bytes per row, rows. */
AMX_TARGET static void configure_tiles(void) {
    static const uint16_t tiles[TILE_BYTES / 2] = {[0] = 1, [8 ... 15] = TILE_BYTES, [24 ... 27] = TILE << 8 | TILE};
    COMPILER_BARRIER();
    _tile_loadconfig(tiles);
}
