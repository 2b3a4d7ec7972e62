/* Gathers, crops and lays out stacks of frames as an encoder reads them, in one pass over the ring: channels-last, or
   as patches. The plain twin is FrameGather.gather_indexed. */
#include <stdint.h>
#include <string.h>
#ifdef __SSE2__
#include <immintrin.h>
#endif

#define MAX_CHANNELS 64

/* One row of pixels: channel d of pixel x comes from plane[d][x]. Inlined for each number of channels, so that the
   inner loop unrolls. */
static inline void interleave(const uint8_t *const *plane, int64_t size, int channels, uint8_t *out) {
    for (int64_t x = 0; x < size; x++)
        for (int d = 0; d < channels; d++)
            out[x * channels + d] = plane[d][x];
}

#if defined(__x86_64__) && defined(__GNUC__)
#define PERMUTE __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi")))
#define NINE 9
/* Pixels in a vector: seven of nine channels fill 63 bytes. */
#define PIXELS 7
#define PAIR (2 * PIXELS)

static int can_permute(void) { return __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512bw"); }

/* Four planes of 16 pixels. */
PERMUTE static inline __m512i load_planes(const uint8_t *const *plane, int64_t x, __mmask16 valid) {
    __m512i four = _mm512_castsi128_si512(_mm_maskz_loadu_epi8(valid, plane[0] + x));
    four = _mm512_inserti32x4(four, _mm_maskz_loadu_epi8(valid, plane[1] + x), 1);
    four = _mm512_inserti32x4(four, _mm_maskz_loadu_epi8(valid, plane[2] + x), 2);
    return _mm512_inserti32x4(four, _mm_maskz_loadu_epi8(valid, plane[3] + x), 3);
}

/* interleave() of nine channels: byte i of a vector comes from channel i % 9 of pixel i / 9. */
PERMUTE static void interleave_nine(const uint8_t *const *plane, int64_t size, uint8_t *out) {
    uint8_t places[2][64];
    for (int half = 0; half < 2; half++)
        for (int i = 0; i < 64; i++)
            places[half][i] = (uint8_t)(i % NINE % 8 * 16 + i / NINE % PIXELS + half * PIXELS);
    /* Places of the first eight channels are in two vectors of four planes; those of the ninth are in a third. */
    const __mmask64 ninth = 0x4020100804020100;
    for (int64_t x = 0; x < size; x += PAIR) {
        const int64_t left = size - x < PAIR ? size - x : PAIR;
        const __mmask16 valid = (__mmask16)((1u << left) - 1);
        const __m512i a = load_planes(plane, x, valid), b = load_planes(plane + 4, x, valid),
                      c = _mm512_castsi128_si512(_mm_maskz_loadu_epi8(valid, plane[8] + x));
        for (int half = 0; half < 2 && half * PIXELS < left; half++) {
            const __m512i place = _mm512_loadu_si512(places[half]);
            const int64_t bytes = (left - half * PIXELS < PIXELS ? left - half * PIXELS : PIXELS) * NINE;
            const __m512i nine = _mm512_mask_permutexvar_epi8(_mm512_permutex2var_epi8(a, place, b), ninth, place, c);
            _mm512_mask_storeu_epi8(out + (x + half * PIXELS) * NINE, ((__mmask64)1 << bytes) - 1, nine);
        }
    }
}
#else
static int can_permute(void) { return 0; }
static void interleave_nine(const uint8_t *const *plane, int64_t size, uint8_t *out) {
    interleave(plane, size, 9, out);
}
#endif

static inline int64_t clamp(int64_t value, int64_t last) { return value < 0 ? 0 : value > last ? last : value; }

/* frames: uint8 [rows, C, H, W]. slots: [N, K], the row of each frame of each stack, negative for a blank one. top,
   left, down, right: [N], the corners of crops and their places in the output. out: uint8 [N, size, size, K*C]. Returns
   0, or 1 for too many channels or too wide a crop. */
int gather(const uint8_t *frames, int64_t C, int64_t H, int64_t W, const int64_t *slots, int64_t K, const int64_t *top,
           const int64_t *left, const int64_t *down, const int64_t *right, int64_t N, int64_t crop, int64_t size,
           uint8_t *out) {
    static const uint8_t blank[4096];
    const int64_t channels = K * C;
    const int permute = can_permute();
    if (channels > MAX_CHANNELS || size > (int64_t)sizeof blank)
        return 1;
#pragma omp parallel for
    for (int64_t n = 0; n < N; n++) {
        const uint8_t *plane[MAX_CHANNELS];
        uint8_t *line = out + n * size * size * channels;
        /* The pixels of a line before begin and from end on repeat the crop's first and last column. */
        const int64_t begin = clamp(right[n], size), skip = right[n] < 0 ? -right[n] : 0;
        const int64_t visible = clamp(crop - skip, size - begin), end = begin + visible;
        for (int64_t y = 0; y < size; y++, line += size * channels) {
            const int64_t row = top[n] + clamp(y - down[n], crop - 1);
            for (int64_t d = 0; d < channels; d++) {
                const int64_t slot = slots[n * K + d / C];
                plane[d] = slot < 0 ? blank : frames + ((slot * C + d % C) * H + row) * W + left[n] + skip;
            }
            uint8_t *to = line + begin * channels;
            switch (channels) {
            case 9: permute ? interleave_nine(plane, visible, to) : interleave(plane, visible, 9, to); break;
            case 4: interleave(plane, visible, 4, to); break;
            case 3: interleave(plane, visible, 3, to); break;
            default: interleave(plane, visible, (int)channels, to);
            }
            for (int64_t x = 0; x < begin; x++)
                memcpy(line + x * channels, to, (size_t)channels);
            for (int64_t x = end; x < size; x++)
                memcpy(line + x * channels, line + (end - 1) * channels, (size_t)channels);
        }
    }
    return 0;
}

#define SIDE 5
#define BLOCK (SIDE * SIDE)
/* A row of a patch is copied as 8 bytes; the row after it overwrites the surplus. */
#define WORD 8
/* Lines are copied in whole vectors. */
#define VECTOR 16
#define MAX_WIDTH 4096

/* to[x] = from[clamp(x - right, 0, crop - 1)], x < width. */
static inline void shift_line(const uint8_t *from, int64_t right, int64_t crop, int64_t width, uint8_t *to) {
    const int64_t begin = clamp(right, width), skip = right < 0 ? -right : 0;
    const int64_t length = clamp(crop - skip, width - begin);
    memset(to, from[0], (size_t)begin);
    memcpy(to + begin, from + skip, (size_t)length);
    memset(to + begin + length, from[crop - 1], (size_t)(width - begin - length));
}

/* The same where only up to 16 pixels on the left are repeated, and the bytes behind the line may be read. */
static inline void shift_line_fast(const uint8_t *from, int64_t right, int64_t width, uint8_t *to) {
    memset(to, from[0], VECTOR);
    for (int64_t x = 0; x < width - right; x += VECTOR)
        memcpy(to + right + x, from + x, VECTOR);
}

/* Writes a line to the same row of X * 5 patches. */
static inline void write_patches(const uint8_t *line, int64_t X, int64_t patch, size_t bytes, uint8_t *to) {
    for (int64_t x = 0; x < X; x++)
        for (int64_t p = 0; p < SIDE; p++)
            memcpy(to + (x * BLOCK + p) * patch, line + (x * SIDE + p) * SIDE, bytes);
}

typedef struct {
    int64_t top, left, down, right, crop;
} Window;

/* One window of a stack. Inlined for Atari's sizes. */
static inline __attribute__((always_inline)) void cut_stack(const uint8_t *frames, int64_t C, int64_t H, int64_t W,
                                                            const int64_t *slots, int64_t channels, Window at,
                                                            int64_t Y, int64_t X, uint8_t *out) {
    static const uint8_t blank[MAX_WIDTH];
    uint8_t shifted[MAX_WIDTH + 2 * VECTOR];
    const int64_t width = X * BLOCK, patch = channels * BLOCK;
    const int inside_frame = at.right <= 0 && width - at.right <= at.crop,
              short_shift = at.right > 0 && at.right <= VECTOR && width - at.right <= at.crop;
    for (int64_t block = 0; block < Y * SIDE; block++) {
        uint8_t *to = out + (block / SIDE * X * BLOCK + block % SIDE * SIDE) * patch;
        for (int64_t d = 0; d < channels; d++)
            for (int64_t i = 0; i < SIDE; i++, to += SIDE) {
                const int64_t slot = slots[d / C], y = at.top + clamp(block * SIDE + i - at.down, at.crop - 1);
                const uint8_t *from = frames + ((slot * C + d % C) * H + y) * W + at.left, *line = shifted;
                if (slot < 0)
                    line = blank;
                else if (inside_frame && y < H - 1)
                    line = from - at.right; /* in place, with some bytes of the next line */
                else if (short_shift && y < H - 1)
                    shift_line_fast(from, at.right, width, shifted);
                else
                    shift_line(from, at.right, at.crop, width, shifted);
                if (d == channels - 1 && i == SIDE - 1)
                    write_patches(line, X, patch, SIDE, to);
                else
                    write_patches(line, X, patch, WORD, to);
            }
    }
}

/* A cache line, and the size of the buffer in which the patches of a stack are put together. Those of Atari fit. */
#define CACHE_LINE 64
#define BUFFER_BYTES (1 << 15)

/* Copies with stores that bypass the caches, where the processor has them: the data would be evicted before it is
   read. from and to have the same offset in a cache line. */
static inline void copy_uncached(const uint8_t *from, int64_t bytes, uint8_t *to) {
#ifdef __SSE2__
    const int64_t head = -(uintptr_t)to & (CACHE_LINE - 1), body = (bytes - head) / CACHE_LINE * CACHE_LINE;
    if (bytes > head + CACHE_LINE) {
        memcpy(to, from, (size_t)head);
        for (int64_t i = head; i < head + body; i += sizeof(__m128i))
            _mm_stream_si128((__m128i *)(to + i), _mm_load_si128((const __m128i *)(from + i)));
        _mm_sfence();
        from += head + body, to += head + body, bytes -= head + body;
    }
#endif
    memcpy(to, from, (size_t)bytes);
}

/* Windows of stacks as the patches of two 5 x 5 convolutions of stride 5: out is [N, Y, X, 5, 5, K*C, 5, 5]. Row r
   of a window is frame row top + clamp(r - down, 0, crop - 1), columns likewise; other arguments as above. Returns
   0, or 1 for too wide a window. */
int cut(const uint8_t *frames, int64_t C, int64_t H, int64_t W, const int64_t *slots, int64_t K, const int64_t *top,
        const int64_t *left, const int64_t *down, const int64_t *right, int64_t crop, int64_t N, int64_t Y, int64_t X,
        uint8_t *out) {
    const int64_t channels = K * C, size = Y * X * BLOCK * channels * BLOCK;
    if (X * BLOCK + WORD > MAX_WIDTH)
        return 1;
#pragma omp parallel for
    for (int64_t n = 0; n < N; n++) {
        const Window at = {top[n], left[n], down[n], right[n], crop};
        uint8_t buffer[BUFFER_BYTES + CACHE_LINE] __attribute__((aligned(CACHE_LINE))),
            *to = out + n * size, *patches = size <= BUFFER_BYTES ? buffer + (uintptr_t)to % CACHE_LINE : to;
        if (channels == 4 && X == 3)
            cut_stack(frames, C, H, W, slots + n * K, 4, at, Y, 3, patches);
        else
            cut_stack(frames, C, H, W, slots + n * K, channels, at, Y, X, patches);
        if (patches != to)
            copy_uncached(patches, size, to);
    }
    return 0;
}
