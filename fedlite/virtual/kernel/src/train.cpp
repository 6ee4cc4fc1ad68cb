// Local training of a cohort: each client by one thread, alone, with its weights and activations in its cache.
//
// Every sum has a fixed order that neither threads nor other clients change.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <memory>
#include <system_error>
#include <thread>
#include <vector>

#include "convolution.hpp"
#include "descent.hpp"
#include "job.hpp"
#include "products.hpp"
#include "rounding.hpp"

namespace {

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

void channels_last(const float* from, long channels, long places, float* to) {
    for (long place = 0; place < places; ++place)
        for (long c = 0; c < channels; ++c) to[place * channels + c] = from[c * places + place];
}

void channels_first(const float* from, long channels, long places, float* to) {
    for (long c = 0; c < channels; ++c)
        for (long place = 0; place < places; ++place) to[c * places + place] = from[place * channels + c];
}

// One thread's workspace.
class Trainer {
public:
    Trainer(const Job& of, long batch) : job_(of), descent_(of) {
        const bool rounds = of.settings.bits == 8;
        for (long i = 0; i < of.num_layers; ++i) stages_.emplace_back(of.layers[i], batch, rounds);
        long widest = stages_.front().input_size;
        for (const Stage& stage : stages_) {
            widest = std::max({widest, stage.input_size, stage.output_size});
            if (stage.layer.weight >= 0) spans_.push_back({stage.layer.weight, stage.weights()});
            if (stage.layer.bias >= 0) spans_.push_back({stage.layer.bias, stage.layer.outputs});
        }
        input_.resize(batch * stages_.front().input_size + LANES);
        labels_.resize(batch);
        gradient_.resize(batch * widest + LANES);
        next_.resize(gradient_.size());
        row_.resize(of.stride);
        if (rounds) rounded_.resize(of.stride);
    }

    void train(long client) {
        weights_ = row_.data();
        std::copy_n(job_.start, job_.stride, weights_);
        used_ = rounded_.empty() ? weights_ : rounded_.data();
        descent_.begin(weights_);
        const long count = job_.count[client];
        for (long epoch = 0; epoch < job_.settings.epochs; ++epoch) {
            double loss = 0;
            long hits = 0;
            for (long begin = 0; begin < count; begin += job_.settings.batch_size) {
                batch_ = std::min<long>(job_.settings.batch_size, count - begin);
                take(client, job_.order[client] + epoch * count + begin);
                forward();
                loss += double(compare(hits)) * batch_;
                backward();
            }
            job_.loss[client] = loss / count;
            job_.hits[client] = hits;
        }
        give_back(job_.trained + client * job_.size);
    }

private:
    const Job& job_;
    Descent descent_;
    std::vector<Stage> stages_;
    std::vector<std::pair<long, long>> spans_;
    Floats input_, gradient_, next_, row_, rounded_;
    std::vector<int64_t> labels_;
    float* weights_ = nullptr;
    const float* used_ = nullptr;  // the weights, or what they round to
    long batch_ = 0;

    void take(long client, const int64_t* chosen) {
        const Layer& first = job_.layers[0];
        const long size = stages_.front().input_size, places = first.height * first.width;
        for (long b = 0; b < batch_; ++b) {
            const float* example = job_.x[client] + chosen[b] * size;
            if (places > 1 && first.channels > 1)
                channels_last(example, first.channels, places, &input_[b * size]);
            else
                std::copy_n(example, size, &input_[b * size]);
            labels_[b] = job_.y[client][chosen[b]];
        }
    }

    void forward() {
        const float* x = input_.data();
        for (Stage& stage : stages_) {
            if (!stage.rounded.empty()) x = round(stage, x);
            forward(stage, x);
            x = stage.output.data();
        }
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
        if (layer.kind == CONVOLUTION) stage.convolution->open(used_ + layer.weight);
        for (long b = 0; b < batch_; ++b) {
            const float* example = x + b * stage.input_size;
            if (layer.kind == CONVOLUTION)
                stage.convolution->forward(example, bias, out + b * stage.output_size,
                                           &stage.choice[b * stage.convolution->choice_size()]);
            else
                channels_first(example, layer.channels, layer.height * layer.width, out + b * stage.output_size);
        }
    }

    // The layer's input, weights and bias, rounded; the input is returned.
    const float* round(Stage& stage, const float* x) {
        const Layer& layer = stage.layer;
        float* range = weights_ + layer.range;
        move_range(range, x, batch_ * stage.input_size);
        const Grid grid = activation_grid(range);
        round_input(x, batch_ * stage.input_size, grid, stage.rounded.data(), stage.inside.data());
        const long length = stage.of_kernel();
        for (long o = 0; o < layer.outputs; ++o) {
            const long at = layer.weight + o * length;
            const bool biased = layer.bias >= 0;
            round_channel(weights_ + at, length, biased ? weights_ + layer.bias + o : nullptr, grid.scale,
                          &rounded_[at], biased ? &rounded_[layer.bias + o] : nullptr);
        }
        return stage.rounded.data();
    }

    // Softmax cross-entropy: the mean loss; its gradient goes to gradient_, what is right is counted.
    float compare(long& hits) {
        const long classes = stages_.back().output_size;
        double loss = 0;
        for (long b = 0; b < batch_; ++b) {
            const float* logits = &stages_.back().output[b * classes];
            float* gradient = &gradient_[b * classes];
            const long best = std::max_element(logits, logits + classes) - logits;
            float sum = 0;
            for (long c = 0; c < classes; ++c) sum += gradient[c] = std::exp(logits[c] - logits[best]);
            loss += std::log(sum) - (logits[labels_[b]] - logits[best]);
            for (long c = 0; c < classes; ++c)
                gradient[c] = (gradient[c] / sum - float(c == labels_[b])) / float(batch_);
            hits += best == labels_[b];
        }
        return float(loss / batch_);
    }

    void backward() {
        for (long i = long(stages_.size()) - 1; i >= 0; --i) {
            Stage& stage = stages_[i];
            const float* x = i > 0 ? stages_[i - 1].output.data() : input_.data();
            if (!stage.rounded.empty()) x = stage.rounded.data();
            if (stage.layer.relu)
                for (long j = 0; j < batch_ * stage.output_size; ++j)
                    gradient_[j] = stage.output[j] > 0.0f ? gradient_[j] : 0.0f;
            float* into = i > 0 ? next_.data() : nullptr;
            backward(stage, x, into);
            if (into && !stage.rounded.empty())
                for (long j = 0; j < batch_ * stage.input_size; ++j) next_[j] *= stage.inside[j];
            std::swap(gradient_, next_);
        }
        descent_.finish(spans_);
    }

    void backward(Stage& stage, const float* x, float* into) {
        const Layer& layer = stage.layer;
        if (layer.kind == DENSE) return dense_backward(layer, x, into);
        for (long b = 0; b < batch_; ++b) {
            const float* gradient = &gradient_[b * stage.output_size];
            float* example = into ? into + b * stage.input_size : nullptr;
            if (layer.kind == CONVOLUTION)
                stage.convolution->backward(x + b * stage.input_size, gradient,
                                            &stage.choice[b * stage.convolution->choice_size()], example);
            else if (example)
                channels_last(gradient, layer.channels, layer.height * layer.width, example);
        }
        if (layer.kind == CONVOLUTION) learn_kernel(layer, *stage.convolution);
    }

    void learn_kernel(const Layer& layer, const Convolution& done) {
        for (long line = 0; line < done.outputs * done.kernel; ++line)
            descent_.learn(layer.weight + line * done.run, &done.total[line * done.run_row], done.run);
        if (layer.bias >= 0) descent_.learn(layer.bias, done.bias_total.data(), done.outputs);
    }

    // The input's gradient first: it wants the weights of before the step, which the second product takes.
    void dense_backward(const Layer& layer, const float* x, float* into) {
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
                      descent_.learn(layer.weight + (row + m) * inputs + column, tile + m * TILE_COLUMNS, columns);
              });
        if (layer.bias < 0) return;
        Floats total(outputs);
        for (long b = 0; b < batch_; ++b)
            for (long o = 0; o < outputs; ++o) total[o] += gradient[b * outputs + o];
        descent_.learn(layer.bias, total.data(), outputs);
    }

    void give_back(float* out) const {
        for (long i = 0; i < job_.num_slots; ++i) {
            const Slot& slot = job_.slots[i];
            const float *w = weights_ + slot.from, *start = job_.start + slot.from;
            float* to = out + slot.to;
            if (slot.channels == 1 || slot.places == 1) {
                for (long j = 0; j < slot.size; ++j) to[j] = job_.relative ? w[j] - start[j] : w[j];
                continue;
            }
            const long length = slot.channels * slot.places;
            for (long o = 0; o < slot.size; o += length)
                for (long c = 0; c < slot.channels; ++c)
                    for (long place = 0; place < slot.places; ++place) {
                        const long at = o + place * slot.channels + c;
                        to[o + c * slot.places + place] = job_.relative ? w[at] - start[at] : w[at];
                    }
        }
    }
};

}  // namespace

// 0, or 1 if memory ran out.
extern "C" int fedlite_train(const Job* job) {
    std::atomic<int64_t> next{0};
    std::atomic<int> failed{0};
    const long most = *std::max_element(job->count, job->count + job->num_clients);
    const long batch = std::min<long>(most, job->settings.batch_size);
    const auto work = [&] {
        try {
            Trainer trainer(*job, batch);
            for (int64_t client; (client = next++) < job->num_clients;) trainer.train(client);
        } catch (const std::bad_alloc&) {
            failed = 1;
        }
    };
    std::vector<std::thread> others;
    try {
        for (int64_t i = 1; i < std::min(job->threads, job->num_clients); ++i) others.emplace_back(work);
    } catch (const std::system_error&) {
        // the system gives no more threads: these do all the work
    }
    work();
    for (std::thread& other : others) other.join();
    return failed;
}
