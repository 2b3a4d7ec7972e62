/* The linear layer from DMControl's maps to features, and its gradients. The maps are much larger than the caches: all
   loops are arranged so that each map is read or written once, as fast as memory goes. The plain twin is the product in
   networks.encoders.FeatureHead._linear.

       features [images, outputs] = maps [images, inputs] weight^T          inputs: 39 200, outputs: 50, padded to 64

   Forward, inputs pass in slices. A slice of the weight is packed in the cache, and all images pass it:

             slice 0   slice 1                      sums of 16 images: four tiles; a tile of pixels is a
           +---------+---------+- - -               left operand as it lies, 16 images x 32 inputs
       16  |   -->   |         |
           +---------+---------+- - -               The slices of a part of the inputs are added one after the
       16  |   -->   |         |                    other, the PARTS in their order at the end: sums do not depend
           +---------+---------+- - -               on threads.

   Backward, a RANGE of the inputs of all images passes at a time: gradient of the weight = gradient^T maps, one sum
   over all images, and gradient of the maps = gradient weight, over all outputs. */
#include "products.h"

#if defined(__x86_64__) && defined(__linux__)
/* Outputs are padded to this number: four tiles. */
#define OUTPUTS (2 * BLOCK)
/* Blocks of 32 inputs in a slice; their weights fit into the first-level cache. */
#define SLICE 8
#define PARTS 8
/* Planes of the gradient in the gradient of the weight. The maps are exact in one. */
#define PLANES 2
/* Blocks of inputs that pass together in backward; images that are fetched ahead. */
#define RANGE 8
#define AHEAD 16

typedef struct {
    int64_t images, inputs, outputs, threads;
} Shape;

static inline int64_t blocks(const Shape *s) { return s->inputs / BLOCK; }
static inline int64_t padded_images(const Shape *s) { return round_up(s->images, BLOCK); }

/* Forward: the sums of the parts [PARTS, images, OUTPUTS], images that do not fill a tile [TILE, slice] and, for each
   thread, a packed slice of the weight. */
static inline int64_t sums_size(const Shape *s) { return padded_images(s) * OUTPUTS; }
static inline int64_t slice_size(void) { return SLICE * BLOCK * OUTPUTS / 2; }
static inline int64_t rest_size(void) { return SLICE * BLOCK * TILE / 2; }

int64_t forward_workspace(const Shape *s) {
    return PARTS * sums_size(s) + s->threads * (slice_size() + rest_size());
}

/* Packs blocks [from, to) of the weight [outputs, inputs], transposed, for the right side: four tiles each. */
AMX_TARGET static void pack_slice(const Shape *s, const float *weight, int64_t from, int64_t to, uint16_t *packed) {
    for (int64_t output = 0; output < OUTPUTS; output += TILE)
        for (int64_t b = from; b < to; b++) {
            __m512i rows[TILE];
            for (int64_t r = 0; r < TILE; r++) {
                const float *row = weight + (output + r) * s->inputs + b * BLOCK;
                rows[r] = output + r < s->outputs
                              ? (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(row + TILE), _mm512_loadu_ps(row))
                              : _mm512_setzero_si512();
            }
            transpose16(rows);
            for (int64_t p = 0; p < TILE; p++)
                _mm512_storeu_si512(packed + tile_offset(b - from, output / TILE, OUTPUTS / TILE) + p * BLOCK, rows[p]);
        }
}

/* sums [TILE, OUTPUTS] = or += a tile of images times n blocks of the weight. row: inputs from one image to the next.
   next: the images after these, or NULL, are fetched. */
AMX_TARGET static inline void add_images(const uint16_t *x, int64_t row, int64_t n, const uint16_t *weight, int first,
                                         const uint16_t *next, float *sums) {
    const int64_t row_bytes = row * (int64_t)sizeof *x, sum_bytes = OUTPUTS * sizeof *sums;
    COMPILER_BARRIER();
    if (first) {
        clear_sums();
    } else {
        load_tile(0, sums, sum_bytes);
        load_tile(1, sums + TILE, sum_bytes);
        load_tile(2, sums + 2 * TILE, sum_bytes);
        load_tile(3, sums + 3 * TILE, sum_bytes);
    }
    for (int64_t b = 0; b < n; b++, x += BLOCK, weight += tile_offset(1, 0, OUTPUTS / TILE)) {
        load_tile(4, x, row_bytes);
        load_tile(5, weight, TILE_BYTES);
        multiply_tiles(0, 4, 5);
        load_tile(6, weight + TILE_NUMBERS, TILE_BYTES);
        multiply_tiles(1, 4, 6);
        load_tile(7, weight + 2 * TILE_NUMBERS, TILE_BYTES);
        multiply_tiles(2, 4, 7);
        load_tile(5, weight + 3 * TILE_NUMBERS, TILE_BYTES);
        multiply_tiles(3, 4, 5);
        for (int64_t r = 0; next && r < TILE; r++)
            __builtin_prefetch(next + r * row + b * BLOCK, 0, 2);
    }
    store_tile(0, sums, sum_bytes);
    store_tile(1, sums + TILE, sum_bytes);
    store_tile(2, sums + 2 * TILE, sum_bytes);
    store_tile(3, sums + 3 * TILE, sum_bytes);
}

/* The sums of a part of the inputs, blocks [from, to), for all images. */
AMX_TARGET static void part_sums(const Shape *s, const uint16_t *x, const float *weight, int64_t from, int64_t to,
                                 uint16_t *packed, uint16_t *rest, float *sums) {
    const int64_t whole = s->images / TILE * TILE;
    const int64_t slices = (to - from + SLICE - 1) / SLICE;
    for (int64_t i = 0; i < slices; i++) {
        const int64_t slice = from + i * (to - from) / slices, n = from + (i + 1) * (to - from) / slices - slice;
        pack_slice(s, weight, slice, slice + n, packed);
        for (int64_t image = 0; image < whole; image += TILE) {
            const uint16_t *at = x + image * s->inputs + slice * BLOCK;
            const uint16_t *next = image + 2 * TILE <= whole ? at + TILE * s->inputs : NULL;
            add_images(at, s->inputs, n, packed, slice == from, next, sums + image * OUTPUTS);
        }
        if (whole == s->images)
            continue;
        memset(rest, 0, (size_t)rest_size() * sizeof(float));
        for (int64_t image = whole; image < s->images; image++)
            memcpy(rest + (image - whole) * SLICE * BLOCK, x + image * s->inputs + slice * BLOCK,
                   (size_t)(n * BLOCK) * sizeof *x);
        add_images(rest, SLICE * BLOCK, n, packed, slice == from, NULL, sums + whole * OUTPUTS);
    }
}

/* x: bfloat16 [images, inputs]; weight: [outputs, inputs] -> out: [images, outputs]. */
AMX_TARGET void forward(const Shape *s, const uint16_t *x, const float *weight, float *workspace, float *out) {
    const int64_t threads = s->threads, size = sums_size(s);
    float *sums = allocate(&workspace, PARTS * size);
#pragma omp parallel num_threads(threads)
    {
        float *own = workspace + omp_get_thread_num() * (slice_size() + rest_size());
        uint16_t *packed = (uint16_t *)allocate(&own, slice_size()), *rest = (uint16_t *)own;
        configure_tiles();
#pragma omp for schedule(static)
        for (int64_t part = 0; part < PARTS; part++)
            part_sums(s, x, weight, part * blocks(s) / PARTS, (part + 1) * blocks(s) / PARTS, packed, rest,
                      sums + part * size);
        release_tiles();
#pragma omp for schedule(static)
        for (int64_t image = 0; image < s->images; image++)
            for (int64_t output = 0; output < s->outputs; output++) {
                float sum = 0;
                for (int64_t part = 0; part < PARTS; part++)
                    if (part * blocks(s) / PARTS < (part + 1) * blocks(s) / PARTS)
                        sum += sums[part * size + image * OUTPUTS + output];
                out[image * s->outputs + output] = sum;
            }
    }
}

/* Backward: the gradient, padded; packed for the left side, and its transpose. For each thread: the sums of a block,
   a block of the weight and one of all images, packed for the right side. */
typedef struct {
    float *padded;
    uint16_t *left, *transposed;
} Packed;

typedef struct {
    float *sums;
    uint16_t *weight, *images;
} Scratch;

static float *place_packed(const Shape *s, float *workspace, Packed *p) {
    const int64_t n = padded_images(s) * OUTPUTS;
    p->padded = allocate(&workspace, n);
    p->left = (uint16_t *)allocate(&workspace, n / 2);
    p->transposed = (uint16_t *)allocate(&workspace, PLANES * n / 2);
    return workspace;
}

static float *place_scratch(const Shape *s, float *workspace, Scratch *w) {
    w->sums = allocate(&workspace, BLOCK * BLOCK);
    w->weight = (uint16_t *)allocate(&workspace, RANGE * OUTPUTS * BLOCK / 2);
    w->images = (uint16_t *)allocate(&workspace, RANGE * padded_images(s) * BLOCK / 2);
    return workspace;
}

static int64_t scratch_size(const Shape *s) {
    Scratch w;
    return place_scratch(s, 0, &w) - (float *)0;
}

int64_t backward_workspace(const Shape *s) {
    Packed p;
    return place_packed(s, 0, &p) - (float *)0 + s->threads * scratch_size(s);
}

/* Packs n blocks of columns of the weight [outputs, inputs] for the right side, one after the other. */
AMX_TARGET static void pack_outputs(const Shape *s, int64_t n, const float *weight, uint16_t *to) {
    const __m512 zeros = _mm512_setzero_ps();
    for (int64_t output = 0; output < OUTPUTS; output += 2, weight += 2 * s->inputs)
        for (int64_t j = 0; j < n * BLOCK; j += TILE) {
            const __m512 a = output < s->outputs ? _mm512_loadu_ps(weight + j) : zeros,
                         b = output + 1 < s->outputs ? _mm512_loadu_ps(weight + s->inputs + j) : zeros;
            _mm512_storeu_si512(to + j / BLOCK * OUTPUTS * BLOCK + tile_offset(output / BLOCK, j % BLOCK / TILE, 2) +
                                    output % BLOCK * TILE,
                                round_pairs(a, b));
        }
}

/* Sixteen pairs of bfloat16. */
AMX_TARGET static inline __m512i interleave(__m256i a, __m256i b) {
    return _mm512_or_si512(_mm512_cvtepu16_epi32(a), _mm512_slli_epi32(_mm512_cvtepu16_epi32(b), 16));
}

/* Packs n blocks of columns of the images for the right side, one after the other. */
AMX_TARGET static void pack_images(const Shape *s, int64_t n, const uint16_t *x, uint16_t *to) {
    const int64_t row = s->inputs, block = padded_images(s) * BLOCK;
    for (int64_t image = 0; image < padded_images(s); image += 2, x += 2 * row) {
        const int there = image < s->images, next_there = image + 1 < s->images;
        for (int64_t j = 0; j < n * BLOCK; j += BLOCK) {
            if (image + AHEAD + 1 < s->images) {
                __builtin_prefetch(x + AHEAD * row + j, 0, 2);
                __builtin_prefetch(x + (AHEAD + 1) * row + j, 0, 2);
            }
            const __m512i a = there ? _mm512_loadu_si512(x + j) : _mm512_setzero_si512(),
                          b = next_there ? _mm512_loadu_si512(x + row + j) : _mm512_setzero_si512();
            uint16_t *at = to + j / BLOCK * block + tile_offset(image / BLOCK, 0, 2) + image % BLOCK * TILE;
            _mm512_storeu_si512(at, interleave(_mm512_castsi512_si256(a), _mm512_castsi512_si256(b)));
            _mm512_storeu_si512(at + TILE_NUMBERS,
                                interleave(_mm512_extracti64x4_epi64(a, 1), _mm512_extracti64x4_epi64(b, 1)));
        }
    }
}

/* n blocks of columns of the gradient of the images. It is read later, from memory: written past the caches. */
AMX_TARGET static void images_gradient(const Shape *s, int64_t n, const Packed *p, const Scratch *w, uint16_t *to) {
    for (int64_t image = 0; image < s->images; image += BLOCK)
        for (int64_t b = 0; b < n; b++) {
            multiply(1, 0, BLOCK, BLOCK, OUTPUTS, p->left + image * OUTPUTS, BLOCK, w->weight + b * OUTPUTS * BLOCK,
                     NULL, w->sums);
            for (int64_t r = 0; r < BLOCK && image + r < s->images; r++) {
                const float *sums = w->sums + r * BLOCK;
                _mm512_stream_si512((__m512i *)(to + (image + r) * s->inputs + b * BLOCK),
                                    (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(sums + TILE), _mm512_loadu_ps(sums)));
            }
        }
}

/* A block of columns of the gradient of the weight. images: packed. */
AMX_TARGET static void weight_gradient(const Shape *s, const Packed *p, const uint16_t *images, float *sums,
                                       float *to) {
    const int64_t rows = padded_images(s), plane = OUTPUTS * rows, lower = tile_offset(1, 0, rows / BLOCK);
    for (int64_t output = 0; output < s->outputs; output += BLOCK) {
        const uint16_t *a = p->transposed + output * rows, *b = images;
        clear_sums();
        for (int64_t image = 0; image < rows; image += BLOCK, a += TILE_NUMBERS, b += 2 * TILE_NUMBERS)
            for (int64_t i = 0; i < PLANES; i++)
                add_product(a + i * plane, a + i * plane + lower, TILE_BYTES, b, b + TILE_NUMBERS, TILE_BYTES);
        store_sums(sums, BLOCK);
        for (int64_t r = 0; r < BLOCK && output + r < s->outputs; r++)
            for (int64_t j = 0; j < BLOCK; j += TILE)
                _mm512_storeu_ps(to + (output + r) * s->inputs + j, _mm512_loadu_ps(sums + r * BLOCK + j));
    }
}

/* gradient: of the features, [images, outputs]. x, weight: of forward. x_gradient: bfloat16 [images, inputs], from
   an address that is a multiple of 64, or NULL.
   weights: the gradient of the weight, or NULL. */
AMX_TARGET void backward(const Shape *s, const float *gradient, const uint16_t *x, const float *weight,
                         float *workspace, uint16_t *x_gradient, float *weights) {
    const int64_t threads = s->threads, rows = padded_images(s);
    Packed p;
    workspace = place_packed(s, workspace, &p);
    memset(p.padded, 0, (size_t)(rows * OUTPUTS) * sizeof *p.padded);
    for (int64_t image = 0; image < s->images; image++)
        memcpy(p.padded + image * OUTPUTS, gradient + image * s->outputs, (size_t)s->outputs * sizeof *gradient);
    pack_left(1, rows, OUTPUTS, p.padded, rows, p.left);
    pack_left_transposed(PLANES, rows, OUTPUTS, p.padded, 0, rows, p.transposed);
#pragma omp parallel num_threads(threads)
    {
        Scratch w;
        place_scratch(s, workspace + omp_get_thread_num() * scratch_size(s), &w);
        configure_tiles();
#pragma omp for schedule(static)
        for (int64_t from = 0; from < blocks(s); from += RANGE) {
            const int64_t n = blocks(s) - from < RANGE ? blocks(s) - from : RANGE, j = from * BLOCK;
            if (weights) {
                pack_images(s, n, x + j, w.images);
                for (int64_t b = 0; b < n; b++)
                    weight_gradient(s, &p, w.images + b * rows * BLOCK, w.sums, weights + j + b * BLOCK);
            }
            if (x_gradient) {
                pack_outputs(s, n, weight + j, w.weight);
                images_gradient(s, n, &p, &w, x_gradient + j);
            }
        }
        release_tiles();
        _mm_sfence();
    }
}
#endif
