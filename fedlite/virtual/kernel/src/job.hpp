// What Python hands over: layers, settings and clients. Field by field as in layers.py and engine.py.
#pragma once

#include <cstdint>

enum Kind : int64_t {
    DENSE = 0,
    CONVOLUTION = 1,  // with ReLU and pooling, for gradients of which few are not zero
    FLATTEN = 2,
    UNFOLDED = 3,     // a convolution for dense gradients
    DEPTHWISE = 4,    // a convolution of each channel by itself
    NORM = 5,         // GroupNorm
    MEAN = 6,         // over all places
    SUM = 7,          // of one value or two
};

enum Activation : int64_t { NONE = 0, RELU = 1, RELU6 = 2 };

constexpr int64_t INPUT = -1, NOTHING = -2;  // what a layer may read besides another layer

struct Layer {
    int64_t kind, activation;
    int64_t source, other;          // which layers it reads: earlier ones, INPUT, or NOTHING as the other
    int64_t channels, height, width;  // of the input; height is 0 where it is a vector and no image
    int64_t outputs, kernel, stride, padding;
    int64_t pool;                   // side of the pooling window after a convolution, 1 for none
    int64_t groups;                 // of a norm
    int64_t weight, bias, range;    // where in the row of parameters; −1 for none
    double epsilon;                 // of a norm
};

struct Settings {
    int64_t epochs, batch_size, bits;  // batch_size ≥ 1
    float learning_rate, momentum, weight_decay, proximal_mu, clip_norm, distill_alpha, temperature;
};

// Where a tensor of a client's row of parameters goes in the row that is given back. Convolutions' kernels are
// (outputs, places, channels) in here and, as in torch, (outputs, channels, places) out there.
struct Slot {
    int64_t from, size, to;
    int64_t channels, places;
};

struct Job {
    const Layer* layers;
    int64_t num_layers;
    const Slot* slots;
    int64_t num_slots;
    Settings settings;
    int64_t num_clients;
    int64_t stride, size;           // floats of a client's parameters in here, LANES more than are used; out there
    int64_t relative;               // whether what is given back is trained − start
    const float* start;             // (stride): the round's parameters, pruned
    const float* live;              // (stride): 0 or 1, or null
    const float* const* x;          // examples of each: (…, channels, height, width)
    const int64_t* const* y;        // labels of each
    const float* const* teacher;    // logits (…, classes) for the examples of each; null where there is no teacher
    const int64_t* const* places;   // each (count): which of them are the client's
    const int64_t* count;
    const uint64_t* seeds;          // (num_clients, epochs): of the orders they are taken in; null for their own
    float* trained;                 // (num_clients, size); what no slot covers is left as it is
    double* loss;                   // mean over the last epoch
    int64_t* hits;                  // of the last epoch
    int64_t threads;
};

// The forward pass alone, of one set of parameters, over pieces of `piece` examples.
struct Test {
    const Layer* layers;
    int64_t num_layers, bits, stride;
    int64_t count, piece;
    const float* weights;           // (stride)
    const float* x;
    const int64_t* y;
    double* loss;                   // of each piece, summed over its examples
    int64_t* hits;                  // of each piece
    int64_t threads;
};
