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
    const uint8_t *plane[MOST_CHANNELS];
    const int64_t channels = K * C;
    if (channels > MOST_CHANNELS || size > (int64_t)sizeof blank)
        return 1;
    if (!widened[255])
        prepare();
    for (int64_t n = 0; n < N; n++)
        for (int64_t y = 0; y < size; y++, out += size * channels) {
            for (int64_t d = 0; d < channels; d++) {
                const int64_t slot = slots[n * K + d / C];
                plane[d] = slot < 0 ? blank : frames + ((slot * C + d % C) * H + top[n] + y) * W + left[n];
            }
            switch (channels) {
            case 9: row(plane, size, 9, out); break;
            case 4: row(plane, size, 4, out); break;
            case 3: row(plane, size, 3, out); break;
            default: row(plane, size, (int)channels, out);
            }
        }
    return 0;
}

#define KERNEL 5
#define BLOCK (KERNEL * KERNEL)
/* A row of a patch is copied as a word; what it brings along is overwritten by the row after it. */
#define WORD 8

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define FOR_EACH_PROCESSOR
#endif

static int64_t clamped(int64_t value, int64_t last) { return value < 0 ? 0 : value > last ? last : value; }

/* to[x] = from[clamp(x - right, 0, crop - 1)], x < width. */
static void shifted(const uint8_t *from, int64_t right, int64_t crop, int64_t width, uint8_t *to) {
    const int64_t begin = clamped(right, width), skipped = right < 0 ? -right : 0;
    const int64_t inside = clamped(crop - skipped, width - begin);
    memset(to, from[0], (size_t)begin);
    memcpy(to + begin, from + skipped, (size_t)inside);
    memset(to + begin + inside, from[crop - 1], (size_t)(width - begin - inside));
}

FOR_EACH_PROCESSOR
static void widen(const uint8_t *from, int64_t size, uint16_t *to) {
    for (int64_t i = 0; i < size; i++) {
        const float wide = (float)from[i];
        uint32_t bits;
        memcpy(&bits, &wide, sizeof bits);
        to[i] = (uint16_t)(bits >> 16);
    }
}

/* Windows of stacks as the patches of two convolutions, 5 x 5 with a stride of 5: out is bfloat16 [N, Y, X, 5, 5, K*C, 5, 5]. Output row r of a window is frame row
   top + clamp(r - down, 0, crop - 1), columns likewise; the rest as above. */
int cut(const uint8_t *frames, int64_t C, int64_t H, int64_t W, const int64_t *slots, int64_t K, const int64_t *top, const int64_t *left, const int64_t *down, const int64_t *right,
        int64_t crop, int64_t N, int64_t Y, int64_t X, uint16_t *out) {
    const int64_t channels = K * C, width = X * BLOCK, patch = channels * BLOCK, size = Y * X * BLOCK * patch;
    uint8_t *bytes = malloc((size_t)(size + width + WORD)), *line = bytes + size;
    if (!bytes)
        return 1;
    for (int64_t n = 0; n < N; n++) {
        for (int64_t d = 0; d < channels; d++) {
            const int64_t slot = slots[n * K + d / C];
            const uint8_t *frame = frames + ((slot * C + d % C) * H + top[n]) * W + left[n];
            for (int64_t r = 0; r < Y * BLOCK; r++) {
                if (slot < 0)
                    memset(line, 0, (size_t)width);
                else
                    shifted(frame + clamped(r - down[n], crop - 1) * W, right[n], crop, width, line);
                /* Row r of the image is row r % 5 of the patches (r / 5) % 5 of the blocks r / 25. */
                uint8_t *to = bytes + (r / BLOCK * X * BLOCK + r / KERNEL % KERNEL * KERNEL) * patch + d * BLOCK + r % KERNEL * KERNEL;
                const size_t word = d == channels - 1 && r % KERNEL == KERNEL - 1 ? KERNEL : WORD;
                for (int64_t x = 0; x < X; x++)
                    for (int64_t p = 0; p < KERNEL; p++)
                        if (word == WORD)
                            memcpy(to + (x * BLOCK + p) * patch, line + (x * KERNEL + p) * KERNEL, WORD);
                        else
                            memcpy(to + (x * BLOCK + p) * patch, line + (x * KERNEL + p) * KERNEL, KERNEL);
            }
        }
        widen(bytes, size, out + n * size);
    }
    free(bytes);
    return 0;
}
