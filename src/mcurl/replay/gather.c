/* Stacks of frames, gathered, cropped, widened to bfloat16 and laid out as an encoder reads them (channels-last, or as patches), in one pass over the ring.
   The plain twin is Replay._stacks_indexed. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define MOST_CHANNELS 64

/* bfloat16 is the upper half of a float: 0..255 is exact. */
static uint16_t widened[256];

static void prepare(void) {
    for (int value = 0; value < 256; value++) {
        float wide = (float)value;
        uint32_t bits;
        memcpy(&bits, &wide, sizeof bits);
        widened[value] = (uint16_t)(bits >> 16);
    }
}

/* One row of pixels: channel d of pixel x comes from plane[d][x]. Inlined for each number of channels, so that the inner loop unrolls. */
static inline void row(const uint8_t *const *plane, int64_t size, int channels, uint16_t *out) {
    for (int64_t x = 0; x < size; x++)
        for (int d = 0; d < channels; d++)
            out[x * channels + d] = widened[plane[d][x]];
}

/* frames: uint8 [rows, C, H, W]. slots: [N, K] rows of each stack's frames, negative for a blank one. top, left: [N]. out: bfloat16 [N, size, size, K*C]. Returns 0, or 1 for too
   many channels or too wide a crop. */
int gather(const uint8_t *frames, int64_t C, int64_t H, int64_t W, const int64_t *slots, int64_t K, const int64_t *top, const int64_t *left, int64_t N, int64_t size, uint16_t *out) {
    static const uint8_t blank[4096];
    const int64_t channels = K * C;
    if (channels > MOST_CHANNELS || size > (int64_t)sizeof blank)
        return 1;
    if (!widened[255])
        prepare();
#pragma omp parallel for
    for (int64_t n = 0; n < N; n++) {
        const uint8_t *plane[MOST_CHANNELS];
        uint16_t *to = out + n * size * size * channels;
        for (int64_t y = 0; y < size; y++, to += size * channels) {
            for (int64_t d = 0; d < channels; d++) {
                const int64_t slot = slots[n * K + d / C];
                plane[d] = slot < 0 ? blank : frames + ((slot * C + d % C) * H + top[n] + y) * W + left[n];
            }
            switch (channels) {
            case 9: row(plane, size, 9, to); break;
            case 4: row(plane, size, 4, to); break;
            case 3: row(plane, size, 3, to); break;
            default: row(plane, size, (int)channels, to);
            }
        }
    }
    return 0;
}

#define KERNEL 5
#define BLOCK (KERNEL * KERNEL)
/* A row of a patch is copied as 8 values; what it brings along is overwritten by the row after it. */
#define WORD 8
/* Lines are widened in whole vectors. */
#define VECTOR 16

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#define INLINE static inline __attribute__((always_inline))
#else
#define FOR_EACH_PROCESSOR
#define INLINE static inline
#endif

INLINE int64_t clamped(int64_t value, int64_t last) { return value < 0 ? 0 : value > last ? last : value; }

/* to[x] = from[clamp(x - right, 0, crop - 1)], x < width. */
INLINE void shifted(const uint8_t *from, int64_t right, int64_t crop, int64_t width, uint8_t *to) {
    const int64_t begin = clamped(right, width), skipped = right < 0 ? -right : 0;
    const int64_t inside = clamped(crop - skipped, width - begin);
    memset(to, from[0], (size_t)begin);
    memcpy(to + begin, from + skipped, (size_t)inside);
    memset(to + begin + inside, from[crop - 1], (size_t)(width - begin - inside));
}

INLINE void widen(const uint8_t *from, int64_t length, uint16_t *to) {
    for (int64_t v = 0; v < length; v += VECTOR, from += VECTOR, to += VECTOR)
        for (int i = 0; i < VECTOR; i++) {
            const float wide = (float)from[i];
            uint32_t bits;
            memcpy(&bits, &wide, sizeof bits);
            to[i] = (uint16_t)(bits >> 16);
        }
}

/* A line to the same row of X * 5 patches. */
INLINE void spread(const uint16_t *line, int64_t X, int64_t patch, size_t values, uint16_t *to) {
    for (int64_t x = 0; x < X; x++)
        for (int64_t p = 0; p < KERNEL; p++)
            memcpy(to + (x * BLOCK + p) * patch, line + (x * KERNEL + p) * KERNEL, values * sizeof *to);
}

typedef struct {
    int64_t top, left, down, right, crop;
} Window;

/* One window of a stack; lines: room for those of five rows of all channels, since what is widened is read only when it has reached the cache. */
FOR_EACH_PROCESSOR
static void cut_one(const uint8_t *frames, int64_t C, int64_t H, int64_t W, const int64_t *slots, int64_t channels, Window at, int64_t Y, int64_t X, int64_t length, uint16_t *lines, uint16_t *out) {
    const int64_t width = X * BLOCK, patch = channels * BLOCK;
    uint8_t *line = (uint8_t *)(lines + channels * KERNEL * length);
    for (int64_t block = 0; block < Y * KERNEL; block++) {
        uint16_t *wide = lines, *to = out + (block / KERNEL * X * BLOCK + block % KERNEL * KERNEL) * patch;
        for (int64_t d = 0; d < channels; d++)
            for (int64_t i = 0; i < KERNEL; i++, wide += length) {
                const int64_t slot = slots[d / C], y = at.top + clamped(block * KERNEL + i - at.down, at.crop - 1);
                const uint8_t *from = frames + ((slot * C + d % C) * H + y) * W + at.left;
                if (slot < 0)
                    memset(wide, 0, (size_t)length * sizeof *wide);
                else if (at.right <= 0 && width - at.right <= at.crop && y < H - 1)
                    widen(from - at.right, length, wide); /* where it lies, with some of the next line */
                else {
                    shifted(from, at.right, at.crop, width, line);
                    widen(line, length, wide);
                }
            }
        wide = lines;
        for (int64_t row = 1; row < channels * KERNEL; row++, wide += length, to += KERNEL)
            spread(wide, X, patch, WORD, to);
        spread(wide, X, patch, KERNEL, to);
    }
}

/* Windows of stacks as the patches of two convolutions, 5 x 5 with a stride of 5: out is bfloat16 [N, Y, X, 5, 5, K*C, 5, 5]. Output row r of a window is frame row
   top + clamp(r - down, 0, crop - 1), columns likewise; the rest as above. Returns 0, or 1 without memory. */
int cut(const uint8_t *frames, int64_t C, int64_t H, int64_t W, const int64_t *slots, int64_t K, const int64_t *top, const int64_t *left, const int64_t *down, const int64_t *right,
        int64_t crop, int64_t N, int64_t Y, int64_t X, uint16_t *out) {
    const int64_t channels = K * C, size = Y * X * BLOCK * channels * BLOCK, length = ((X * BLOCK + WORD) / VECTOR + 1) * VECTOR;
    int failed = 0;
#pragma omp parallel reduction(| : failed)
    {
        uint16_t *lines = calloc((size_t)((channels * KERNEL + 1) * length), sizeof *lines);
        failed = !lines;
#pragma omp for
        for (int64_t n = 0; n < N; n++)
            if (lines)
                cut_one(frames, C, H, W, slots + n * K, channels, (Window){top[n], left[n], down[n], right[n], crop}, Y, X, length, lines, out + n * size);
        free(lines);
    }
    return failed;
}
