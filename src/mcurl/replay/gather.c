/* Stacks of frames, gathered, cropped, widened to bfloat16 and laid out channels-last, in one pass over the ring. Its plain twin is Replay._stacks_indexed. */
#include <stdint.h>
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
