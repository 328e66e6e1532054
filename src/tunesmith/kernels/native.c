/* The element-wise parts of a transformer in one pass each, for processors.
 *
 * Plain C, compiled at first use by kernels/native.py; the compiler vectorises the inner loops.
 * The file includes itself once for each number format: arithmetic is in float32 throughout,
 * ELEMENT is only how tensors lie in memory. Every loop over rows is split statically among
 * threads, so a result depends on no timing.
 */
#ifndef ELEMENT

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "exponential.h"

typedef int64_t size;

static inline float from_bfloat16(uint16_t half) {
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Round to nearest, ties to even; not-a-number stays one. */
static inline uint16_t to_bfloat16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    return (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? (bits >> 16) | 0x40u : rounded);
}

/* Sixteen good bits in each half of a number from any number (Wellons, hash prospector). */
static inline uint32_t mixed(uint32_t x) {
    x = (x ^ (x >> 16)) * 0x7feb352du;
    x = (x ^ (x >> 15)) * 0x846ca68bu;
    return x ^ (x >> 16);
}

/* What is dropped: a function of a seed and of the place alone, so that the backward pass finds
 * the same. Below `threshold` (of 2^32) a number is dropped, the others are multiplied by `factor`;
 * nothing is where the threshold is 0. Of attention weights the place is query, head and key. */
typedef struct {
    uint32_t low, high, threshold;
    float factor;
} dropped;

static inline uint32_t drawn(const dropped *drop, size place) {
    return mixed(drop->low ^ (uint32_t)place * 0x9e3779b1u) ^ drop->high;
}

static inline float kept(const dropped *drop, uint32_t drawn, size key) {
    return mixed(drawn + (uint32_t)key * 0x85ebca77u) < drop->threshold ? 0.0f : drop->factor;
}

static void drop_rows(float *weights, const dropped *drop, size first, size head, size heads,
                      size key_first, size queries, size keys) {
    for (size query = 0; query < queries; query++) {
        uint32_t row = drawn(drop, (first + query) * heads + head);
        float *w = weights + query * keys;
#pragma omp simd
        for (size i = 0; i < keys; i++) w[i] *= kept(drop, row, key_first + i);
    }
}

/* Scores [queries, keys] become attention weights in place, each query over its own keys
 * [low, high), zero elsewhere; normaliser: the log-sum-exp of each query. */
static void softmax_rows(float *scores, float *normaliser, const int32_t *low,
                         const int32_t *high, size key_first, size queries, size keys) {
    for (size query = 0; query < queries; query++) {
        size begin = low[query] - key_first, end = high[query] - key_first;
        float *s = scores + query * keys;
        float largest = -INFINITY, total = 0.0f;
#pragma omp simd reduction(max : largest)
        for (size i = begin; i < end; i++) largest = s[i] > largest ? s[i] : largest;
#pragma omp simd reduction(+ : total)
        for (size i = begin; i < end; i++) {
            s[i] = exponential(s[i] - largest);
            total += s[i];
        }
        float inverse = 1.0f / total;
        for (size i = 0; i < begin; i++) s[i] = 0.0f;
#pragma omp simd
        for (size i = begin; i < end; i++) s[i] *= inverse;
        for (size i = end; i < keys; i++) s[i] = 0.0f;
        normaliser[query] = largest + logf(total);
    }
}

/* Backward of the above: scores become the weights again, back (grad v^T) the gradient of the
 * scores, weight * (back - output . grad), with back as it is after dropping. */
static void softmax_rows_backward(float *scores, float *back, const float *normaliser,
                                  const float *output, const float *grad, const int32_t *low,
                                  const int32_t *high, size key_first, size queries, size keys,
                                  size head, size row) {
    for (size query = 0; query < queries; query++) {
        size begin = low[query] - key_first, end = high[query] - key_first;
        float *s = scores + query * keys, *b = back + query * keys;
        const float *o = output + query * row, *g = grad + query * row;
        float shift = normaliser[query], along = 0.0f;
#pragma omp simd reduction(+ : along)
        for (size i = 0; i < head; i++) along += o[i] * g[i];
        for (size i = 0; i < begin; i++) s[i] = b[i] = 0.0f;
#pragma omp simd
        for (size i = begin; i < end; i++) {
            s[i] = exponential(s[i] - shift);
            b[i] = s[i] * (b[i] - along);
        }
        for (size i = end; i < keys; i++) s[i] = b[i] = 0.0f;
    }
}

/* The matrix product of the BLAS that is in the process already (Fortran's interface, columns
 * first); inside a parallel region it runs on the calling thread. */
typedef void (*product)(const char *, const char *, const int *, const int *, const int *,
                        const float *, const float *, const int *, const float *, const int *,
                        const float *, float *, const int *);

/* c [columns of b', rows of a'] = alpha * a b + beta * c, all row-major; `ta`, `tb` say that a
 * matrix lies transposed. Rows m, columns n, inner k. */
static inline void multiply(product gemm, int ta, int tb, size m, size n, size k, float alpha,
                            const float *a, size lda, const float *b, size ldb, float beta,
                            float *c, size ldc) {
    int m_ = (int)m, n_ = (int)n, k_ = (int)k, a_ = (int)lda, b_ = (int)ldb, c_ = (int)ldc;
    gemm(tb ? "T" : "N", ta ? "T" : "N", &n_, &m_, &k_, &alpha, b, &b_, a, &a_, &beta, c, &c_);
}

/* Attention within documents. Head h of token t lies at
 * x + t * stride + h * head; keys and values have one stride. A block is
 * {first query, last query, first key, last key}; query t sees keys [low[t], high[t]).
 * output [tokens, heads, head] dense; normaliser [heads, tokens]. */
void attention(product gemm, const float *q, const float *k, const float *v, float *output,
               float *normaliser, const int32_t *low, const int32_t *high, const int64_t *blocks,
               size count, size tokens, size heads, size key_heads, size head,
               size q_stride, size k_stride, size largest, float scale, size seed_low,
               size seed_high, size threshold, float factor) {
    size group = heads / key_heads;
    dropped drop = {(uint32_t)seed_low, (uint32_t)seed_high, (uint32_t)threshold, factor};
#pragma omp parallel
    {
        float *scores = malloc((size_t)largest * sizeof *scores);
#pragma omp for schedule(dynamic) collapse(2)
        for (size i = 0; i < count; i++)
            for (size h = 0; h < heads; h++) {
                const int64_t *b = blocks + 4 * i;
                size queries = b[1] - b[0], keys = b[3] - b[2];
                size here = b[0] * q_stride + h * head, there = b[2] * k_stride + h / group * head;
                multiply(gemm, 0, 1, queries, keys, head, scale, q + here, q_stride, k + there,
                         k_stride, 0.0f, scores, keys);
                softmax_rows(scores, normaliser + h * tokens + b[0], low + b[0], high + b[0],
                             b[2], queries, keys);
                if (threshold)
                    drop_rows(scores, &drop, b[0], h, heads, b[2], queries, keys);
                multiply(gemm, 0, 0, queries, head, keys, 1.0f, scores, keys, v + there, k_stride,
                         0.0f, output + (b[0] * heads + h) * head, heads * head);
            }
        free(scores);
    }
}

/* Backward of the above. `grad` and `output` are dense; gq, gk, gv lie as q, k, v do. A segment is
 * a run of blocks that share keys with no other: {first block, last block}. Blocks of a segment
 * are taken in order by one thread, so sums do not depend on how threads are scheduled. */
void attention_backward(product gemm, const float *q, const float *k, const float *v,
                        const float *output, const float *normaliser, const float *grad,
                        float *gq, float *gk, float *gv, const int32_t *low, const int32_t *high,
                        const int64_t *blocks, const int64_t *segments, size count, size tokens,
                        size heads, size key_heads, size head, size q_stride,
                        size k_stride, size largest, float scale, size seed_low,
                        size seed_high, size threshold, float factor) {
    size group = heads / key_heads, row = heads * head;
    dropped drop = {(uint32_t)seed_low, (uint32_t)seed_high, (uint32_t)threshold, factor};
#pragma omp parallel
    {
        float *scores = malloc((size_t)largest * 2 * sizeof *scores), *back = scores + largest;
#pragma omp for schedule(dynamic) collapse(2)
        for (size segment = 0; segment < count; segment++)
            for (size j = 0; j < key_heads; j++) {
                const int64_t *run = segments + 2 * segment;
                for (size t = blocks[4 * run[0] + 2]; t < blocks[4 * run[1] - 1]; t++) {
                    memset(gk + t * k_stride + j * head, 0, (size_t)head * sizeof *gk);
                    memset(gv + t * k_stride + j * head, 0, (size_t)head * sizeof *gv);
                }
                for (size i = run[0]; i < run[1]; i++)
                    for (size h = j * group; h < (j + 1) * group; h++) {
                        const int64_t *b = blocks + 4 * i;
                        size queries = b[1] - b[0], keys = b[3] - b[2];
                        size here = b[0] * q_stride + h * head;
                        size there = b[2] * k_stride + j * head;
                        size dense = b[0] * row + h * head;
                        multiply(gemm, 0, 1, queries, keys, head, scale, q + here, q_stride,
                                 k + there, k_stride, 0.0f, scores, keys);
                        multiply(gemm, 0, 1, queries, keys, head, 1.0f, grad + dense, row,
                                 v + there, k_stride, 0.0f, back, keys);
                        if (threshold)
                            drop_rows(back, &drop, b[0], h, heads, b[2], queries, keys);
                        softmax_rows_backward(scores, back, normaliser + h * tokens + b[0],
                                              output + dense, grad + dense, low + b[0],
                                              high + b[0], b[2], queries, keys, head, row);
                        multiply(gemm, 0, 0, queries, head, keys, scale, back, keys, k + there,
                                 k_stride, 0.0f, gq + here, q_stride);
                        if (threshold)
                            drop_rows(scores, &drop, b[0], h, heads, b[2], queries, keys);
                        multiply(gemm, 1, 0, keys, head, queries, 1.0f, scores, keys,
                                 grad + dense, row, 1.0f, gv + there, k_stride);
                        multiply(gemm, 1, 0, keys, head, queries, scale, back, keys, q + here,
                                 q_stride, 1.0f, gk + there, k_stride);
                    }
            }
        free(scores);
    }
}

/* Logits of a chunk of rows: log-probability of each target, whether it is the largest, and,
 * where upstream is given, the logits become the gradient upstream * (onehot - softmax). */
void token_softmax(float *logits, const int64_t *targets, const float *upstream,
                   float *logprobs, uint8_t *correct, size rows, size vocabulary) {
#pragma omp parallel for schedule(static)
    for (size row = 0; row < rows; row++) {
        float *z = logits + row * vocabulary;
        float wanted = z[targets[row]], largest = -INFINITY, total = 0.0f;
#pragma omp simd reduction(max : largest)
        for (size i = 0; i < vocabulary; i++) largest = z[i] > largest ? z[i] : largest;
        if (upstream) {
#pragma omp simd reduction(+ : total)
            for (size i = 0; i < vocabulary; i++) {
                z[i] = exponential(z[i] - largest);
                total += z[i];
            }
            float factor = -upstream[row] / total;
#pragma omp simd
            for (size i = 0; i < vocabulary; i++) z[i] *= factor;
            z[targets[row]] += upstream[row];
        } else {
#pragma omp simd reduction(+ : total)
            for (size i = 0; i < vocabulary; i++) total += exponential(z[i] - largest);
        }
        logprobs[row] = wanted - largest - logf(total);
        correct[row] = wanted >= largest;
    }
}

#define ELEMENT float
#define NAME(x) x##_float32
#define LOAD(x) (x)
#define STORE(x) (x)
#include "native.c"
#undef ELEMENT
#undef NAME
#undef LOAD
#undef STORE
#define ELEMENT uint16_t
#define NAME(x) x##_bfloat16
#define LOAD(x) from_bfloat16(x)
#define STORE(x) to_bfloat16(x)
#include "native.c"

#else

/* y = x / rms(x) * weight by rows; inverse[row] = 1 / rms, kept for the backward pass. */
void NAME(rms_norm)(const ELEMENT *restrict x, const float *restrict weight,
                    ELEMENT *restrict y, float *restrict inverse, float epsilon, size rows,
                    size width) {
#pragma omp parallel for schedule(static)
    for (size row = 0; row < rows; row++) {
        const ELEMENT *in = x + row * width;
        ELEMENT *out = y + row * width;
        float total = 0.0f;
#pragma omp simd reduction(+ : total)
        for (size i = 0; i < width; i++) total += LOAD(in[i]) * LOAD(in[i]);
        float scale = 1.0f / sqrtf(total / (float)width + epsilon);
        inverse[row] = scale;
#pragma omp simd
        for (size i = 0; i < width; i++) out[i] = STORE(LOAD(in[i]) * scale * weight[i]);
    }
}

/* Gradient of the input: inverse * (grad * weight - normal * mean(grad * weight * normal)). */
void NAME(rms_norm_backward)(const ELEMENT *restrict grad, const ELEMENT *restrict x,
                             const float *restrict weight, const float *restrict inverse,
                             ELEMENT *restrict gx, size rows, size width) {
#pragma omp parallel for schedule(static)
    for (size row = 0; row < rows; row++) {
        const ELEMENT *in = x + row * width, *g = grad + row * width;
        ELEMENT *out = gx + row * width;
        float scale = inverse[row], total = 0.0f;
#pragma omp simd reduction(+ : total)
        for (size i = 0; i < width; i++) total += LOAD(g[i]) * weight[i] * LOAD(in[i]);
        float along = total * scale * scale * scale / (float)width;
#pragma omp simd
        for (size i = 0; i < width; i++)
            out[i] = STORE(LOAD(g[i]) * weight[i] * scale - LOAD(in[i]) * along);
    }
}

/* y = x where it is kept, else 0. */
void NAME(dropout)(const ELEMENT *restrict x, ELEMENT *restrict y, size count, size seed_low,
                   size seed_high, size threshold, float factor) {
    dropped drop = {(uint32_t)seed_low, (uint32_t)seed_high, (uint32_t)threshold, factor};
#pragma omp parallel for simd schedule(static)
    for (size i = 0; i < count; i++)
        y[i] = STORE(mixed(drawn(&drop, i)) < drop.threshold ? 0.0f : LOAD(x[i]) * drop.factor);
}

/* h = silu(gate) * up; a row of gate_up is gate then up, `width` each. */
void NAME(swiglu)(const ELEMENT *restrict gate_up, ELEMENT *restrict h, size rows, size width) {
#pragma omp parallel for schedule(static)
    for (size row = 0; row < rows; row++) {
        const ELEMENT *gate = gate_up + row * 2 * width, *up = gate + width;
        ELEMENT *out = h + row * width;
#pragma omp simd
        for (size i = 0; i < width; i++) {
            float a = LOAD(gate[i]);
            out[i] = STORE(a / (1.0f + exponential(-a)) * LOAD(up[i]));
        }
    }
}

void NAME(swiglu_backward)(const ELEMENT *restrict grad, const ELEMENT *restrict gate_up,
                           ELEMENT *restrict back, size rows, size width) {
#pragma omp parallel for schedule(static)
    for (size row = 0; row < rows; row++) {
        const ELEMENT *gate = gate_up + row * 2 * width, *up = gate + width;
        const ELEMENT *g = grad + row * width;
        ELEMENT *to_gate = back + row * 2 * width, *to_up = to_gate + width;
#pragma omp simd
        for (size i = 0; i < width; i++) {
            float a = LOAD(gate[i]), b = LOAD(up[i]), c = LOAD(g[i]);
            float sigmoid = 1.0f / (1.0f + exponential(-a));
            to_gate[i] = STORE(c * b * sigmoid * (1.0f + a * (1.0f - sigmoid)));
            to_up[i] = STORE(c * a * sigmoid);
        }
    }
}

/* Rotate the first `heads` heads of each row in place (halves, as Llama pairs them); direction -1
 * is the backward pass. cos, sin [rows, head]; a row of x is `stride` elements apart. */
void NAME(rotary)(ELEMENT *restrict x, const float *restrict cosine, const float *restrict sine,
                  float direction, size rows, size heads, size head, size stride) {
    size half = head / 2;
#pragma omp parallel for schedule(static)
    for (size row = 0; row < rows; row++) {
        const float *c = cosine + row * head, *s = sine + row * head;
        const float *s_first = direction > 0 ? s : s + half;
        const float *s_second = direction > 0 ? s + half : s;
        for (size h = 0; h < heads; h++) {
            ELEMENT *first = x + row * stride + h * head, *second = first + half;
#pragma omp simd
            for (size i = 0; i < half; i++) {
                float a = LOAD(first[i]), b = LOAD(second[i]);
                first[i] = STORE(a * c[i] - direction * b * s_first[i]);
                second[i] = STORE(b * c[i + half] + direction * a * s_second[i]);
            }
        }
    }
}

#endif
