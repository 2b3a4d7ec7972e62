/* The dueling head of noisy layers on Atari's encoder, and all its gradients. A noisy weight, mu + sigma *
   (noise_out noise_in^T), is computed a chunk of rows at a time and multiplied while it is in the cache; it is never
   stored. The plain twin is networks.noisy.DuelingHead._layers. */
#include "products.h"

#if defined(__x86_64__) && defined(__linux__)
/* Outputs of a layer that are computed together. */
#define CHUNK (2 * BLOCK)

/* The parameters of one noisy layer, or their gradients. Weights: [out, in]. */
typedef struct {
    float *mu, *sigma, *bias_mu, *bias_sigma;
} Noisy;

/* The order of the layers. */
enum { VALUE_HIDDEN, VALUE, ADVANTAGE_HIDDEN, ADVANTAGE, LAYERS };

typedef struct {
    int64_t rows, in, hidden, atoms, actions, planes, threads;
} Shape;

static int64_t inputs(const Shape *s, int layer) {
    return layer == VALUE_HIDDEN || layer == ADVANTAGE_HIDDEN ? s->in : s->hidden;
}
static int64_t outputs(const Shape *s, int layer) {
    return layer == VALUE ? s->atoms : layer == ADVANTAGE ? s->atoms * s->actions : s->hidden;
}
static int64_t chunks(const Shape *s, int layer) { return (outputs(s, layer) + CHUNK - 1) / CHUNK; }
static int64_t padded_rows(const Shape *s) { return round_up(s->rows, BLOCK); }
static int64_t max_width(const Shape *s) { return s->in > s->hidden ? s->in : s->hidden; }

/* A layer's part of a draw, for its inputs and its outputs; NULL without noise. */
typedef struct {
    const float *in, *out;
} Noise;

static Noise noise_for(const Shape *s, const float *noise, int layer) {
    for (int before = 0; noise && before < layer; before++)
        noise += inputs(s, before) + outputs(s, before);
    return (Noise){noise, noise ? noise + inputs(s, layer) : 0};
}

/* Scratch memory of a thread: a chunk of a layer's weight and of its gradient [CHUNK, in], packed operands, and a
   chunk of the outputs [rows, CHUNK]. */
typedef struct {
    float *matrix, *gradient, *chunk;
    uint16_t *packed, *left;
} Scratch;

static float *place_scratch(const Shape *s, float *workspace, Scratch *w) {
    w->matrix = allocate(&workspace, CHUNK * max_width(s));
    w->gradient = allocate(&workspace, CHUNK * max_width(s));
    w->chunk = allocate(&workspace, CHUNK * padded_rows(s));
    w->packed = (uint16_t *)allocate(&workspace, s->planes * CHUNK * max_width(s) / 2);
    w->left = (uint16_t *)allocate(&workspace, s->planes * CHUNK * padded_rows(s) / 2);
    return workspace;
}

static int64_t scratch_size(const Shape *s) {
    Scratch w;
    return place_scratch(s, 0, &w) - (float *)0;
}

/* Workspace of forward: features and both hidden layers packed for the left side, and the outputs of each layer
   [rows, out]. */
typedef struct {
    uint16_t *left, *hidden_left[2];
    float *out[LAYERS];
} Forward;

static float *place_forward(const Shape *s, float *workspace, Forward *f) {
    const int64_t rows = padded_rows(s);
    for (int layer = 0; layer < LAYERS; layer++)
        f->out[layer] = allocate(&workspace, rows * outputs(s, layer));
    f->left = (uint16_t *)allocate(&workspace, s->planes * rows * s->in / 2);
    for (int stream = 0; stream < 2; stream++)
        f->hidden_left[stream] = (uint16_t *)allocate(&workspace, s->planes * rows * s->hidden / 2);
    return workspace;
}

/* Workspace of backward: the inputs of the layers (both hidden layers, then the features), padded to whole blocks
   and packed for the right side; the gradients of the outputs [rows, chunks]; and each chunk's part of the gradient
   of its input. */
typedef struct {
    uint16_t *inputs[3];
    float *padded_inputs[3], *out[LAYERS], *hidden_parts, *in_parts;
} Backward;

static float *place_backward(const Shape *s, float *workspace, Backward *b) {
    const int64_t rows = padded_rows(s);
    for (int side = 0; side < 3; side++) {
        b->padded_inputs[side] = allocate(&workspace, rows * (side < 2 ? s->hidden : s->in));
        b->inputs[side] = (uint16_t *)allocate(&workspace, s->planes * rows * (side < 2 ? s->hidden : s->in) / 2);
    }
    for (int layer = 0; layer < LAYERS; layer++)
        b->out[layer] = allocate(&workspace, rows * chunks(s, layer) * CHUNK);
    b->hidden_parts = allocate(&workspace, (chunks(s, VALUE) + chunks(s, ADVANTAGE)) * rows * s->hidden);
    b->in_parts = allocate(&workspace, 2 * chunks(s, VALUE_HIDDEN) * rows * s->in);
    return workspace;
}

/* Sizes of the workspaces in floats. */
int64_t forward_workspace(const Shape *s) {
    Forward f;
    return place_forward(s, 0, &f) - (float *)0 + s->threads * scratch_size(s);
}

int64_t backward_workspace(const Shape *s) {
    Backward b;
    return place_backward(s, 0, &b) - (float *)0 + s->threads * scratch_size(s);
}

AMX_TARGET static inline void add_noise(int64_t in, const float *restrict mu, const float *restrict sigma,
                                        const float *restrict noise_in, float noise_out, float *restrict to) {
    for (int64_t i = 0; i < in; i++)
        to[i] = mu[i] + sigma[i] * noise_in[i] * noise_out;
}

AMX_TARGET static inline void sigma_gradient(int64_t in, const float *restrict gradient, const float *restrict noise_in,
                                             float noise_out, float *restrict to) {
    for (int64_t i = 0; i < in; i++)
        to[i] = gradient[i] * noise_in[i] * noise_out;
}

/* CHUNK rows of the weight, starting with number from; zeros past the last. */
AMX_TARGET static void noisy_rows(int64_t in, int64_t out, const Noisy *p, Noise noise, int64_t from, float *to) {
    for (int64_t r = from; r < from + CHUNK; r++, to += in) {
        if (r >= out)
            memset(to, 0, (size_t)in * sizeof *to);
        else if (!noise.in)
            memcpy(to, p->mu + r * in, (size_t)in * sizeof *to);
        else
            add_noise(in, p->mu + r * in, p->sigma + r * in, noise.in, noise.out[r], to);
    }
}

/* A chunk of a layer's outputs, starting with number from, for all rows of left: written to y [rows, out]. */
AMX_TARGET static void chunk_forward(const Shape *s, int layer, const Noisy *p, const float *noise, int64_t from,
                                     const uint16_t *left, float *y, const Scratch *w) {
    const int64_t in = inputs(s, layer), out = outputs(s, layer), rows = padded_rows(s),
                  n = out - from < CHUNK ? out - from : CHUNK;
    const Noise layer_noise = noise_for(s, noise, layer);
    float bias[CHUNK] = {0};
    for (int64_t i = 0; i < n; i++)
        bias[i] = p->bias_mu[from + i] + (noise ? p->bias_sigma[from + i] * layer_noise.out[from + i] : 0);
    noisy_rows(in, out, p, layer_noise, from, w->matrix);
    pack_right_transposed(s->planes, CHUNK, in, w->matrix, 0, CHUNK, w->packed);
    multiply(s->planes, 0, rows, CHUNK, in, left, rows, w->packed, bias, w->chunk);
    for (int64_t row = 0; row < rows; row++)
        memcpy(y + row * out + from, w->chunk + row * CHUNK, (size_t)n * sizeof *y);
}

/* A row's logits [actions, atoms] from both streams. */
AMX_TARGET static void combine(const Shape *s, const float *value, const float *advantage, float *logits) {
    for (int64_t atom = 0; atom < s->atoms; atom++)
        logits[atom] = 0;
    for (int64_t action = 0; action < s->actions; action++)
        for (int64_t atom = 0; atom < s->atoms; atom++)
            logits[atom] += advantage[action * s->atoms + atom];
    /* The place of the first action holds the sums, so it comes last. */
    for (int64_t action = s->actions - 1; action >= 0; action--)
        for (int64_t atom = 0; atom < s->atoms; atom++)
            logits[action * s->atoms + atom] =
                value[atom] + advantage[action * s->atoms + atom] - logits[atom] / (float)s->actions;
}

/* x: [rows, in]. layers: LAYERS of them. noise: a draw, or NULL. saved: the hidden layers, [2, rows, hidden].
   workspace: forward_workspace floats, zeros, or uninitialised where the rows fill whole blocks. logits: [rows,
   actions, atoms]. */
AMX_TARGET void forward(const Shape *s, const float *x, const Noisy *layers, const float *noise, float *saved,
                        float *workspace, float *logits) {
    const int64_t threads = s->threads, rows = padded_rows(s), hidden_chunks = chunks(s, VALUE_HIDDEN),
                  value_chunks = chunks(s, VALUE), advantage_chunks = chunks(s, ADVANTAGE);
    Forward f;
    workspace = place_forward(s, workspace, &f);
    pack_left(s->planes, s->rows, s->in, x, rows, f.left);
#pragma omp parallel num_threads(threads)
    {
        Scratch w;
        place_scratch(s, workspace + omp_get_thread_num() * scratch_size(s), &w);
        configure_tiles();
#pragma omp for schedule(static)
        for (int64_t item = 0; item < 2 * hidden_chunks; item++) {
            const int layer = item < hidden_chunks ? VALUE_HIDDEN : ADVANTAGE_HIDDEN;
            chunk_forward(s, layer, layers + layer, noise, item % hidden_chunks * CHUNK, f.left, f.out[layer], &w);
        }
#pragma omp for schedule(static)
        for (int64_t stream = 0; stream < 2; stream++) {
            float *h = f.out[stream ? ADVANTAGE_HIDDEN : VALUE_HIDDEN];
            relu(rows * s->hidden, h);
            memcpy(saved + stream * s->rows * s->hidden, h, (size_t)(s->rows * s->hidden) * sizeof *h);
            pack_left(s->planes, rows, s->hidden, h, rows, f.hidden_left[stream]);
        }
#pragma omp for schedule(dynamic)
        for (int64_t item = 0; item < value_chunks + advantage_chunks; item++) {
            const int layer = item < value_chunks ? VALUE : ADVANTAGE;
            chunk_forward(s, layer, layers + layer, noise, (item < value_chunks ? item : item - value_chunks) * CHUNK,
                          f.hidden_left[layer == ADVANTAGE], f.out[layer], &w);
        }
#pragma omp for schedule(static)
        for (int64_t row = 0; row < s->rows; row++)
            combine(s, f.out[VALUE] + row * s->atoms, f.out[ADVANTAGE] + row * outputs(s, ADVANTAGE),
                    logits + row * outputs(s, ADVANTAGE));
        release_tiles();
    }
}

/* A row's gradients of both streams from that of its logits. */
AMX_TARGET static void separate(const Shape *s, const float *gradient, float *value, float *advantage) {
    for (int64_t action = 0; action < s->actions; action++)
        for (int64_t atom = 0; atom < s->atoms; atom++)
            value[atom] += gradient[action * s->atoms + atom];
    for (int64_t action = 0; action < s->actions; action++)
        for (int64_t atom = 0; atom < s->atoms; atom++)
            advantage[action * s->atoms + atom] = gradient[action * s->atoms + atom] - value[atom] / (float)s->actions;
}

/* From the gradient of a chunk of outputs: the gradients of its parameters, and its part of the gradient of the
   inputs, x_gradient [rows, in]. pairs: the packed inputs. */
AMX_TARGET static void chunk_backward(const Shape *s, int layer, const Noisy *p, const float *noise, int64_t from,
                                      const float *y_gradient, const uint16_t *pairs, const Noisy *gradients,
                                      float *x_gradient, const Scratch *w) {
    const int64_t in = inputs(s, layer), out = outputs(s, layer), rows = padded_rows(s),
                  columns = chunks(s, layer) * CHUNK, n = out - from < CHUNK ? out - from : CHUNK;
    const Noise layer_noise = noise_for(s, noise, layer);
    for (int64_t row = 0; row < rows; row++)
        memcpy(w->chunk + row * CHUNK, y_gradient + row * columns + from, CHUNK * sizeof *y_gradient);
    pack_left_transposed(s->planes, rows, CHUNK, w->chunk, 0, rows, w->left);
    multiply(s->planes, 0, CHUNK, in, rows, w->left, CHUNK, pairs, 0, w->gradient);
    float bias[CHUNK];
    sum_rows(rows, CHUNK, w->chunk, 0, bias);
    for (int64_t r = 0; r < n; r++) {
        const float *gradient = w->gradient + r * in;
        memcpy(gradients->mu + (from + r) * in, gradient, (size_t)in * sizeof *gradient);
        gradients->bias_mu[from + r] = bias[r];
        if (gradients->sigma) {
            gradients->bias_sigma[from + r] = bias[r] * layer_noise.out[from + r];
            sigma_gradient(in, gradient, layer_noise.in, layer_noise.out[from + r], gradients->sigma + (from + r) * in);
        }
    }
    noisy_rows(in, out, p, layer_noise, from, w->matrix);
    pack_right(s->planes, CHUNK, in, w->matrix, 0, CHUNK, w->packed);
    pack_left(s->planes, rows, CHUNK, w->chunk, rows, w->left);
    multiply(s->planes, 0, rows, in, CHUNK, w->left, rows, w->packed, 0, x_gradient);
}

/* The sum of n numbers over all parts, in their order; the parts are stride numbers apart. Where saved is not NULL:
   zero unless saved is positive. */
AMX_TARGET static void sum_parts(int64_t parts, int64_t n, int64_t stride, const float *from, const float *saved,
                                 float *to) {
    memcpy(to, from, (size_t)n * sizeof *to);
    for (int64_t part = 1; part < parts; part++)
        add_to(n, from + part * stride, to);
    for (int64_t i = 0; saved && i < n; i++)
        to[i] = saved[i] > 0 ? to[i] : 0;
}

/* gradient: [rows, actions, atoms]; x_gradient: [rows, in]. x, layers, noise, saved: of forward. workspace: as
   forward's, of backward_workspace floats. gradients: those of the parameters, NULL for each sigma without noise.
   Each is one sum in an order that does not depend on the number of threads. */
AMX_TARGET void backward(const Shape *s, const float *gradient, const float *x, const Noisy *layers, const float *noise,
                         const float *saved, float *workspace, float *x_gradient, const Noisy *gradients) {
    const int64_t threads = s->threads, rows = padded_rows(s), hidden_chunks = chunks(s, VALUE_HIDDEN),
                  value_chunks = chunks(s, VALUE), advantage_chunks = chunks(s, ADVANTAGE),
                  hidden_size = rows * s->hidden;
    const float *sources[] = {saved, saved + s->rows * s->hidden, x};
    Backward b;
    workspace = place_backward(s, workspace, &b);
    memset(b.out[VALUE], 0, (size_t)(rows * value_chunks * CHUNK) * sizeof *gradient);
    memset(b.out[ADVANTAGE], 0, (size_t)(rows * advantage_chunks * CHUNK) * sizeof *gradient);
#pragma omp parallel num_threads(threads)
    {
        Scratch w;
        place_scratch(s, workspace + omp_get_thread_num() * scratch_size(s), &w);
        configure_tiles();
#pragma omp for schedule(static) nowait
        for (int64_t row = 0; row < s->rows; row++)
            separate(s, gradient + row * outputs(s, ADVANTAGE), b.out[VALUE] + row * value_chunks * CHUNK,
                     b.out[ADVANTAGE] + row * advantage_chunks * CHUNK);
#pragma omp for schedule(dynamic)
        for (int side = 0; side < 3; side++) {
            const int64_t columns = side < 2 ? s->hidden : s->in;
            memcpy(b.padded_inputs[side], sources[side], (size_t)(s->rows * columns) * sizeof *x);
            pack_right(s->planes, rows, columns, b.padded_inputs[side], 0, rows, b.inputs[side]);
        }
#pragma omp for schedule(dynamic)
        for (int64_t item = 0; item < value_chunks + advantage_chunks; item++) {
            const int layer = item < value_chunks ? VALUE : ADVANTAGE;
            const int64_t from = (item < value_chunks ? item : item - value_chunks) * CHUNK;
            chunk_backward(s, layer, layers + layer, noise, from, b.out[layer], b.inputs[layer == ADVANTAGE],
                           gradients + layer, b.hidden_parts + item * hidden_size, &w);
        }
#pragma omp for schedule(static)
        for (int stream = 0; stream < 2; stream++)
            sum_parts(stream ? advantage_chunks : value_chunks, hidden_size, hidden_size,
                      b.hidden_parts + (stream ? value_chunks : 0) * hidden_size, b.padded_inputs[stream],
                      b.out[stream ? ADVANTAGE_HIDDEN : VALUE_HIDDEN]);
#pragma omp for schedule(static)
        for (int64_t item = 0; item < 2 * hidden_chunks; item++) {
            const int layer = item < hidden_chunks ? VALUE_HIDDEN : ADVANTAGE_HIDDEN;
            chunk_backward(s, layer, layers + layer, noise, item % hidden_chunks * CHUNK, b.out[layer], b.inputs[2],
                           gradients + layer, b.in_parts + item * rows * s->in, &w);
        }
#pragma omp for schedule(static)
        for (int64_t row = 0; row < s->rows; row++)
            sum_parts(2 * hidden_chunks, s->in, rows * s->in, b.in_parts + row * s->in, 0, x_gradient + row * s->in);
        release_tiles();
    }
}
#endif
