/* The contrastive head on Atari's encoder (Linear, LayerNorm, ReLU, Linear, LayerNorm; the norms have no parameters)
   and all its gradients. The plain twin is networks.atari.ContrastHead._layers. */
#include "products.h"

#if defined(__x86_64__) && defined(__linux__)
/* The parameters, or their gradients. Weights: [hidden, in] and [out, hidden]. */
typedef struct {
    float *weight1, *bias1, *weight2, *bias2;
} Layers;

typedef struct {
    int64_t rows, in, hidden, out, planes, threads;
    float eps;
} Shape;

static int64_t group_count(const Shape *s) { return (s->rows + BLOCK - 1) / BLOCK; }
static Layout layout_of(const Shape *s) { return (Layout){s->planes, BLOCK, group_count(s) * BLOCK}; }

/* Both weights, or the inputs of both layers, packed for the right side of a product. */
typedef struct {
    uint16_t *first, *second;
} PackedMatrices;

static float *place_weights(const Shape *s, float *workspace, PackedMatrices *p) {
    p->first = (uint16_t *)allocate(&workspace, s->planes * s->in * s->hidden / 2);
    p->second = (uint16_t *)allocate(&workspace, s->planes * s->hidden * s->out / 2);
    return workspace;
}

/* What backward needs: packed inputs, normalised numbers and one over their deviations, and the signs before the
   ReLU. */
typedef struct {
    PackedMatrices inputs;
    float *normalised1, *normalised2, *inv_std1, *inv_std2;
    uint16_t *positive;
} Saved;

static float *place_saved(const Shape *s, float *workspace, Saved *k) {
    const int64_t rows = group_count(s) * BLOCK;
    k->inputs.first = (uint16_t *)allocate(&workspace, s->planes * rows * s->in / 2);
    k->inputs.second = (uint16_t *)allocate(&workspace, s->planes * rows * s->hidden / 2);
    k->normalised1 = allocate(&workspace, rows * s->hidden);
    k->normalised2 = allocate(&workspace, rows * s->out);
    k->inv_std1 = allocate(&workspace, rows);
    k->inv_std2 = allocate(&workspace, rows);
    k->positive = (uint16_t *)allocate(&workspace, rows * s->hidden / TILE / 2);
    return workspace;
}

/* Packed gradients of both layers' outputs, and each group's part of the biases' gradients. */
typedef struct {
    uint16_t *first, *second;
    float *bias1, *bias2;
} OutputGradients;

static float *place_output_gradients(const Shape *s, float *workspace, OutputGradients *f) {
    const int64_t rows = group_count(s) * BLOCK;
    f->first = (uint16_t *)allocate(&workspace, s->planes * rows * s->hidden / 2);
    f->second = (uint16_t *)allocate(&workspace, s->planes * rows * s->out / 2);
    f->bias1 = allocate(&workspace, group_count(s) * s->hidden);
    f->bias2 = allocate(&workspace, group_count(s) * s->out);
    return workspace;
}

/* Scratch memory of a thread, for the rows of a group. */
typedef struct {
    uint16_t *left;
    float *x, *h, *gradient;
} Scratch;

static float *place_scratch(const Shape *s, float *workspace, Scratch *w) {
    const int64_t widest =
        s->in > s->hidden ? (s->in > s->out ? s->in : s->out) : (s->hidden > s->out ? s->hidden : s->out);
    w->left = (uint16_t *)allocate(&workspace, s->planes * BLOCK * widest / 2);
    w->x = allocate(&workspace, BLOCK * widest);
    w->h = allocate(&workspace, BLOCK * s->hidden);
    w->gradient = allocate(&workspace, BLOCK * widest);
    return workspace;
}

static int64_t scratch_size(const Shape *s) {
    Scratch w;
    return place_scratch(s, 0, &w) - (float *)0;
}

/* Sizes in floats: what forward saves for backward, and the workspace of each. */
int64_t saved_size(const Shape *s) {
    Saved k;
    return place_saved(s, 0, &k) - (float *)0;
}

int64_t forward_workspace(const Shape *s) {
    PackedMatrices p;
    return place_weights(s, 0, &p) - (float *)0 + s->threads * scratch_size(s);
}

int64_t backward_workspace(const Shape *s) {
    OutputGradients f;
    return forward_workspace(s) + (place_output_gradients(s, 0, &f) - (float *)0);
}

/* The valid rows of a group. */
static int64_t valid_rows(const Shape *s, int64_t g) {
    return s->rows - g * BLOCK < BLOCK ? s->rows - g * BLOCK : BLOCK;
}

/* x: [rows, in]. saved: memory for what backward needs, or NULL. saved and workspace have saved_size and
   forward_workspace floats: zeros, or uninitialised where the rows fill whole blocks. out: [rows, out]. */
AMX_TARGET void forward(const Shape *s, const float *x, const Layers *p, float *saved, float *workspace, float *out) {
    const int64_t threads = s->threads, hidden = s->hidden, planes = s->planes, strips = hidden / BLOCK,
                  all_strips = strips + s->out / BLOCK;
    const Layout layout = layout_of(s);
    PackedMatrices right;
    Saved k;
    workspace = place_weights(s, workspace, &right);
    if (saved)
        place_saved(s, saved, &k);
#pragma omp parallel num_threads(threads)
    {
        Scratch w;
        place_scratch(s, workspace + omp_get_thread_num() * scratch_size(s), &w);
        configure_tiles();
#pragma omp for schedule(static)
        for (int64_t strip = 0; strip < all_strips; strip++)
            if (strip < strips)
                pack_forward(planes, strip * BLOCK, s->in, hidden, p->weight1, right.first);
            else
                pack_forward(planes, (strip - strips) * BLOCK, hidden, s->out, p->weight2, right.second);
#pragma omp for schedule(static)
        for (int64_t g = 0; g < group_count(s); g++) {
            const int64_t at = g * BLOCK, n = valid_rows(s, g);
            float inv_std[2][BLOCK], *y = w.gradient;
            memcpy(w.x, x + at * s->in, (size_t)(n * s->in) * sizeof *x);
            linear(&layout, s->in, hidden, w.x, right.first, p->bias1, w.h, w.left);
            for (int64_t row = 0; row < n; row++)
                normalise(hidden, s->eps, w.h + row * hidden, inv_std[0] + row);
            if (saved) {
                save_input(&layout, s->in, w.x, at, k.inputs.first);
                memcpy(k.normalised1 + at * hidden, w.h, (size_t)(n * hidden) * sizeof *w.h);
                relu_with_mask(BLOCK * hidden, w.h, k.positive + at * hidden / TILE);
                save_input(&layout, hidden, w.h, at, k.inputs.second);
            } else
                relu(BLOCK * hidden, w.h);
            linear(&layout, hidden, s->out, w.h, right.second, p->bias2, y, w.left);
            for (int64_t row = 0; row < n; row++)
                normalise(s->out, s->eps, y + row * s->out, inv_std[1] + row);
            memcpy(out + at * s->out, y, (size_t)(n * s->out) * sizeof *y);
            if (saved) {
                memcpy(k.normalised2 + at * s->out, y, (size_t)(n * s->out) * sizeof *y);
                memcpy(k.inv_std1 + at, inv_std[0], (size_t)n * sizeof *y);
                memcpy(k.inv_std2 + at, inv_std[1], (size_t)n * sizeof *y);
            }
        }
        _tile_release();
    }
}

/* The sum of all groups' parts, in the order of the groups. */
static void add_parts(const Shape *s, int64_t n, const float *parts, float *gradients) {
    memset(gradients, 0, (size_t)n * sizeof *gradients);
    for (int64_t g = 0; g < group_count(s); g++)
        add_to(n, parts + g * n, gradients);
}

/* gradient: [rows, out]; x_gradient: [rows, in]. saved, p: of forward. workspace: as forward's, of
   backward_workspace floats. gradients: those of the parameters. Each is one sum over all rows in their order,
   whatever the number of threads. */
AMX_TARGET void backward(const Shape *s, const float *gradient, const Layers *p, float *saved, float *workspace,
                         float *x_gradient, const Layers *gradients) {
    const int64_t threads = s->threads, hidden = s->hidden, planes = s->planes, strips = hidden / BLOCK,
                  all_strips = strips + s->out / BLOCK;
    const Layout layout = layout_of(s);
    PackedMatrices right;
    Saved k;
    OutputGradients f;
    place_saved(s, saved, &k);
    workspace = place_output_gradients(s, place_weights(s, workspace, &right), &f);
#pragma omp parallel num_threads(threads)
    {
        Scratch w;
        place_scratch(s, workspace + omp_get_thread_num() * scratch_size(s), &w);
        configure_tiles();
#pragma omp for schedule(static)
        for (int64_t strip = 0; strip < all_strips; strip++)
            if (strip < strips)
                pack_backward(planes, strip * BLOCK, s->in, hidden, p->weight1, right.first);
            else
                pack_backward(planes, (strip - strips) * BLOCK, hidden, s->out, p->weight2, right.second);
#pragma omp for schedule(static)
        for (int64_t g = 0; g < group_count(s); g++) {
            const int64_t at = g * BLOCK, n = valid_rows(s, g);
            for (int64_t row = 0; row < n; row++)
                norm_backward(s->out, gradient + (at + row) * s->out, 0, k.normalised2 + (at + row) * s->out,
                              k.inv_std2[at + row], w.gradient + row * s->out);
            linear_backward(&layout, hidden, s->out, n, w.gradient, right.second, at, f.second, f.bias2 + g * s->out,
                            w.h, w.left);
            apply_mask(BLOCK * hidden, k.positive + at * hidden / TILE, w.h);
            for (int64_t row = 0; row < n; row++)
                norm_backward(hidden, w.h + row * hidden, 0, k.normalised1 + (at + row) * hidden, k.inv_std1[at + row],
                              w.gradient + row * hidden);
            linear_backward(&layout, s->in, hidden, n, w.gradient, right.first, at, f.first, f.bias1 + g * hidden, w.x,
                            w.left);
            memcpy(x_gradient + at * s->in, w.x, (size_t)(n * s->in) * sizeof *x_gradient);
        }
#pragma omp for schedule(static) nowait
        for (int64_t strip = 0; strip < all_strips; strip++)
            if (strip < strips)
                matrix_gradient(&layout, strip * BLOCK, s->in, hidden, f.first, k.inputs.first, gradients->weight1);
            else
                matrix_gradient(&layout, (strip - strips) * BLOCK, hidden, s->out, f.second, k.inputs.second,
                                gradients->weight2);
#pragma omp single
        {
            add_parts(s, hidden, f.bias1, gradients->bias1);
            add_parts(s, s->out, f.bias2, gradients->bias2);
        }
        _tile_release();
    }
}
#endif
