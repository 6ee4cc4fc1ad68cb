// Softmax cross-entropy of a batch, its gradient, how many are right; and what a teacher adds to the gradient.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

struct Score {
    double loss = 0;  // sum over examples
    int64_t hits = 0;

    void operator+=(const Score& other) {
        loss += other.loss;
        hits += other.hits;
    }
};

// `gradient` is of the sum of losses divided by `whole`; it may be null.
static Score compare(const float* logits, const int64_t* labels, long batch, long classes, long whole,
                     float* gradient) {
    Score score;
    for (long b = 0; b < batch; ++b, logits += classes) {
        const long best = std::max_element(logits, logits + classes) - logits;
        float sum = 0;
        if (gradient) {
            for (long c = 0; c < classes; ++c) sum += gradient[c] = std::exp(logits[c] - logits[best]);
            for (long c = 0; c < classes; ++c)
                gradient[c] = (gradient[c] / sum - float(c == labels[b])) / float(whole);
            gradient += classes;
        } else {
            for (long c = 0; c < classes; ++c) sum += std::exp(logits[c] - logits[best]);
        }
        score.loss += std::log(sum) - (logits[labels[b]] - logits[best]);
        score.hits += best == labels[b];
    }
    return score;
}

// gradient ← alpha · gradient + (1 − alpha) · T · (softmax(logits / T) − softmax(teacher / T)) / whole: that of the
// hard loss and of T² · KL(teacher ‖ student). `spare` holds 2 · classes floats. (Hinton et al. 2015, §2.1)
static void teach(const float* logits, const float* const* teacher, long batch, long classes, long whole, float alpha,
                  float temperature, float* spare, float* gradient) {
    const auto soften = [&](const float* of, float* to) {
        const float most = *std::max_element(of, of + classes);
        float sum = 0;
        for (long c = 0; c < classes; ++c) sum += to[c] = std::exp((of[c] - most) / temperature);
        for (long c = 0; c < classes; ++c) to[c] /= sum;
    };
    const float soft = (1 - alpha) * temperature / float(whole);
    for (long b = 0; b < batch; ++b, logits += classes, gradient += classes) {
        float *student = spare, *wanted = spare + classes;
        soften(logits, student);
        soften(teacher[b], wanted);
        for (long c = 0; c < classes; ++c)
            gradient[c] = alpha * gradient[c] + soft * (student[c] - wanted[c]);
    }
}
