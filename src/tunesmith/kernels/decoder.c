/* A stack of Llama-like layers for few tokens at a time: generation, step by step.
 *
 * Plain C, compiled at first use by kernels/native.py. Weights lie as PyTorch keeps them, one row
 * an output; they are read once a step whatever the number of tokens, in float32, or in float16 or
 * bfloat16 where that holds them without loss. Arithmetic is in float32. What one token gets does
 * not depend on which others are computed beside it: every sum is taken in one order, whatever the
 * number of rows and threads.
 *
 * Shapes: n rows (tokens), D model, O outputs, R ranks, H query heads, J key heads, K head size.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__AVX512F__) || defined(__F16C__)
#include <immintrin.h>
#endif

#include "exponential.h"

typedef int64_t size;

/* Rows and outputs of a tile: as many running sums as the processor has registers for. */
#if defined(__AVX512F__)
#define LANES 16
#define TILE_ROWS 6
#elif defined(__AVX__)
#define LANES 8
#define TILE_ROWS 2
#else
#define LANES 4
#define TILE_ROWS 4
#endif
#define TILE_OUTPUTS 4
#define STRIPS 4 /* tiles of outputs that one thread takes at a time */
#define AHEAD 8  /* bytes of weights that are called for while one element is worked on */

typedef float vec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef uint32_t words __attribute__((vector_size(LANES * 4)));
typedef uint16_t halves __attribute__((vector_size(LANES * 2), aligned(2), may_alias));

enum format { FLOAT32, BFLOAT16, FLOAT16 };

/* Which formats this build reads at full speed: bit 1 << format. */
size decoder_formats(void) {
#if defined(__AVX512F__) || defined(__F16C__)
    return 1 << FLOAT32 | 1 << BFLOAT16 | 1 << FLOAT16;
#else
    return 1 << FLOAT32 | 1 << BFLOAT16;
#endif
}

static inline vec load_float32(const void *at, size i) {
    return *(const vec *)((const float *)at + i);
}

static inline vec load_bfloat16(const void *at, size i) {
    const uint16_t *from = (const uint16_t *)at + i;
#if defined(__AVX512F__) /* a compiler widens in four steps what the processor does in one */
    __m256i half = _mm256_loadu_si256((const void *)from);
    return (vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16);
#else
    return (vec)(__builtin_convertvector(*(const halves *)from, words) << 16);
#endif
}

static inline vec load_float16(const void *at, size i) {
    const uint16_t *from = (const uint16_t *)at + i;
#if defined(__AVX512F__)
    return (vec)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from));
#elif defined(__F16C__) && LANES == 8
    return (vec)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from));
#else
    (void)from;
    return (vec){0};
#endif
}

/* The last elements of a row, fewer than LANES, zeros behind them. */
static inline vec tail(const void *at, size i, size count, enum format format) {
    float wide[LANES] = {0};
    uint16_t half[LANES] = {0};
    if (format == FLOAT32) {
        memcpy(wide, (const float *)at + i, (size_t)count * sizeof *wide);
        return load_float32(wide, 0);
    }
    memcpy(half, (const uint16_t *)at + i, (size_t)count * sizeof *half);
    return format == BFLOAT16 ? load_bfloat16(half, 0) : load_float16(half, 0);
}

/* The lanes added up, by halves. */
typedef float four __attribute__((vector_size(16)));
static inline float sum(vec v) {
#if LANES == 16
    typedef float eight __attribute__((vector_size(32)));
    eight half = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
                 __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
    four part = __builtin_shufflevector(half, half, 0, 1, 2, 3) +
                __builtin_shufflevector(half, half, 4, 5, 6, 7);
#elif LANES == 8
    four part = __builtin_shufflevector(v, v, 0, 1, 2, 3) +
                __builtin_shufflevector(v, v, 4, 5, 6, 7);
#else
    four part = (four)v;
#endif
    part += __builtin_shufflevector(part, part, 2, 3, 0, 1);
    return part[0] + part[1];
}

/* The lanes of four added up, side by side. */
static inline four sums(vec a, vec b, vec c, vec d) {
#if LANES == 16
#define PAIR(x, y, i, j)                                                                          \
    __builtin_shufflevector(x, y, i, j, i + 1, j + 1, i + 4, j + 4, i + 5, j + 5, i + 8, j + 8,   \
                            i + 9, j + 9, i + 12, j + 12, i + 13, j + 13)
#define FOUR(x, y, i, j)                                                                          \
    __builtin_shufflevector(x, y, i, i + 1, j, j + 1, i + 4, i + 5, j + 4, j + 5, i + 8, i + 9,   \
                            j + 8, j + 9, i + 12, i + 13, j + 12, j + 13)
    vec ab = PAIR(a, b, 0, 16) + PAIR(a, b, 2, 18), cd = PAIR(c, d, 0, 16) + PAIR(c, d, 2, 18);
    vec all = FOUR(ab, cd, 0, 16) + FOUR(ab, cd, 2, 18);
    return (__builtin_shufflevector(all, all, 0, 1, 2, 3) +
            __builtin_shufflevector(all, all, 4, 5, 6, 7)) +
           (__builtin_shufflevector(all, all, 8, 9, 10, 11) +
            __builtin_shufflevector(all, all, 12, 13, 14, 15));
#else
    return (four){sum(a), sum(b), sum(c), sum(d)};
#endif
}

/* acc[output][row] += w x over `inner` elements; the tile is unrolled by the compiler. */
static inline __attribute__((always_inline)) void accumulate(
    vec acc[TILE_OUTPUTS][TILE_ROWS], const char *const *w, const float *x, size x_stride,
    size inner, const char *ahead, int outputs, int rows, enum format format) {
    size whole = inner / LANES * LANES;
    for (size i = 0; i < whole; i += LANES) {
        vec weight[TILE_OUTPUTS];
        for (int o = 0; o < outputs; o++)
            weight[o] = format == FLOAT32    ? load_float32(w[o], i)
                        : format == BFLOAT16 ? load_bfloat16(w[o], i)
                                             : load_float16(w[o], i);
        /* What comes next: rows are too short for the processor to guess it. */
        if (ahead) {
            __builtin_prefetch(ahead + AHEAD * i);
            __builtin_prefetch(ahead + AHEAD * i + 4 * LANES);
        } else
            for (int o = 0; o < outputs; o++)
                __builtin_prefetch(w[o] + (outputs * inner + i) * (format == FLOAT32 ? 4 : 2));
        for (int r = 0; r < rows; r++) {
            vec in = load_float32(x + r * x_stride, i);
            for (int o = 0; o < outputs; o++) acc[o][r] += weight[o] * in;
        }
    }
    if (whole == inner) return;
    for (int r = 0; r < rows; r++) {
        vec in = tail(x + r * x_stride, whole, inner - whole, FLOAT32);
        for (int o = 0; o < outputs; o++)
            acc[o][r] += tail(w[o], whole, inner - whole, format) * in;
    }
}

/* One linear layer with its adapter: y = x w^T + bias + inner b^T, where inner = scale x a^T has
 * been computed before. `format` is that of w; a and b are float32. */
struct linear {
    const char *w;
    const float *bias, *a, *b;
    size format, outputs, ranks;
    double scale;
};

static inline __attribute__((always_inline)) void tile(
    const struct linear *l, size first, const float *x, size x_stride, size inputs,
    const float *inner, size inner_stride, float *y, size y_stride, const char *ahead, int outputs,
    int rows, enum format format) {
    vec acc[TILE_OUTPUTS][TILE_ROWS] = {{{0}}};
    size row_bytes = inputs * (format == FLOAT32 ? 4 : 2);
    const char *w[TILE_OUTPUTS], *b[TILE_OUTPUTS];
    for (int o = 0; o < outputs; o++) w[o] = l->w + (first + o) * row_bytes;
    accumulate(acc, w, x, x_stride, inputs, ahead, outputs, rows, format);
    if (inner) {
        for (int o = 0; o < outputs; o++) b[o] = (const char *)(l->b + (first + o) * l->ranks);
        accumulate(acc, b, inner, inner_stride, l->ranks, 0, outputs, rows, FLOAT32);
    }
    four bias = {0};
    if (l->bias) memcpy(&bias, l->bias + first, (size_t)outputs * sizeof(float));
    for (int r = 0; r < rows; r++) {
        four total = {0};
        if (outputs == TILE_OUTPUTS)
            total = sums(acc[0][r], acc[1][r], acc[2][r], acc[3][r]);
        else
            for (int o = 0; o < outputs; o++) total[o] = sum(acc[o][r]);
        total += bias;
        memcpy(y + r * y_stride + first, &total, (size_t)outputs * sizeof(float));
    }
}

#define CASE(format, rows)                                                                        \
    case rows:                                                                                    \
        tile(l, o, x + r * x_stride, x_stride, inputs, inner ? inner + r * inner_stride : 0,      \
             inner_stride, y + r * y_stride, y_stride, ahead, TILE_OUTPUTS, rows, format);        \
        break;
#if TILE_ROWS == 6
#define CASES(format)                                                                             \
    CASE(format, 1) CASE(format, 2) CASE(format, 3) CASE(format, 4) CASE(format, 5) CASE(format, 6)
#elif TILE_ROWS == 4
#define CASES(format) CASE(format, 1) CASE(format, 2) CASE(format, 3) CASE(format, 4)
#else
#define CASES(format) CASE(format, 1) CASE(format, 2)
#endif

/* Outputs [first, last) of every row, whole tiles: a tile's rows stay in the first cache meanwhile.
 * Where there are several tiles of rows, the weights behind `last` are fetched in the meantime. */
#define STRIP(name, format)                                                                       \
    static void name(const struct linear *l, size first, size last, const float *x,               \
                     size x_stride, size inputs, const float *inner, size inner_stride, float *y, \
                     size y_stride, size n) {                                                     \
        size row_bytes = inputs * (format == FLOAT32 ? 4 : 2);                                    \
        const char *next = l->w + last * row_bytes, *end = next + (last - first) * row_bytes;     \
        const char *ahead = n > TILE_ROWS ? next : 0;                                             \
        for (size r = 0; r < n; r += TILE_ROWS)                                                   \
            for (size o = first; o < last; o += TILE_OUTPUTS) {                                   \
                switch (n - r < TILE_ROWS ? n - r : TILE_ROWS) { CASES(format) }                  \
                if (ahead && ahead + AHEAD * inputs < end) ahead += AHEAD * inputs;               \
            }                                                                                     \
    }
STRIP(strip_float32, FLOAT32)
STRIP(strip_bfloat16, BFLOAT16)
STRIP(strip_float16, FLOAT16)

/* The last outputs, fewer than a tile: one at a time, the same sums. */
static void single(const struct linear *l, size o, const float *x, size x_stride, size inputs,
                   const float *inner, size inner_stride, float *y, size y_stride, size n) {
    for (size r = 0; r < n; r++) {
        const float *in = x + r * x_stride, *low = inner ? inner + r * inner_stride : 0;
        if (l->format == FLOAT32)
            tile(l, o, in, x_stride, inputs, low, inner_stride, y + r * y_stride, y_stride, 0, 1,
                 1, FLOAT32);
        else if (l->format == BFLOAT16)
            tile(l, o, in, x_stride, inputs, low, inner_stride, y + r * y_stride, y_stride, 0, 1,
                 1, BFLOAT16);
        else
            tile(l, o, in, x_stride, inputs, low, inner_stride, y + r * y_stride, y_stride, 0, 1,
                 1, FLOAT16);
    }
}

/* y [n, outputs] of one linear layer. Called by every thread of a parallel region; all threads
 * have written their part when it returns. */
static void product(const struct linear *l, const float *x, size x_stride, size inputs,
                    const float *inner, size inner_stride, float *y, size y_stride, size n) {
    size whole = l->outputs / TILE_OUTPUTS * TILE_OUTPUTS;
#pragma omp for schedule(static)
    for (size first = 0; first < whole; first += STRIPS * TILE_OUTPUTS) {
        size last = first + STRIPS * TILE_OUTPUTS < whole ? first + STRIPS * TILE_OUTPUTS : whole;
        (l->format == FLOAT32    ? strip_float32
         : l->format == BFLOAT16 ? strip_bfloat16
                                 : strip_float16)(l, first, last, x, x_stride, inputs, inner,
                                                  inner_stride, y, y_stride, n);
    }
    if (whole == l->outputs) return;
#pragma omp single
    for (size o = whole; o < l->outputs; o++)
        single(l, o, x, x_stride, inputs, inner, inner_stride, y, y_stride, n);
}

/* The same with the adapter: scale x a^T first, into `inner` [n, ranks]. */
static void adapted(const struct linear *l, const float *x, size x_stride, size inputs,
                    float *inner, float *y, size y_stride, size n) {
    if (!l->ranks) {
        product(l, x, x_stride, inputs, 0, 0, y, y_stride, n);
        return;
    }
    struct linear down = {(const char *)l->a, 0, 0, 0, FLOAT32, l->ranks, 0, 1.0};
    product(&down, x, x_stride, inputs, 0, 0, inner, l->ranks, n);
    float scale = (float)l->scale;
#pragma omp for schedule(static)
    for (size i = 0; i < n * l->ranks; i++) inner[i] *= scale;
    product(l, x, x_stride, inputs, inner, l->ranks, y, y_stride, n);
}

/* The output layer: y = x w^T + bias. */
void decoder_product(const struct linear *l, const float *x, size inputs, float *y, size n) {
#pragma omp parallel
    product(l, x, inputs, inputs, 0, 0, y, l->outputs, n);
}

/* out = x / rms(x) * weight; out may be x. */
static void norm(const float *x, const float *weight, float *out, float epsilon, size width) {
    vec total = {0};
    size whole = width / LANES * LANES;
    for (size i = 0; i < whole; i += LANES) {
        vec v = load_float32(x, i);
        total += v * v;
    }
    if (whole < width) {
        vec v = tail(x, whole, width - whole, FLOAT32);
        total += v * v;
    }
    float scale = 1.0f / sqrtf(sum(total) / (float)width + epsilon);
    for (size i = 0; i < width; i++) out[i] = x[i] * scale * weight[i];
}

/* Turn the heads of one token, halves paired as Llama pairs them. */
static void rotate(float *x, const float *cosine, const float *sine, size heads, size head) {
    size half = head / 2;
    for (size h = 0; h < heads; h++) {
        float *first = x + h * head, *second = first + half;
        for (size i = 0; i < half; i++) {
            float a = first[i], b = second[i];
            first[i] = a * cosine[i] - b * sine[i];
            second[i] = b * cosine[i + half] + a * sine[i + half];
        }
    }
}

static float added(const float *x, size count) {
    vec total = {0};
    size i = 0;
    for (; i + LANES <= count; i += LANES) total += load_float32(x, i);
    float rest = sum(total);
    for (; i < count; i++) rest += x[i];
    return rest;
}

/* out [head] = inverse * sum of weight * value; sums stay in registers, four vectors at a time. */
static inline __attribute__((always_inline)) void weigh(
    const float *weight, const float *values, size stride, size count, float inverse, float *out,
    size head) {
    size c = 0;
    for (; c + 4 * LANES <= head; c += 4 * LANES) {
        vec a = {0}, b = {0}, d = {0}, e = {0};
        for (size i = 0; i < count; i++) {
            const float *v = values + i * stride + c;
            a += weight[i] * load_float32(v, 0);
            b += weight[i] * load_float32(v, LANES);
            d += weight[i] * load_float32(v, 2 * LANES);
            e += weight[i] * load_float32(v, 3 * LANES);
        }
        *(vec *)(out + c) = inverse * a;
        *(vec *)(out + c + LANES) = inverse * b;
        *(vec *)(out + c + 2 * LANES) = inverse * d;
        *(vec *)(out + c + 3 * LANES) = inverse * e;
    }
    for (; c < head; c++) {
        float total = 0.0f;
        for (size i = 0; i < count; i++) total += weight[i] * values[i * stride + c];
        out[c] = inverse * total;
    }
}

/* One token's query heads of one key head over the keys at places [begin, end). q is scaled. */
static inline __attribute__((always_inline)) void see(
    const float *q, const float *keys, const float *values, size stride, size begin, size end,
    size group, size head, float *scores, size longest, float *out) {
    size whole = head / LANES * LANES, count = end - begin;
    float *largest = scores + group * longest;
    for (size g = 0; g < group; g++) largest[g] = -INFINITY;
    for (size i = 0; i < count; i++) {
        const float *k = keys + (begin + i) * stride;
        for (size g = 0; g < group; g++) {
            const float *one = q + g * head;
            vec acc = {0};
            for (size c = 0; c < whole; c += LANES)
                acc += load_float32(one, c) * load_float32(k, c);
            if (whole < head)
                acc += tail(one, whole, head - whole, FLOAT32) *
                       tail(k, whole, head - whole, FLOAT32);
            float score = sum(acc);
            scores[g * longest + i] = score;
            largest[g] = score > largest[g] ? score : largest[g];
        }
    }
    for (size g = 0; g < group; g++) {
        float *s = scores + g * longest, most = largest[g];
        for (size i = 0; i < count; i++) s[i] = exponential(s[i] - most);
        float inverse = 1.0f / added(s, count);
        weigh(s, values + begin * stride, stride, count, inverse, out + g * head, head);
    }
}

static void attend(const float *q, size q_stride, const float *keys, const float *values,
                   const int64_t *ranges, float *out, size n, size heads, size key_heads,
                   size head, float *scores, size longest) {
    size group = heads / key_heads, stride = key_heads * head;
#pragma omp for schedule(dynamic) collapse(2)
    for (size t = 0; t < n; t++)
        for (size j = 0; j < key_heads; j++) {
            const float *one = q + t * q_stride + j * group * head;
            const float *k = keys + j * head, *v = values + j * head;
            float *o = out + (t * heads + j * group) * head;
            size begin = ranges[2 * t], end = ranges[2 * t + 1];
            if (head == 64)
                see(one, k, v, stride, begin, end, group, 64, scores, longest, o);
            else if (head == 128)
                see(one, k, v, stride, begin, end, group, 128, scores, longest, o);
            else
                see(one, k, v, stride, begin, end, group, head, scores, longest, o);
        }
}

struct layer {
    const float *norm_in, *norm_after_attention, *norm_mlp, *norm_after_mlp, *norm_q, *norm_k;
    struct linear q, k, v, o, gate, up, down;
    const float *cosine, *sine; /* [n, head] */
    const int64_t *ranges;      /* [n, 2]: places that each token sees */
    float *keys, *values;       /* [places, J, K] */
    size heads, key_heads, head, gelu;
    double epsilon, scale;
};

static inline float activated(float x, size gelu) {
    /* tanh(u) = 1 - 2 / (1 + exp(2 u)), so that gelu's form is x / (1 + exp(-2 u)) */
    float u = gelu ? 1.5957691216f * (x + 0.044715f * x * x * x) : x;
    return x / (1.0f + exponential(-u));
}

/* hidden [n, D] goes through the layers in place; each row's keys and values are written to its
 * place first. `scratch` holds n * width floats: width = D + max(2 (H + J) K, 2 F) + ranks. */
void decoder_layers(const struct layer *layers, size count, float *hidden, const int64_t *places,
                    float *scratch, size n, size model, size longest) {
#pragma omp parallel
    {
        size group = 1;
        for (size i = 0; i < count; i++)
            if (layers[i].heads / layers[i].key_heads > group)
                group = layers[i].heads / layers[i].key_heads;
        float *scores = malloc((size_t)(group * (longest + 1)) * sizeof *scores);
        for (size i = 0; i < count; i++) {
            const struct layer *l = layers + i;
            size queries = l->heads * l->head, kept = l->key_heads * l->head;
            size row = queries + 2 * kept, wide = l->gate.outputs;
            float epsilon = (float)l->epsilon, scale = (float)l->scale;
            float *normal = scratch, *qkv = normal + n * model, *seen = qkv + n * row;
            float *gate = qkv, *up = gate + n * wide;
            size most = n * (row + queries > 2 * wide ? row + queries : 2 * wide);
            float *inner = qkv + most;
#pragma omp for schedule(static)
            for (size t = 0; t < n; t++)
                norm(hidden + t * model, l->norm_in, normal + t * model, epsilon, model);
            adapted(&l->q, normal, model, model, inner, qkv, row, n);
            adapted(&l->k, normal, model, model, inner, qkv + queries, row, n);
            adapted(&l->v, normal, model, model, inner, qkv + queries + kept, row, n);
#pragma omp for schedule(static)
            for (size t = 0; t < n; t++) {
                float *q = qkv + t * row, *k = q + queries;
                for (size h = 0; l->norm_q && h < l->heads; h++)
                    norm(q + h * l->head, l->norm_q, q + h * l->head, epsilon, l->head);
                for (size h = 0; l->norm_k && h < l->key_heads; h++)
                    norm(k + h * l->head, l->norm_k, k + h * l->head, epsilon, l->head);
                rotate(q, l->cosine + t * l->head, l->sine + t * l->head, l->heads + l->key_heads,
                       l->head);
                for (size c = 0; c < queries; c++) q[c] *= scale;
                memcpy(l->keys + places[t] * kept, k, (size_t)kept * sizeof *k);
                memcpy(l->values + places[t] * kept, k + kept, (size_t)kept * sizeof *k);
            }
            attend(qkv, row, l->keys, l->values, l->ranges, seen, n, l->heads, l->key_heads,
                   l->head, scores, longest);
            adapted(&l->o, seen, queries, queries, inner, normal, model, n);
#pragma omp for schedule(static)
            for (size t = 0; t < n; t++) {
                float *h = hidden + t * model, *add = normal + t * model;
                if (l->norm_after_attention)
                    norm(add, l->norm_after_attention, add, epsilon, model);
                for (size c = 0; c < model; c++) h[c] += add[c];
                norm(h, l->norm_mlp, add, epsilon, model);
            }
            adapted(&l->gate, normal, model, model, inner, gate, wide, n);
            adapted(&l->up, normal, model, model, inner, up, wide, n);
#pragma omp for schedule(static)
            for (size t = 0; t < n * wide; t++) gate[t] = activated(gate[t], l->gelu) * up[t];
            adapted(&l->down, gate, wide, wide, inner, normal, model, n);
#pragma omp for schedule(static)
            for (size t = 0; t < n; t++) {
                float *h = hidden + t * model, *add = normal + t * model;
                if (l->norm_after_mlp) norm(add, l->norm_after_mlp, add, epsilon, model);
                for (size c = 0; c < model; c++) h[c] += add[c];
            }
        }
        free(scores);
    }
}
