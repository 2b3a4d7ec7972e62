/* What the sources of DMControl's convolutions share: shapes, sizes and memory. */
#include <stdint.h>

#define FILTERS 32
#define TAPS 9
#define MAX_LAYERS 16
/* Images whose gradients are summed one after the other; the sums of groups are added in order. */
#define IMAGES 8

/* Bytes are those of a number: 1 for uint8, 2 for bfloat16, 4 for float32. lowest: the first layer whose gradients are
   computed. */
typedef struct {
    int64_t images, channels, height, width, pixel_bytes, map_bytes, layers, lowest, threads;
} Shape;

/* Rows and columns of a layer's output. */
static inline int64_t side(int64_t pixels, int64_t layer) { return (pixels - 3) / 2 + 1 - 2 * layer; }
static inline int64_t rows(const Shape *s, int64_t layer) { return side(s->height, layer); }
static inline int64_t columns(const Shape *s, int64_t layer) { return side(s->width, layer); }
static inline int64_t map_pixels(const Shape *s, int64_t layer) { return rows(s, layer) * columns(s, layer); }

/* The first layer reads the three pixels of a window's row as one row of 3 channels numbers. */
static inline int64_t row_numbers(const Shape *s) { return 3 * s->channels; }
static inline int64_t image_bytes(const Shape *s) { return s->height * s->width * s->channels * s->pixel_bytes; }

static inline int64_t groups(const Shape *s) { return (s->images + IMAGES - 1) / IMAGES; }

/* Takes the next numbers of a workspace, in whole lines of the cache; from a workspace at NULL it only counts. */
static inline void *take(char **from, int64_t n, int64_t bytes) {
    char *result = *from;
    *from += (n * bytes + 63) / 64 * 64;
    return result;
}
