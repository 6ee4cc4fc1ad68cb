// A dense layer on a batch of vectors.
#pragma once

#include <vector>

#include "images.hpp"
#include "products.hpp"

class Dense {
public:
    // `whole`: a batch never comes in several parts, so that gradients need not be kept until `close`.
    Dense(const Layer& of, bool whole) : layer_(of), whole_(whole) {
        if (!whole) total_.resize(of.outputs * of.channels);
        bias_total_.resize(of.outputs);
    }

    void open(const float*) {
        std::fill(total_.begin(), total_.end(), 0.0f);
        std::fill(bias_total_.begin(), bias_total_.end(), 0.0f);
    }

    void forward(const Forward& pass) {
        const float* bias = layer_.bias >= 0 ? pass.weights + layer_.bias : nullptr;
        inner(pass.batch, layer_.outputs, layer_.channels, pass.x, pass.weights + layer_.weight, bias, pass.y);
    }

    // The input's gradient first: it wants the weights of before the step, which the second product may take.
    template <class Learn>
    void backward(const Backward& pass, Learn learn) {
        const long inputs = layer_.channels, outputs = layer_.outputs;
        if (pass.into)
            outer(pass.batch, inputs, {pass.gradient, outputs, 0, 1, 1, outputs}, pass.weights + layer_.weight, inputs,
                  [&](long row, long column, long rows, long columns, const float* tile) {
                      for (long m = 0; m < rows; ++m)
                          std::copy_n(tile + m * TILE_COLUMNS, columns, pass.into + (row + m) * inputs + column);
                  });
        outer(outputs, inputs, {pass.gradient, 1, 0, outputs, 1, pass.batch}, pass.x, inputs,
              [&](long row, long column, long rows, long columns, const float* tile) {
                  for (long m = 0; m < rows; ++m) {
                      const long at = (row + m) * inputs + column;
                      const float* line = tile + m * TILE_COLUMNS;
                      if (whole_)
                          learn(layer_.weight + at, line, columns);
                      else
                          for (long n = 0; n < columns; ++n) total_[at + n] += line[n];
                  }
              });
        for (long b = 0; b < pass.batch; ++b)
            for (long o = 0; o < outputs; ++o) bias_total_[o] += pass.gradient[b * outputs + o];
    }

    template <class Learn>
    void close(Learn learn) {
        if (!whole_) learn(layer_.weight, total_.data(), long(total_.size()));
        if (layer_.bias >= 0) learn(layer_.bias, bias_total_.data(), layer_.outputs);
    }

private:
    const Layer& layer_;
    const bool whole_;
    Floats total_, bias_total_;
};
