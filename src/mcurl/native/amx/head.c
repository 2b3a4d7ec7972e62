/* The contrastive head on Atari's encoder, Linear, LayerNorm, ReLU, Linear, LayerNorm, the norms without parameters, and all its gradients. The plain twin is
   networks.atari.ContrastHead._layers. */
#include "products.h"

#if defined(__x86_64__) && defined(__linux__)
/* The parameters, or their gradients: the matrices [hidden, in] and [out, hidden]. */
typedef struct {
    float *weight1, *bias1, *weight2, *bias2;
} Layers;

typedef struct {
    int64_t rows, in, hidden, out, planes, threads;
    float eps;
} Shape;

static int64_t groups(const Shape *s) { return (s->rows + RUN - 1) / RUN; }
static Plan plan_of(const Shape *s) { return (Plan){s->planes, RUN, groups(s) * RUN}; }

/* Both matrices on the right of a product, in planes of bfloat16. */
typedef struct {
    uint16_t *first, *second;
} Pairs;

static float *weights_of(const Shape *s, float *room, Pairs *p) {
    p->first = (uint16_t *)take(&room, s->planes * s->in * s->hidden / 2);
    p->second = (uint16_t *)take(&room, s->planes * s->hidden * s->out / 2);
    return room;
}

/* What the gradients need: what came into the matrices, in pairs; what was normalised, and by what. */
typedef struct {
    Pairs inputs;
    float *hat1, *hat2, *root1, *root2;
    uint16_t *positive;
} Kept;

static float *kept_of(const Shape *s, float *room, Kept *k) {
    const int64_t rows = groups(s) * RUN;
    k->inputs.first = (uint16_t *)take(&room, s->planes * rows * s->in / 2);
    k->inputs.second = (uint16_t *)take(&room, s->planes * rows * s->hidden / 2);
    k->hat1 = take(&room, rows * s->hidden);
    k->hat2 = take(&room, rows * s->out);
    k->root1 = take(&room, rows);
    k->root2 = take(&room, rows);
    k->positive = (uint16_t *)take(&room, rows * s->hidden / TILE / 2);
    return room;
}

/* The gradients of what the matrices gave, turned over, and each group's part of the biases' gradients. */
typedef struct {
    uint16_t *first, *second;
    float *bias1, *bias2;
} Flow;

static float *flow_of(const Shape *s, float *room, Flow *f) {
    const int64_t rows = groups(s) * RUN;
    f->first = (uint16_t *)take(&room, s->planes * rows * s->hidden / 2);
    f->second = (uint16_t *)take(&room, s->planes * rows * s->out / 2);
    f->bias1 = take(&room, groups(s) * s->hidden);
    f->bias2 = take(&room, groups(s) * s->out);
    return room;
}

/* What a thread works in, for the rows of a group. */
typedef struct {
    uint16_t *left;
    float *x, *h, *gradient;
} Work;

static float *work_of(const Shape *s, float *room, Work *w) {
    const int64_t widest = s->in > s->hidden ? (s->in > s->out ? s->in : s->out) : (s->hidden > s->out ? s->hidden : s->out);
    w->left = (uint16_t *)take(&room, s->planes * RUN * widest / 2);
    w->x = take(&room, RUN * widest);
    w->h = take(&room, RUN * s->hidden);
    w->gradient = take(&room, RUN * widest);
    return room;
}

static int64_t work_room(const Shape *s) {
    Work w;
    return work_of(s, 0, &w) - (float *)0;
}

/* Numbers of room: what forward keeps for backward, and what each of them works in. */
int64_t kept_room(const Shape *s) {
    Kept k;
    return kept_of(s, 0, &k) - (float *)0;
}

int64_t forward_room(const Shape *s) {
    Pairs p;
    return weights_of(s, 0, &p) - (float *)0 + s->threads * work_room(s);
}

int64_t backward_room(const Shape *s) {
    Flow f;
    return forward_room(s) + (flow_of(s, 0, &f) - (float *)0);
}

/* The rows of a group that there are. */
static int64_t rows_of(const Shape *s, int64_t g) { return s->rows - g * RUN < RUN ? s->rows - g * RUN : RUN; }

/* x: [rows, in]. kept: room for what backward needs, or NULL. kept, room: zeros of kept_room and forward_room, or anything where the rows are whole runs. out: [rows, out]. */
ON_TILES void forward(const Shape *s, const float *x, const Layers *p, float *kept, float *room, float *out) {
    const int64_t threads = s->threads, hidden = s->hidden, planes = s->planes, runs = hidden / RUN, all_runs = runs + s->out / RUN;
    const Plan plan = plan_of(s);
    Pairs right;
    Kept k;
    room = weights_of(s, room, &right);
    if (kept)
        kept_of(s, kept, &k);
#pragma omp parallel num_threads(threads)
    {
        Work w;
        work_of(s, room + omp_get_thread_num() * work_room(s), &w);
        configure();
#pragma omp for schedule(static)
        for (int64_t run = 0; run < all_runs; run++)
            if (run < runs)
                pack_forward(planes, run * RUN, s->in, hidden, p->weight1, right.first);
            else
                pack_forward(planes, (run - runs) * RUN, hidden, s->out, p->weight2, right.second);
#pragma omp for schedule(static)
        for (int64_t g = 0; g < groups(s); g++) {
            const int64_t at = g * RUN, n = rows_of(s, g);
            float root[2][RUN], *y = w.gradient;
            memcpy(w.x, x + at * s->in, (size_t)(n * s->in) * sizeof *x);
            linear(&plan, s->in, hidden, w.x, right.first, p->bias1, w.h, w.left);
            for (int64_t row = 0; row < n; row++)
                normalise(hidden, s->eps, w.h + row * hidden, root[0] + row);
            if (kept) {
                keep_input(&plan, s->in, w.x, at, k.inputs.first);
                memcpy(k.hat1 + at * hidden, w.h, (size_t)(n * hidden) * sizeof *w.h);
                keep_positive(RUN * hidden, w.h, k.positive + at * hidden / TILE);
                keep_input(&plan, hidden, w.h, at, k.inputs.second);
            } else
                relu(RUN * hidden, w.h);
            linear(&plan, hidden, s->out, w.h, right.second, p->bias2, y, w.left);
            for (int64_t row = 0; row < n; row++)
                normalise(s->out, s->eps, y + row * s->out, root[1] + row);
            memcpy(out + at * s->out, y, (size_t)(n * s->out) * sizeof *y);
            if (kept) {
                memcpy(k.hat2 + at * s->out, y, (size_t)(n * s->out) * sizeof *y);
                memcpy(k.root1 + at, root[0], (size_t)n * sizeof *y);
                memcpy(k.root2 + at, root[1], (size_t)n * sizeof *y);
            }
        }
        _tile_release();
    }
}

/* The sum of all groups' parts, in their order. */
static void add_parts(const Shape *s, int64_t n, const float *parts, float *made) {
    memset(made, 0, (size_t)n * sizeof *made);
    for (int64_t g = 0; g < groups(s); g++)
        add(n, parts + g * n, made);
}

/* gradient: [rows, out]; of_x: [rows, in]. kept: what forward left there; p: what it was given. room: as forward's, of backward_room. made: the gradients of the parameters. Each number of
   them is one sum over all rows in their order, whichever thread takes it. */
ON_TILES void backward(const Shape *s, const float *gradient, const Layers *p, float *kept, float *room, float *of_x, const Layers *made) {
    const int64_t threads = s->threads, hidden = s->hidden, planes = s->planes, runs = hidden / RUN, all_runs = runs + s->out / RUN;
    const Plan plan = plan_of(s);
    Pairs right;
    Kept k;
    Flow f;
    kept_of(s, kept, &k);
    room = flow_of(s, weights_of(s, room, &right), &f);
#pragma omp parallel num_threads(threads)
    {
        Work w;
        work_of(s, room + omp_get_thread_num() * work_room(s), &w);
        configure();
#pragma omp for schedule(static)
        for (int64_t run = 0; run < all_runs; run++)
            if (run < runs)
                pack_backward(planes, run * RUN, s->in, hidden, p->weight1, right.first);
            else
                pack_backward(planes, (run - runs) * RUN, hidden, s->out, p->weight2, right.second);
#pragma omp for schedule(static)
        for (int64_t g = 0; g < groups(s); g++) {
            const int64_t at = g * RUN, n = rows_of(s, g);
            for (int64_t row = 0; row < n; row++)
                norm_backward(s->out, gradient + (at + row) * s->out, 0, k.hat2 + (at + row) * s->out, k.root2[at + row], w.gradient + row * s->out);
            linear_backward(&plan, hidden, s->out, n, w.gradient, right.second, at, f.second, f.bias2 + g * s->out, w.h, w.left);
            where_positive(RUN * hidden, k.positive + at * hidden / TILE, w.h);
            for (int64_t row = 0; row < n; row++)
                norm_backward(hidden, w.h + row * hidden, 0, k.hat1 + (at + row) * hidden, k.root1[at + row], w.gradient + row * hidden);
            linear_backward(&plan, s->in, hidden, n, w.gradient, right.first, at, f.first, f.bias1 + g * hidden, w.x, w.left);
            memcpy(of_x + at * s->in, w.x, (size_t)(n * s->in) * sizeof *of_x);
        }
#pragma omp for schedule(static) nowait
        for (int64_t run = 0; run < all_runs; run++)
            if (run < runs)
                matrix_gradient(&plan, run * RUN, s->in, hidden, f.first, k.inputs.first, made->weight1);
            else
                matrix_gradient(&plan, (run - runs) * RUN, hidden, s->out, f.second, k.inputs.second, made->weight2);
#pragma omp single
        {
            add_parts(s, hidden, f.bias1, made->bias1);
            add_parts(s, s->out, f.bias2, made->bias2);
        }
        _tile_release();
    }
}
#endif
