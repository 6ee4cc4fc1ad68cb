// A network at work on one batch: layer by layer forward, and back.
#pragma once

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "convolution.hpp"
#include "job.hpp"
#include "products.hpp"
#include "rounding.hpp"

// A layer at work: what it needs between forward and backward, for one batch.
struct Stage {
    const Layer& layer;
    std::unique_ptr<Convolution> convolution;
    long input_size, output_size;
    Floats output, rounded, inside;   // (batch, …)
    std::vector<int> choice;

    Stage(const Layer& of, long batch, bool rounds) : layer(of) {
        input_size = of.channels * of.height * of.width;
        output_size = of.kind == FLATTEN ? input_size : of.outputs;
        if (of.kind == CONVOLUTION) {
            convolution = std::make_unique<Convolution>(of);
            output_size = convolution->output_size();
            choice.resize(batch * convolution->choice_size());
        }
        output.resize(batch * output_size + LANES);
        if (rounds && of.kind != FLATTEN) {
            rounded.resize(batch * input_size + LANES);
            inside.resize(rounded.size());
        }
    }

    long weights() const { return of_kernel() * layer.outputs; }
    long of_kernel() const { return layer.channels * layer.kernel * layer.kernel; }
};

static void channels_last(const float* from, long channels, long places, float* to) {
    for (long place = 0; place < places; ++place)
        for (long c = 0; c < channels; ++c) to[place * channels + c] = from[c * places + place];
}

static void channels_first(const float* from, long channels, long places, float* to) {
    for (long c = 0; c < channels; ++c)
        for (long place = 0; place < places; ++place) to[c * places + place] = from[place * channels + c];
}

// What a forward pass does to the activation ranges of int8-aware layers.
enum class Ranges { MOVE, STAND };

class Network {
public:
    Network(const Layer* layers, long count, long stride, long batch, bool rounds) {
        for (long i = 0; i < count; ++i) stages_.emplace_back(layers[i], batch, rounds);
        widest_ = stages_.front().input_size;
        for (const Stage& stage : stages_) widest_ = std::max({widest_, stage.input_size, stage.output_size});
        input_.resize(batch * stages_.front().input_size + LANES);
        gradient_.resize(batch * widest_ + LANES);
        next_.resize(gradient_.size());
        if (rounds) rounded_.resize(stride);
    }

    const std::vector<Stage>& stages() const { return stages_; }
    long classes() const { return stages_.back().output_size; }
    const float* logits() const { return stages_.back().output.data(); }
    float* gradient() { return gradient_.data(); }  // of the logits, to be written before `backward`

    // Example `b` of the batch; channels come first.
    void take(long b, const float* example) {
        const Layer& first = stages_.front().layer;
        const long size = stages_.front().input_size, places = first.height * first.width;
        if (places > 1 && first.channels > 1)
            channels_last(example, first.channels, places, &input_[b * size]);
        else
            std::copy_n(example, size, &input_[b * size]);
    }

    // `settle` when the weights are others than last time. With Ranges::MOVE, ranges among them move.
    void forward(float* weights, long batch, bool settle, Ranges ranges) {
        weights_ = weights;
        used_ = rounded_.empty() ? weights : rounded_.data();
        batch_ = batch;
        const float* x = input_.data();
        for (Stage& stage : stages_) {
            const bool rounds = !stage.rounded.empty();
            if (rounds && ranges == Ranges::MOVE)
                move_range(weights_ + stage.layer.range, x, batch_ * stage.input_size);
            if (settle) open(stage);
            if (rounds) x = round(stage, x, ranges);
            forward(stage, x);
            x = stage.output.data();
        }
    }

    // learn(at, gradient, count) for each span of weights, once: they may change then.
    template <class Learn>
    void backward(Learn learn) {
        for (long i = long(stages_.size()) - 1; i >= 0; --i) {
            Stage& stage = stages_[i];
            const float* x = i > 0 ? stages_[i - 1].output.data() : input_.data();
            if (!stage.rounded.empty()) x = stage.rounded.data();
            if (stage.layer.relu)
                for (long j = 0; j < batch_ * stage.output_size; ++j)
                    gradient_[j] = stage.output[j] > 0.0f ? gradient_[j] : 0.0f;
            float* into = i > 0 ? next_.data() : nullptr;
            backward(stage, x, into, learn);
            if (into && !stage.rounded.empty())
                for (long j = 0; j < batch_ * stage.input_size; ++j) next_[j] *= stage.inside[j];
            std::swap(gradient_, next_);
        }
    }

private:
    std::vector<Stage> stages_;
    Floats input_, gradient_, next_, rounded_;
    long widest_ = 0, batch_ = 0;
    float* weights_ = nullptr;
    const float* used_ = nullptr;  // the weights, or what they round to

    void open(Stage& stage) {
        if (!stage.rounded.empty()) round_weights(stage);
        if (stage.convolution) stage.convolution->open(used_ + stage.layer.weight);
    }

    void round_weights(const Stage& stage) {
        const Layer& layer = stage.layer;
        const Grid grid = activation_grid(weights_ + layer.range);
        const long length = stage.of_kernel();
        for (long o = 0; o < layer.outputs; ++o) {
            const long at = layer.weight + o * length;
            const bool biased = layer.bias >= 0;
            round_channel(weights_ + at, length, biased ? weights_ + layer.bias + o : nullptr, grid.scale,
                          &rounded_[at], biased ? &rounded_[layer.bias + o] : nullptr);
        }
    }

    // The layer's input, rounded. One without a range passes as it is where ranges stand.
    const float* round(Stage& stage, const float* x, Ranges ranges) const {
        const float* range = weights_ + stage.layer.range;
        if (ranges == Ranges::STAND && range[0] == 0 && range[1] == 0) return x;
        round_input(x, batch_ * stage.input_size, activation_grid(range), stage.rounded.data(),
                    stage.inside.data());
        return stage.rounded.data();
    }

    void forward(Stage& stage, const float* x) {
        const Layer& layer = stage.layer;
        const float* bias = layer.bias >= 0 ? used_ + layer.bias : nullptr;
        float* out = stage.output.data();
        if (layer.kind == DENSE) {
            inner(batch_, layer.outputs, layer.channels, x, used_ + layer.weight, bias, out);
            if (layer.relu)
                for (long i = 0; i < batch_ * layer.outputs; ++i) out[i] = out[i] < 0.0f ? 0.0f : out[i];
            return;
        }
        for (long b = 0; b < batch_; ++b) {
            const float* example = x + b * stage.input_size;
            if (layer.kind == CONVOLUTION)
                stage.convolution->forward(example, bias, out + b * stage.output_size,
                                           &stage.choice[b * stage.convolution->choice_size()]);
            else
                channels_first(example, layer.channels, layer.height * layer.width, out + b * stage.output_size);
        }
    }

    template <class Learn>
    void backward(Stage& stage, const float* x, float* into, Learn learn) {
        const Layer& layer = stage.layer;
        if (layer.kind == DENSE) return dense_backward(layer, x, into, learn);
        for (long b = 0; b < batch_; ++b) {
            const float* gradient = &gradient_[b * stage.output_size];
            float* example = into ? into + b * stage.input_size : nullptr;
            if (layer.kind == CONVOLUTION)
                stage.convolution->backward(x + b * stage.input_size, gradient,
                                            &stage.choice[b * stage.convolution->choice_size()], example);
            else if (example)
                channels_last(gradient, layer.channels, layer.height * layer.width, example);
        }
        if (layer.kind == CONVOLUTION) stage.convolution->close(learn);
    }

    // The input's gradient first: it wants the weights of before the step, which the second product takes.
    template <class Learn>
    void dense_backward(const Layer& layer, const float* x, float* into, Learn learn) {
        const long inputs = layer.channels, outputs = layer.outputs;
        const float* gradient = gradient_.data();
        if (into)
            outer(batch_, inputs, {gradient, outputs, 0, 1, 1, outputs}, used_ + layer.weight, inputs,
                  [&](long row, long column, long rows, long columns, const float* tile) {
                      for (long m = 0; m < rows; ++m)
                          std::copy_n(tile + m * TILE_COLUMNS, columns, into + (row + m) * inputs + column);
                  });
        outer(outputs, inputs, {gradient, 1, 0, outputs, 1, batch_}, x, inputs,
              [&](long row, long column, long rows, long columns, const float* tile) {
                  for (long m = 0; m < rows; ++m)
                      learn(layer.weight + (row + m) * inputs + column, tile + m * TILE_COLUMNS, columns);
              });
        if (layer.bias < 0) return;
        Floats total(outputs);
        for (long b = 0; b < batch_; ++b)
            for (long o = 0; o < outputs; ++o) total[o] += gradient[b * outputs + o];
        learn(layer.bias, total.data(), outputs);
    }
};
