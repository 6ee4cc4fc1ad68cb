// Softmax cross-entropy of a batch, its gradient, and how many are right.
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
