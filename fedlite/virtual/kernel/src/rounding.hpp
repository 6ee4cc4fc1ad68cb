// Int8-aware training's rounding: the numbers of fedlite/compress/quantize.py, operation by operation.
#pragma once

#include <cmath>
#include <cstdint>

#include "vectors.hpp"

constexpr float LEVELS = 255, LIMIT = 127, BIAS_LIMIT = 1 << 30;

struct Grid {
    float scale, zero_point;
};

static inline float step_of(float scale) { return scale > 0x1p-64f ? scale : 1.0f; }

// The running range after a batch; products are rounded before they are added, as torch does.
static void move_range(float* range, const float* x, long count) {
    float low = x[0], high = x[0];
    Vec lows = Vec{} + low, highs = lows;
    long i = 0;
    for (; i + LANES <= count; i += LANES) {
        const Vec value = load(x + i);
        lows = value < lows ? value : lows;
        highs = value > highs ? value : highs;
    }
    for (int lane = 0; lane < LANES; ++lane) {
        low = std::fmin(low, lows[lane]);
        high = std::fmax(high, highs[lane]);
    }
    for (; i < count; ++i) {
        low = std::fmin(low, x[i]);
        high = std::fmax(high, x[i]);
    }
    const float seen[2] = {low, high};
    const bool first = range[0] == 0 && range[1] == 0;
    for (int end = 0; end < 2; ++end) {
        volatile float kept = float(0.9) * range[end], added = float(1 - 0.9) * seen[end];
        range[end] = first ? seen[end] : kept + added;
    }
}

static Grid activation_grid(const float* range) {
    const float low = std::fmin(range[0], 0.0f), high = std::fmax(range[1], 0.0f);
    const float scale = step_of((high - low) / LEVELS);
    return {scale, std::fmin(std::fmax(std::rint(-low / scale), 0.0f), LEVELS)};
}

// `inside` says where the gradient passes.
static void round_input(const float* __restrict x, long count, Grid grid, float* __restrict rounded,
                        float* __restrict inside) {
    const float scale = grid.scale, zero = grid.zero_point;
    for (long i = 0; i < count; ++i) {
        const float wanted = std::rint(x[i] / scale) + zero;
        const float least = wanted < 0.0f ? 0.0f : wanted;
        const float taken = least > LEVELS ? LEVELS : least;
        inside[i] = wanted == taken ? 1.0f : 0.0f;
        rounded[i] = (taken - zero) * scale;
    }
}

static float largest(const float* w, long count) {
    Vec most = {};
    long i = 0;
    for (; i + LANES <= count; i += LANES) {
        const Vec value = load(w + i), size = value < 0 ? -value : value;
        most = size > most ? size : most;
    }
    float found = 0;
    for (int lane = 0; lane < LANES; ++lane) found = most[lane] > found ? most[lane] : found;
    for (; i < count; ++i) found = std::fabs(w[i]) > found ? std::fabs(w[i]) : found;
    return found;
}

// One output channel's weights, and its bias where it has one.
static void round_channel(const float* __restrict w, long count, const float* bias, float input_scale,
                          float* __restrict rounded, float* rounded_bias) {
    float scale = largest(w, count) / LIMIT;
    if (bias) scale = std::fmax(scale, std::fabs(*bias) / input_scale / BIAS_LIMIT);
    scale = step_of(scale);
    for (long i = 0; i < count; ++i) rounded[i] = std::rint(w[i] / scale) * scale;
    if (bias) {
        const float bias_scale = scale * input_scale;
        *rounded_bias = std::rint(*bias / bias_scale) * bias_scale;
    }
}
