#ifndef EXPONENTIAL_H
#define EXPONENTIAL_H

#include <math.h>
#include <stdint.h>
#include <string.h>

/* exp(x), relative error below 2e-7; 0 and infinity beyond the range of float. Inlined so that
 * loops vectorise. The exponent is clamped, not x: a compiler that sees a clamped x makes a second
 * path for the constant, and runs it for every element on numbers too small for the processor's
 * fast lane (five times as slow). */
static inline float exponential(float x) {
    float n = floorf(x * 1.44269504f + 0.5f);
    n = n < -127.0f ? -127.0f : n;
    n = n > 127.0f ? 127.0f : n;
    float r = x - n * 0.693359375f;
    r += n * 2.12194440e-4f;
    r = r < -1.0f ? -1.0f : r;
    r = r > 1.0f ? 1.0f : r;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    int32_t bits = ((int32_t)n + 127) << 23;
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    return p * scale;
}

#endif
