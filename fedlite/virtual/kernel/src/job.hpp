// What Python hands over: layers, settings and clients. Field by field as in layers.py and engine.py.
#pragma once

#include <cstdint>

enum Kind : int64_t { DENSE = 0, CONVOLUTION = 1, FLATTEN = 2 };

struct Layer {
    int64_t kind, relu;
    int64_t channels, height, width;  // of the input; a dense layer's is channels × 1 × 1
    int64_t outputs, kernel, stride, padding;
    int64_t pool;                   // side of the pooling window after a convolution, 1 for none
    int64_t weight, bias, range;    // where in the row of parameters; −1 for none
};

struct Settings {
    int64_t epochs, batch_size, bits;  // batch_size ≥ 1
    float learning_rate, momentum, weight_decay, proximal_mu, clip_norm;
};

// Weights of convolutions are (outputs, kernel, kernel, channels) in `start` and `live`, and as in torch,
// (outputs, channels, kernel, kernel), in what is given back.
struct Job {
    const Layer* layers;
    int64_t num_layers;
    Settings settings;
    int64_t num_clients, stride;    // floats from one client's parameters to the next; LANES more than are used
    const float* start;             // (stride): the round's parameters, pruned
    const float* live;              // (stride): 0 or 1, or null
    const float* const* x;          // each (count, channels, height, width)
    const int64_t* const* y;        // each (count)
    const int64_t* const* order;    // each (epochs · count): examples as they are taken
    const int64_t* count;
    float* trained;                 // (num_clients, stride)
    double* loss;                   // mean over the last epoch
    int64_t* hits;                  // of the last epoch
    int64_t threads;
};
