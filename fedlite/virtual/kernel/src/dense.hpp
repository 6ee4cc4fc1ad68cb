// A dense layer on a batch of vectors.
#pragma once

#include <vector>

#include "images.hpp"
#include "inner.hpp"
#include "outer.hpp"

class Dense {
public:
    // `direct`: the weights' gradients go straight into them, rather than be kept until `close`.
    Dense(const Layer& of, bool direct) : layer_(of), direct_(direct) {
        if (!direct) total_.resize(of.outputs * of.channels);
        bias_total_.resize(of.outputs);
    }

    void open(const float*) {
        empty_ = true;
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
                  {pass.into, inputs});
        const Into total{total_.data(), inputs, !empty_};
        outer(outputs, inputs, {pass.gradient, 1, 0, outputs, 1, pass.batch}, pass.x, inputs,
              direct_ ? learn.into(layer_.weight, inputs) : total, [&] { learn.meanwhile(); });
        empty_ = false;
        for (long b = 0; b < pass.batch; ++b)
            for (long o = 0; o < outputs; ++o) bias_total_[o] += pass.gradient[b * outputs + o];
    }

    template <class Learn>
    void close(Learn learn) {
        if (!direct_) learn(layer_.weight, total_.data(), long(total_.size()));
        if (layer_.bias >= 0) learn(layer_.bias, bias_total_.data(), layer_.outputs);
    }

private:
    const Layer& layer_;
    const bool direct_;
    bool empty_ = true;  // `total_` has nothing of this step yet
    Floats total_, bias_total_;
};
