// Local training of a cohort: each client by one thread, alone, with its weights and activations in its cache.
//
// Every sum has a fixed order that neither threads nor other clients change.
#include <algorithm>
#include <atomic>
#include <new>
#include <utility>
#include <vector>

#include "descent.hpp"
#include "job.hpp"
#include "network.hpp"
#include "objective.hpp"
#include "threads.hpp"

namespace {

// One thread's workspace.
class Trainer {
public:
    Trainer(const Job& of, long batch)
        : job_(of), descent_(of),
          network_(of.layers, of.num_layers, of.stride, batch, of.settings.bits == 8) {
        for (const Stage& stage : network_.stages()) {
            if (stage.layer.weight >= 0) spans_.push_back({stage.layer.weight, stage.weights()});
            if (stage.layer.bias >= 0) spans_.push_back({stage.layer.bias, stage.layer.outputs});
        }
        labels_.resize(batch);
        weights_.resize(of.stride);
    }

    void operator()(long client) {
        std::copy_n(job_.start, job_.stride, weights_.data());
        descent_.begin(weights_.data());
        const long count = job_.count[client];
        for (long epoch = 0; epoch < job_.settings.epochs; ++epoch) {
            Score score;
            for (long begin = 0; begin < count; begin += job_.settings.batch_size) {
                const long batch = std::min<long>(job_.settings.batch_size, count - begin);
                const Score of_batch = step(client, job_.order[client] + epoch * count + begin, batch);
                score.loss += of_batch.loss;
                score.hits += of_batch.hits;
            }
            job_.loss[client] = score.loss / count;
            job_.hits[client] = score.hits;
        }
        give_back(job_.trained + client * job_.size);
    }

private:
    const Job& job_;
    Descent descent_;
    Network network_;
    std::vector<std::pair<long, long>> spans_;
    Floats weights_;
    std::vector<int64_t> labels_;

    Score step(long client, const int64_t* chosen, long batch) {
        const long size = network_.stages().front().input_size;
        for (long b = 0; b < batch; ++b) {
            network_.take(b, job_.x[client] + chosen[b] * size);
            labels_[b] = job_.y[client][chosen[b]];
        }
        network_.forward(weights_.data(), batch, true, Ranges::MOVE);
        const Score score = compare(network_.logits(), labels_.data(), batch, network_.classes(), batch,
                                    network_.gradient());
        network_.backward([&](long at, const float* gradient, long count) {
            descent_.learn(at, gradient, count);
        });
        descent_.finish(spans_);
        return score;
    }

    void give_back(float* out) const {
        for (long i = 0; i < job_.num_slots; ++i) {
            const Slot& slot = job_.slots[i];
            const float *w = weights_.data() + slot.from, *start = job_.start + slot.from;
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

// One thread's workspace for testing: all examples pass one set of weights, piece by piece.
class Tester {
public:
    explicit Tester(const Test& of)
        : test_(of), network_(of.layers, of.num_layers, of.stride, of.piece, of.bits == 8),
          weights_(of.weights, of.weights + of.stride) {}

    void operator()(long piece) {
        const long begin = piece * test_.piece, batch = std::min(test_.piece, test_.count - begin);
        const long size = network_.stages().front().input_size;
        for (long b = 0; b < batch; ++b) network_.take(b, test_.x + (begin + b) * size);
        network_.forward(weights_.data(), batch, !settled_, Ranges::STAND);
        settled_ = true;
        const Score score =
            compare(network_.logits(), test_.y + begin, batch, network_.classes(), batch, nullptr);
        test_.loss[piece] = score.loss;
        test_.hits[piece] = score.hits;
    }

private:
    const Test& test_;
    Network network_;
    Floats weights_;
    bool settled_ = false;
};

// Each thread makes itself a worker and calls it with items until none is left. 1 if memory ran out, else 0.
template <class Make>
int share(int64_t items, int64_t threads, Make make) {
    std::atomic<int> failed{0};
    spread(items, threads, [&](const auto& next) {
        try {
            auto worker = make();
            for (int64_t item; (item = next()) < items;) worker(item);
        } catch (const std::bad_alloc&) {
            failed = 1;
        }
    });
    return failed;
}

}  // namespace

// 0, or 1 if memory ran out.
extern "C" int fedlite_train(const Job* job) {
    const long most = *std::max_element(job->count, job->count + job->num_clients);
    const long batch = std::min<long>(most, job->settings.batch_size);
    return share(job->num_clients, job->threads, [&] { return Trainer(*job, batch); });
}

// As fedlite_train.
extern "C" int fedlite_evaluate(const Test* test) {
    const long pieces = (test->count + test->piece - 1) / test->piece;
    return share(pieces, test->threads, [&] { return Tester(*test); });
}
