/* The dueling head of noisy layers on Atari's encoder, and all its gradients. A noisy matrix, mu + sigma * (noise_out noise_in^T), is made some rows at a time and multiplied while it is in
   the cache: it is never written. The plain twin is networks.noisy.DuelingHead._layers. */
#include "products.h"

#if defined(__x86_64__) && defined(__linux__)
/* Outputs of a layer that are worked on together. */
#define PART (2 * RUN)

/* One noisy layer's parameters, or their gradients: the matrices [out, in]. */
typedef struct {
    float *mu, *sigma, *bias_mu, *bias_sigma;
} Noisy;

/* Layers in their order. */
enum { VALUE_HIDDEN, VALUE, ADVANTAGE_HIDDEN, ADVANTAGE, LAYERS };

typedef struct {
    int64_t rows, in, hidden, atoms, actions, planes, threads;
} Shape;

static int64_t inputs(const Shape *s, int layer) { return layer == VALUE_HIDDEN || layer == ADVANTAGE_HIDDEN ? s->in : s->hidden; }
static int64_t outputs(const Shape *s, int layer) { return layer == VALUE ? s->atoms : layer == ADVANTAGE ? s->atoms * s->actions : s->hidden; }
static int64_t parts(const Shape *s, int layer) { return (outputs(s, layer) + PART - 1) / PART; }
static int64_t rows_of(const Shape *s) { return whole(s->rows, RUN); }
static int64_t wider(const Shape *s) { return s->in > s->hidden ? s->in : s->hidden; }

/* A layer's share of a draw, its inputs' and its outputs'; NULL without noise. */
typedef struct {
    const float *in, *out;
} Noise;

static Noise noise_of(const Shape *s, const float *noise, int layer) {
    for (int before = 0; noise && before < layer; before++)
        noise += inputs(s, before) + outputs(s, before);
    return (Noise){noise, noise ? noise + inputs(s, layer) : 0};
}

/* What a thread works in: a part of a layer's matrix or of its gradient [PART, in], packed; sides of products; and a part of the outputs [rows, PART]. */
typedef struct {
    float *matrix, *gradient, *part;
    uint16_t *packed, *left;
} Work;

static float *work_of(const Shape *s, float *room, Work *w) {
    w->matrix = take(&room, PART * wider(s));
    w->gradient = take(&room, PART * wider(s));
    w->part = take(&room, PART * rows_of(s));
    w->packed = (uint16_t *)take(&room, s->planes * PART * wider(s) / 2);
    w->left = (uint16_t *)take(&room, s->planes * PART * rows_of(s) / 2);
    return room;
}

static int64_t work_room(const Shape *s) {
    Work w;
    return work_of(s, 0, &w) - (float *)0;
}

/* What forward works in beside: features and both hidden layers on the left of a product; and what layers give [rows, out]. */
typedef struct {
    uint16_t *left, *hidden_left[2];
    float *out[LAYERS];
} Forward;

static float *forward_of(const Shape *s, float *room, Forward *f) {
    const int64_t rows = rows_of(s);
    for (int layer = 0; layer < LAYERS; layer++)
        f->out[layer] = take(&room, rows * outputs(s, layer));
    f->left = (uint16_t *)take(&room, s->planes * rows * s->in / 2);
    for (int stream = 0; stream < 2; stream++)
        f->hidden_left[stream] = (uint16_t *)take(&room, s->planes * rows * s->hidden / 2);
    return room;
}

/* And backward: what came into the layers, hidden layers and features, in whole runs and in pairs; the gradients of what they gave [rows, parts]; and for each part its share of the gradient of what came in. */
typedef struct {
    uint16_t *inputs[3];
    float *came_in[3], *out[LAYERS], *of_hidden, *of_in;
} Backward;

static float *backward_of(const Shape *s, float *room, Backward *b) {
    const int64_t rows = rows_of(s);
    for (int side = 0; side < 3; side++) {
        b->came_in[side] = take(&room, rows * (side < 2 ? s->hidden : s->in));
        b->inputs[side] = (uint16_t *)take(&room, s->planes * rows * (side < 2 ? s->hidden : s->in) / 2);
    }
    for (int layer = 0; layer < LAYERS; layer++)
        b->out[layer] = take(&room, rows * parts(s, layer) * PART);
    b->of_hidden = take(&room, (parts(s, VALUE) + parts(s, ADVANTAGE)) * rows * s->hidden);
    b->of_in = take(&room, 2 * parts(s, VALUE_HIDDEN) * rows * s->in);
    return room;
}

/* Numbers of room that each works in. */
int64_t forward_room(const Shape *s) {
    Forward f;
    return forward_of(s, 0, &f) - (float *)0 + s->threads * work_room(s);
}

int64_t backward_room(const Shape *s) {
    Backward b;
    return backward_of(s, 0, &b) - (float *)0 + s->threads * work_room(s);
}

ON_TILES static inline void add_noise(int64_t in, const float *restrict mu, const float *restrict sigma, const float *restrict noise_in, float noise_out, float *restrict to) {
    for (int64_t i = 0; i < in; i++)
        to[i] = mu[i] + sigma[i] * noise_in[i] * noise_out;
}

ON_TILES static inline void of_sigma(int64_t in, const float *restrict gradient, const float *restrict noise_in, float noise_out, float *restrict to) {
    for (int64_t i = 0; i < in; i++)
        to[i] = gradient[i] * noise_in[i] * noise_out;
}

/* Some rows of the matrix, from one on, and zeros where there are none. */
ON_TILES static void make_rows(int64_t in, int64_t out, const Noisy *p, Noise noise, int64_t from, float *to) {
    for (int64_t r = from; r < from + PART; r++, to += in) {
        if (r >= out)
            memset(to, 0, (size_t)in * sizeof *to);
        else if (!noise.in)
            memcpy(to, p->mu + r * in, (size_t)in * sizeof *to);
        else
            add_noise(in, p->mu + r * in, p->sigma + r * in, noise.in, noise.out[r], to);
    }
}

/* Outputs of a layer, from one on, for all rows of left: y [rows, out]. */
ON_TILES static void part_forward(const Shape *s, int layer, const Noisy *p, const float *noise, int64_t from, const uint16_t *left, float *y, const Work *w) {
    const int64_t in = inputs(s, layer), out = outputs(s, layer), rows = rows_of(s), n = out - from < PART ? out - from : PART;
    const Noise of_layer = noise_of(s, noise, layer);
    float bias[PART] = {0};
    for (int64_t i = 0; i < n; i++)
        bias[i] = p->bias_mu[from + i] + (noise ? p->bias_sigma[from + i] * of_layer.out[from + i] : 0);
    make_rows(in, out, p, of_layer, from, w->matrix);
    pack_turned_pairs(s->planes, PART, in, w->matrix, 0, PART, w->packed);
    multiply(s->planes, 0, rows, PART, in, left, rows, w->packed, bias, w->part);
    for (int64_t row = 0; row < rows; row++)
        memcpy(y + row * out + from, w->part + row * PART, (size_t)n * sizeof *y);
}

/* A row's logits [actions, atoms] from both streams. */
ON_TILES static void combine(const Shape *s, const float *value, const float *advantage, float *logits) {
    for (int64_t atom = 0; atom < s->atoms; atom++)
        logits[atom] = 0;
    for (int64_t action = 0; action < s->actions; action++)
        for (int64_t atom = 0; atom < s->atoms; atom++)
            logits[atom] += advantage[action * s->atoms + atom];
    /* The first action's place holds the sums, so it comes last. */
    for (int64_t action = s->actions - 1; action >= 0; action--)
        for (int64_t atom = 0; atom < s->atoms; atom++)
            logits[action * s->atoms + atom] = value[atom] + advantage[action * s->atoms + atom] - logits[atom] / (float)s->actions;
}

/* x: [rows, in]. layers: LAYERS of them. noise: a draw, or NULL. kept: the hidden layers, [2, rows, hidden]. room: zeros of forward_room, or anything
   where the rows are whole runs. logits: [rows, actions, atoms]. */
ON_TILES void forward(const Shape *s, const float *x, const Noisy *layers, const float *noise, float *kept, float *room, float *logits) {
    const int64_t threads = s->threads, rows = rows_of(s), hidden = parts(s, VALUE_HIDDEN), value = parts(s, VALUE), advantage = parts(s, ADVANTAGE);
    Forward f;
    room = forward_of(s, room, &f);
    pack(s->planes, s->rows, s->in, x, rows, f.left);
#pragma omp parallel num_threads(threads)
    {
        Work w;
        work_of(s, room + omp_get_thread_num() * work_room(s), &w);
        configure();
#pragma omp for schedule(static)
        for (int64_t item = 0; item < 2 * hidden; item++) {
            const int layer = item < hidden ? VALUE_HIDDEN : ADVANTAGE_HIDDEN;
            part_forward(s, layer, layers + layer, noise, item % hidden * PART, f.left, f.out[layer], &w);
        }
#pragma omp for schedule(static)
        for (int64_t stream = 0; stream < 2; stream++) {
            float *h = f.out[stream ? ADVANTAGE_HIDDEN : VALUE_HIDDEN];
            relu(rows * s->hidden, h);
            memcpy(kept + stream * s->rows * s->hidden, h, (size_t)(s->rows * s->hidden) * sizeof *h);
            pack(s->planes, rows, s->hidden, h, rows, f.hidden_left[stream]);
        }
#pragma omp for schedule(dynamic)
        for (int64_t item = 0; item < value + advantage; item++) {
            const int layer = item < value ? VALUE : ADVANTAGE;
            part_forward(s, layer, layers + layer, noise, (item < value ? item : item - value) * PART, f.hidden_left[layer == ADVANTAGE], f.out[layer], &w);
        }
#pragma omp for schedule(static)
        for (int64_t row = 0; row < s->rows; row++)
            combine(s, f.out[VALUE] + row * s->atoms, f.out[ADVANTAGE] + row * outputs(s, ADVANTAGE), logits + row * outputs(s, ADVANTAGE));
        _tile_release();
    }
}

/* A row's gradients of both streams from that of its logits. */
ON_TILES static void separate(const Shape *s, const float *gradient, float *value, float *advantage) {
    for (int64_t action = 0; action < s->actions; action++)
        for (int64_t atom = 0; atom < s->atoms; atom++)
            value[atom] += gradient[action * s->atoms + atom];
    for (int64_t action = 0; action < s->actions; action++)
        for (int64_t atom = 0; atom < s->atoms; atom++)
            advantage[action * s->atoms + atom] = gradient[action * s->atoms + atom] - value[atom] / (float)s->actions;
}

/* What of the gradient of some outputs, from one on, reaches the parameters, and its share of what reaches the inputs: of_x [rows, in]. pairs: what came in. */
ON_TILES static void part_backward(const Shape *s, int layer, const Noisy *p, const float *noise, int64_t from, const float *of_y, const uint16_t *pairs, const Noisy *made, float *of_x,
                                   const Work *w) {
    const int64_t in = inputs(s, layer), out = outputs(s, layer), rows = rows_of(s), columns = parts(s, layer) * PART, n = out - from < PART ? out - from : PART;
    const Noise of_layer = noise_of(s, noise, layer);
    for (int64_t row = 0; row < rows; row++)
        memcpy(w->part + row * PART, of_y + row * columns + from, PART * sizeof *of_y);
    pack_turned(s->planes, rows, PART, w->part, 0, rows, w->left);
    multiply(s->planes, 0, PART, in, rows, w->left, PART, pairs, 0, w->gradient);
    float bias[PART];
    sum_rows(rows, PART, w->part, 0, bias);
    for (int64_t r = 0; r < n; r++) {
        const float *gradient = w->gradient + r * in;
        memcpy(made->mu + (from + r) * in, gradient, (size_t)in * sizeof *gradient);
        made->bias_mu[from + r] = bias[r];
        if (made->sigma) {
            made->bias_sigma[from + r] = bias[r] * of_layer.out[from + r];
            of_sigma(in, gradient, of_layer.in, of_layer.out[from + r], made->sigma + (from + r) * in);
        }
    }
    make_rows(in, out, p, of_layer, from, w->matrix);
    pack_pairs(s->planes, PART, in, w->matrix, 0, PART, w->packed);
    pack(s->planes, rows, PART, w->part, rows, w->left);
    multiply(s->planes, 0, rows, in, PART, w->left, rows, w->packed, 0, of_x);
}

/* The sum of n numbers of each share in their order, the shares so far apart; only where kept is positive, if that is not NULL. */
ON_TILES static void sum_shares(int64_t shares, int64_t n, int64_t apart, const float *from, const float *kept, float *to) {
    memcpy(to, from, (size_t)n * sizeof *to);
    for (int64_t share = 1; share < shares; share++)
        add(n, from + share * apart, to);
    for (int64_t i = 0; kept && i < n; i++)
        to[i] = kept[i] > 0 ? to[i] : 0;
}

/* gradient: [rows, actions, atoms]; of_x: [rows, in]. x, layers, noise: what forward was given; kept: what it left there. room: as forward's, of backward_room. made: the gradients of the
   parameters, sigma's NULL without noise. Each number is one sum in an order that does not depend on the threads. */
ON_TILES void backward(const Shape *s, const float *gradient, const float *x, const Noisy *layers, const float *noise, const float *kept, float *room, float *of_x, const Noisy *made) {
    const int64_t threads = s->threads, rows = rows_of(s), hidden = parts(s, VALUE_HIDDEN), value = parts(s, VALUE), advantage = parts(s, ADVANTAGE), of_hidden = rows * s->hidden;
    const float *came_in[] = {kept, kept + s->rows * s->hidden, x};
    Backward b;
    room = backward_of(s, room, &b);
    memset(b.out[VALUE], 0, (size_t)(rows * value * PART) * sizeof *gradient);
    memset(b.out[ADVANTAGE], 0, (size_t)(rows * advantage * PART) * sizeof *gradient);
#pragma omp parallel num_threads(threads)
    {
        Work w;
        work_of(s, room + omp_get_thread_num() * work_room(s), &w);
        configure();
#pragma omp for schedule(static) nowait
        for (int64_t row = 0; row < s->rows; row++)
            separate(s, gradient + row * outputs(s, ADVANTAGE), b.out[VALUE] + row * value * PART, b.out[ADVANTAGE] + row * advantage * PART);
#pragma omp for schedule(dynamic)
        for (int side = 0; side < 3; side++) {
            const int64_t columns = side < 2 ? s->hidden : s->in;
            memcpy(b.came_in[side], came_in[side], (size_t)(s->rows * columns) * sizeof *x);
            pack_pairs(s->planes, rows, columns, b.came_in[side], 0, rows, b.inputs[side]);
        }
#pragma omp for schedule(dynamic)
        for (int64_t item = 0; item < value + advantage; item++) {
            const int layer = item < value ? VALUE : ADVANTAGE;
            const int64_t from = (item < value ? item : item - value) * PART;
            part_backward(s, layer, layers + layer, noise, from, b.out[layer], b.inputs[layer == ADVANTAGE], made + layer, b.of_hidden + item * of_hidden, &w);
        }
#pragma omp for schedule(static)
        for (int stream = 0; stream < 2; stream++)
            sum_shares(stream ? advantage : value, of_hidden, of_hidden, b.of_hidden + (stream ? value : 0) * of_hidden, b.came_in[stream], b.out[stream ? ADVANTAGE_HIDDEN : VALUE_HIDDEN]);
#pragma omp for schedule(static)
        for (int64_t item = 0; item < 2 * hidden; item++) {
            const int layer = item < hidden ? VALUE_HIDDEN : ADVANTAGE_HIDDEN;
            part_backward(s, layer, layers + layer, noise, item % hidden * PART, b.out[layer], b.inputs[2], made + layer, b.of_in + item * rows * s->in, &w);
        }
#pragma omp for schedule(static)
        for (int64_t row = 0; row < s->rows; row++)
            sum_shares(2 * hidden, s->in, rows * s->in, b.of_in + row * s->in, 0, of_x + row * s->in);
        _tile_release();
    }
}
#endif
