// The optimizer: fedlite/step.py's `descend` (penalty, mask, clip, weight decay, momentum), span by span.
#pragma once

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "job.hpp"
#include "outer.hpp"
#include "vectors.hpp"

struct Descent {
    const Job& job;
    Floats moments, kept;  // momentum; gradients that wait for their norm
    double squares = 0;
    float* weights = nullptr;

    explicit Descent(const Job& of) : job(of) {
        if (of.settings.momentum > 0) moments.resize(of.stride);
        if (of.settings.clip_norm > 0) kept.resize(of.stride);
    }

    void begin(float* of) {
        weights = of;
        std::fill(moments.begin(), moments.end(), 0.0f);
    }

    // Whether a step is w − learning_rate · gradient ⊙ live and nothing else.
    bool plain() const {
        const Settings& set = job.settings;
        return moments.empty() && kept.empty() && set.proximal_mu == 0 && set.weight_decay == 0;
    }

    // A plain step of the weights from `at` on, for the product that is their gradient, its rows `row` apart.
    Into into(long at, long row) const {
        return {weights + at, row, true, -job.settings.learning_rate, job.live ? job.live + at : nullptr};
    }

    // Take the gradient of `count` weights from `at` on; with clipping, only remember it.
    void learn(long at, const float* __restrict gradient, long count) {
        const Settings& set = job.settings;
        if (plain()) {
            float* __restrict w = weights + at;
            if (const float* __restrict live = job.live ? job.live + at : nullptr)
                for (long i = 0; i < count; ++i) w[i] = multiply_add(-set.learning_rate, gradient[i] * live[i], w[i]);
            else
                for (long i = 0; i < count; ++i) w[i] = multiply_add(-set.learning_rate, gradient[i], w[i]);
            return;
        }
        constexpr long PIECE = 64;
        for (long begin = 0; begin < count; begin += PIECE)
            learn_piece(at + begin, gradient + begin, std::min(PIECE, count - begin));
    }

    // After the last span of a step: with clipping, the step itself.
    void finish(const std::vector<std::pair<long, long>>& spans) {
        if (kept.empty()) return;
        const float norm = float(std::sqrt(squares)), wanted = job.settings.clip_norm / norm;
        const float factor = wanted > 1.0f ? 1.0f : wanted;
        squares = 0;
        for (const auto& [at, count] : spans) {
            for (long i = at; i < at + count; ++i) kept[i] *= factor;
            step(at, kept.data() + at, count);
        }
    }

private:
    void learn_piece(long at, const float* gradient, long count) {
        alignas(64) float piece[64];
        const float mu = job.settings.proximal_mu;
        const float *w = weights + at, *anchor = job.start + at;
        for (long i = 0; i < count; ++i) piece[i] = gradient[i];
        if (mu > 0)
            for (long i = 0; i < count; ++i) piece[i] += mu * (w[i] - anchor[i]);
        if (const float* live = job.live ? job.live + at : nullptr)
            for (long i = 0; i < count; ++i) piece[i] *= live[i];
        if (kept.empty()) return step(at, piece, count);
        float sum = 0;
        for (long i = 0; i < count; ++i) sum += piece[i] * piece[i];
        squares += sum;
        std::copy(piece, piece + count, kept.begin() + at);
    }

    void step(long at, float* __restrict gradient, long count) {
        const Settings& set = job.settings;
        float* __restrict w = weights + at;
        if (set.weight_decay > 0)
            for (long i = 0; i < count; ++i) gradient[i] += set.weight_decay * w[i];
        if (!moments.empty()) {
            float* __restrict moment = moments.data() + at;
            for (long i = 0; i < count; ++i) moment[i] = gradient[i] += set.momentum * moment[i];
        }
        for (long i = 0; i < count; ++i) w[i] = multiply_add(-set.learning_rate, gradient[i], w[i]);
    }
};
