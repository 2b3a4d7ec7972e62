/* Gathers, crops and lays out stacks of frames as an encoder reads them, in one pass over the ring: widened to
   bfloat16 and channels-last, or as patches of bytes. The plain twin is FrameGather.gather_indexed. */
#include <stdint.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#define MAX_CHANNELS 64

/* bfloat16 is the upper half of a float. 0..255 is exact. */
static uint16_t bfloat16_of[256];

static void fill_table(void) {
    for (int value = 0; value < 256; value++) {
        float value_float = (float)value;
        uint32_t bits;
        memcpy(&bits, &value_float, sizeof bits);
        bfloat16_of[value] = (uint16_t)(bits >> 16);
    }
}

/* One row of pixels: channel d of pixel x comes from plane[d][x]. Inlined for each number of channels, so that the
   inner loop unrolls. */
static inline void write_row(const uint8_t *const *plane, int64_t size, int channels, uint16_t *out) {
    for (int64_t x = 0; x < size; x++)
        for (int d = 0; d < channels; d++)
            out[x * channels + d] = bfloat16_of[plane[d][x]];
}

/* frames: uint8 [rows, C, H, W]. slots: [N, K], the row of each frame of each stack, negative for a blank one. top,
   left: [N]. out: bfloat16 [N, size, size, K*C]. Returns 0, or 1 for too many channels or too wide a crop. */
int gather(const uint8_t *frames, int64_t C, int64_t H, int64_t W, const int64_t *slots, int64_t K, const int64_t *top,
           const int64_t *left, int64_t N, int64_t size, uint16_t *out) {
    static const uint8_t blank[4096];
    const int64_t channels = K * C;
    if (channels > MAX_CHANNELS || size > (int64_t)sizeof blank)
        return 1;
    if (!bfloat16_of[255])
        fill_table();
#pragma omp parallel for
    for (int64_t n = 0; n < N; n++) {
        const uint8_t *plane[MAX_CHANNELS];
        uint16_t *to = out + n * size * size * channels;
        for (int64_t y = 0; y < size; y++, to += size * channels) {
            for (int64_t d = 0; d < channels; d++) {
                const int64_t slot = slots[n * K + d / C];
                plane[d] = slot < 0 ? blank : frames + ((slot * C + d % C) * H + top[n] + y) * W + left[n];
            }
            switch (channels) {
            case 9: write_row(plane, size, 9, to); break;
            case 4: write_row(plane, size, 4, to); break;
            case 3: write_row(plane, size, 3, to); break;
            default: write_row(plane, size, (int)channels, to);
            }
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

static inline int64_t clamp(int64_t value, int64_t last) { return value < 0 ? 0 : value > last ? last : value; }

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
