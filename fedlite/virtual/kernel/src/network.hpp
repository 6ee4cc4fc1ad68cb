// A network at work on a batch, or on a part of one: layer by layer forward, and back.
#pragma once

#include <algorithm>
#include <utility>
#include <variant>
#include <vector>

#include "convolution.hpp"
#include "dense.hpp"
#include "depthwise.hpp"
#include "images.hpp"
#include "norm.hpp"
#include "rounding.hpp"
#include "simple.hpp"
#include "unfolded.hpp"

using Operation = std::variant<Sum, Mean, Flatten, Dense, Convolution, Unfolded, Depthwise, Norm>;

// Where a layer leaves the gradient of what it read: in a buffer, as the first or in addition. −1: nowhere.
struct Handover {
    long buffer = -1;
    bool first = false;
};

// A layer at work: what it needs between forward and backward.
struct Stage {
    const Layer& layer;
    const Image in, out;
    Operation operation;
    Floats output, rounded, inside;  // (batch, …)
    Handover source, other;
    long buffer = -1;  // that holds the gradient of the output

    Stage(const Layer& of, bool wide, bool direct, long batch, bool rounds)
        : layer(of), in(input_of(of, wide)), out(output_of(of, wide)), operation(made(of, wide, direct, batch)) {
        output.resize(batch * out.size() + LANES);
        if (rounds && of.range >= 0) {
            rounded.resize(batch * in.size() + LANES);
            inside.resize(rounded.size());
        }
    }

    static Operation made(const Layer& of, bool wide, bool direct, long batch) {
        switch (of.kind) {
            case DENSE: return Operation(std::in_place_type<Dense>, of, direct);
            case CONVOLUTION: return Operation(std::in_place_type<Convolution>, of, wide, batch);
            case FLATTEN: return Operation(std::in_place_type<Flatten>, of, wide);
            case UNFOLDED: return Operation(std::in_place_type<Unfolded>, of);
            case DEPTHWISE: return Operation(std::in_place_type<Depthwise>, of);
            case NORM: return Operation(std::in_place_type<Norm>, of, batch);
            case MEAN: return Operation(std::in_place_type<Mean>, of);
            default: return Operation(std::in_place_type<Sum>, of, wide);
        }
    }

    long of_kernel() const { return layer.kernel * layer.kernel * (layer.kind == DEPTHWISE ? 1 : layer.channels); }
    long weights() const { return layer.kind == NORM ? layer.channels : of_kernel() * layer.outputs; }
    // Whether the activation is left to the network: forward, and backward.
    bool activates() const { return masks() && layer.kind != CONVOLUTION; }
    bool masks() const { return layer.activation != NONE && layer.kind != NORM; }
    bool in_place() const { return layer.kind == NORM || layer.kind == SUM; }
};

static bool is_wide(const Layer* layers, long count) {
    return std::any_of(layers, layers + count, [](const Layer& layer) { return layer.kind >= UNFOLDED; });
}

// How many examples should pass together, so that what lies between the layers stays in the cache.
static long part_of_batch(const Layer* layers, long count, long batch) {
    if (!is_wide(layers, count)) return batch;
    long floats = 0;
    for (long i = 0; i < count; ++i) floats += output_of(layers[i], true).size();
    return std::min(batch, std::max(1L, (1L << 20) / floats));
}

// What a forward pass does to the activation ranges of int8-aware layers.
enum class Ranges { MOVE, STAND };

class Network {
public:
    // For up to `batch` examples at once. `direct`: they are all that a step takes, and the step is a plain one.
    Network(const Layer* layers, long count, long stride, long batch, bool direct, bool rounds)
        : first_(input_of(layers[0], is_wide(layers, count))) {
        const bool wide = is_wide(layers, count);
        stages_.reserve(count);
        for (long i = 0; i < count; ++i) stages_.emplace_back(layers[i], wide, direct, batch, rounds);
        long widest = first_.size();
        for (const Stage& stage : stages_) widest = std::max(widest, stage.out.size());
        input_.resize(batch * first_.size() + LANES);
        const long buffers = arrange();
        for (long i = 0; i <= buffers; ++i) buffers_.emplace_back(batch * widest + LANES);
        if (rounds) rounded_.resize(stride);
    }

    const std::vector<Stage>& stages() const { return stages_; }
    long example_size() const { return first_.places * first_.channels; }
    long classes() const { return stages_.back().out.size(); }
    const float* logits() const { return stages_.back().output.data(); }
    float* gradient() { return buffers_[stages_.back().buffer].data(); }  // of the logits, to be written

    // Example `b`; channels come first.
    void take(long b, const float* example) {
        if (first_.places == 1 || (first_.channels == 1 && first_.row == 1))
            std::copy_n(example, example_size(), &input_[b * first_.size()]);
        else
            channels_last(example, first_, &input_[b * first_.size()]);
    }

    // `open` at the start of a step, or when the weights are others. With Ranges::MOVE, ranges among them move.
    void forward(float* weights, long batch, bool open, Ranges ranges) {
        weights_ = weights;
        used_ = rounded_.empty() ? weights : rounded_.data();
        batch_ = batch;
        for (Stage& stage : stages_) {
            const float *x = value(stage.layer.source), *other = value(stage.layer.other);
            const bool rounds = !stage.rounded.empty();
            if (rounds && ranges == Ranges::MOVE) move(stage, x);
            if (open) this->open(stage);
            if (rounds) x = round(stage, x, ranges);
            float* y = stage.output.data();
            std::visit([&](auto& each) { each.forward({batch_, x, other, used_, y}); }, stage.operation);
            if (stage.activates())
                for (long i = 0; i < batch_ * stage.out.size(); i += LANES)
                    store(y + i, activated(stage.layer.activation, load(y + i)));
        }
    }

    // Each span of weights learns once in a step, by learn(at, gradient, count) or as learn.into(at, row) of a
    // product's tiles: they may change then. learn.meanwhile() where there is time for something else.
    template <class Learn>
    void backward(bool last, Learn learn) {
        for (long i = long(stages_.size()) - 1; i >= 0; --i) {
            Stage& stage = stages_[i];
            float* gradient = buffers_[stage.buffer].data();
            if (stage.masks())
                for (long j = 0; j < batch_ * stage.out.size(); j += LANES)
                    store(gradient + j,
                          passed(stage.layer.activation, load(&stage.output[j]), load(gradient + j)));
            if (stage.other.buffer >= 0) hand(stage, gradient, stage.other);
            backward(stage, gradient, learn);
            if (last) std::visit([&](auto& each) { each.close(learn); }, stage.operation);
        }
    }

private:
    const Image first_;
    std::vector<Stage> stages_;
    std::vector<Floats> buffers_;  // of gradients; the last one for those that are added to others
    Floats input_, rounded_;
    long batch_ = 0;
    float* weights_ = nullptr;
    const float* used_ = nullptr;  // the weights, or what they round to

    const float* value(long index) const {
        if (index == NOTHING) return nullptr;
        return index == INPUT ? input_.data() : stages_[index].output.data();
    }

    // Gives gradients their buffers: the one released last is taken first, as it is still in the cache. Returns
    // how many there are.
    long arrange() {
        std::vector<long> free;
        long made = 0;
        const auto taken = [&] {
            if (free.empty()) return made++;
            const long buffer = free.back();
            free.pop_back();
            return buffer;
        };
        stages_.back().buffer = taken();
        for (long i = long(stages_.size()) - 1; i >= 0; --i) {
            Stage& stage = stages_[i];
            bool kept = false;
            if (const long from = stage.layer.source; from >= 0) {
                stage.source.first = stages_[from].buffer < 0;
                if (stage.source.first) {
                    kept = stage.in_place();
                    stages_[from].buffer = kept ? stage.buffer : taken();
                }
                stage.source.buffer = stages_[from].buffer;
            }
            if (const long from = stage.layer.other; from >= 0) {
                stage.other.first = stages_[from].buffer < 0;
                if (stage.other.first) stages_[from].buffer = taken();
                stage.other.buffer = stages_[from].buffer;
            }
            if (!kept) free.push_back(stage.buffer);
        }
        return made;
    }

    // What `stage` did to `gradient` goes to the value it read.
    void hand(const Stage& stage, const float* gradient, const Handover& to) {
        float* into = buffers_[to.buffer].data();
        const long count = batch_ * stage.in.size();
        if (to.first)
            std::copy_n(gradient, count, into);
        else
            for (long i = 0; i < count; ++i) into[i] += gradient[i];
    }

    template <class Learn>
    void backward(Stage& stage, const float* gradient, Learn learn) {
        const bool rounds = !stage.rounded.empty(), wanted = stage.source.buffer >= 0;
        const float* x = rounds ? stage.rounded.data() : value(stage.layer.source);
        float* into = !wanted               ? nullptr
                      : stage.source.first ? buffers_[stage.source.buffer].data()
                                           : buffers_.back().data();
        std::visit([&](auto& each) { each.backward({batch_, x, used_, gradient, into}, learn); }, stage.operation);
        if (!wanted) return;
        if (rounds)
            for (long j = 0; j < batch_ * stage.in.size(); ++j) into[j] *= stage.inside[j];
        if (!stage.source.first) hand(stage, into, stage.source);
    }

    void open(Stage& stage) {
        if (!stage.rounded.empty()) round_weights(stage);
        else if (!rounded_.empty()) copy_weights(stage);
        std::visit([&](auto& each) { each.open(used_); }, stage.operation);
    }

    void copy_weights(const Stage& stage) {
        const Layer& layer = stage.layer;
        if (layer.weight >= 0) std::copy_n(weights_ + layer.weight, stage.weights(), &rounded_[layer.weight]);
        if (layer.bias >= 0) std::copy_n(weights_ + layer.bias, layer.outputs, &rounded_[layer.bias]);
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

    // Lanes that hold no channel have no part in the range.
    void move(Stage& stage, const float* x) {
        const Image& in = stage.in;
        const long places = batch_ * in.places;
        if (in.row != in.channels) {
            copy_places(x, in.row, stage.inside.data(), in.channels, places, in.channels);
            x = stage.inside.data();
        }
        move_range(weights_ + stage.layer.range, x, places * in.channels);
    }

    // The layer's input, rounded. One without a range passes as it is where ranges stand.
    const float* round(Stage& stage, const float* x, Ranges ranges) const {
        const float* range = weights_ + stage.layer.range;
        if (ranges == Ranges::STAND && range[0] == 0 && range[1] == 0) return x;
        round_input(x, batch_ * stage.in.size(), activation_grid(range), stage.rounded.data(), stage.inside.data());
        return stage.rounded.data();
    }
};
