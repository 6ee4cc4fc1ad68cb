// Local training of a cohort: each client by one thread, alone, with its weights and activations in its cache.
//
// Every sum has a fixed order that neither threads nor other clients change.
#include <algorithm>
#include <atomic>
#include <new>
#include <utility>
#include <vector>

#include "ahead.hpp"
#include "descent.hpp"
#include "job.hpp"
#include "network.hpp"
#include "objective.hpp"
#include "order.hpp"
#include "threads.hpp"

namespace {

// What a network's layers see of the step.
struct Learning {
    Descent& descent;
    Ahead& ahead;

    void operator()(long at, const float* gradient, long count) const { descent.learn(at, gradient, count); }
    Into into(long at, long row) const { return descent.into(at, row); }
    void meanwhile() const { ahead.ask(); }
};

// One thread's workspace.
class Trainer {
public:
    // `part`: how many of a batch's examples pass the layers together.
    Trainer(const Job& of, long batch, long part)
        : job_(of), descent_(of), part_(part),
          network_(of.layers, of.num_layers, of.stride, part, part == batch && descent_.plain(),
                   of.settings.bits == 8) {
        for (const Stage& stage : network_.stages()) {
            if (stage.layer.weight >= 0) spans_.push_back({stage.layer.weight, stage.weights()});
            if (stage.layer.bias >= 0) spans_.push_back({stage.layer.bias, stage.layer.outputs});
        }
        labels_.resize(batch);
        teacher_.resize(batch);
        spare_.resize(2 * network_.classes());
        weights_.resize(of.stride);
    }

    void operator()(long client) {
        std::copy_n(job_.start, job_.stride, weights_.data());
        descent_.begin(weights_.data());
        const long count = job_.count[client];
        for (long epoch = 0; epoch < job_.settings.epochs; ++epoch) {
            Score score;
            order_.assign(job_.places[client], job_.places[client] + count);
            if (job_.seeds) shuffle(job_.seeds[client * job_.settings.epochs + epoch], order_.data(), count);
            for (long begin = 0; begin < count; begin += job_.settings.batch_size) {
                const long batch = std::min<long>(job_.settings.batch_size, count - begin);
                const long next = std::min<long>(job_.settings.batch_size, count - begin - batch);
                ahead_.plan(job_.x[client], order_.data() + begin + batch, next, network_.example_size());
                score += step(client, order_.data() + begin, batch);
            }
            job_.loss[client] = score.loss / count;
            job_.hits[client] = score.hits;
        }
        give_back(job_.trained + client * job_.size);
    }

private:
    const Job& job_;
    Descent descent_;
    const long part_;
    Network network_;
    Ahead ahead_;
    std::vector<std::pair<long, long>> spans_;
    Floats weights_, spare_;
    std::vector<int64_t> labels_, order_;
    std::vector<const float*> teacher_;

    Score step(long client, const int64_t* chosen, long batch) {
        Score score;
        for (long begin = 0; begin < batch; begin += part_) {
            const long part = std::min(part_, batch - begin);
            for (long b = 0; b < part; ++b) {
                network_.take(b, job_.x[client] + chosen[begin + b] * network_.example_size());
                labels_[b] = job_.y[client][chosen[begin + b]];
                if (job_.teacher) teacher_[b] = job_.teacher[client] + chosen[begin + b] * network_.classes();
            }
            network_.forward(weights_.data(), part, begin == 0, Ranges::MOVE);
            score += compare(network_.logits(), labels_.data(), part, network_.classes(), batch,
                             network_.gradient());
            if (job_.teacher)
                teach(network_.logits(), teacher_.data(), part, network_.classes(), batch,
                      job_.settings.distill_alpha, job_.settings.temperature, spare_.data(), network_.gradient());
            network_.backward(begin + part == batch, Learning{descent_, ahead_});
        }
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
    Tester(const Test& of, long part)
        : test_(of), part_(part), network_(of.layers, of.num_layers, of.stride, part, true, of.bits == 8),
          weights_(of.weights, of.weights + of.stride) {}

    void operator()(long piece) {
        const long last = std::min((piece + 1) * test_.piece, test_.count);
        Score score;
        for (long begin = piece * test_.piece; begin < last; begin += part_) {
            const long part = std::min(part_, last - begin);
            for (long b = 0; b < part; ++b) network_.take(b, test_.x + (begin + b) * network_.example_size());
            network_.forward(weights_.data(), part, !opened_, Ranges::STAND);
            opened_ = true;
            score += compare(network_.logits(), test_.y + begin, part, network_.classes(), part, nullptr);
        }
        test_.loss[piece] = score.loss;
        test_.hits[piece] = score.hits;
    }

private:
    const Test& test_;
    const long part_;
    Network network_;
    Floats weights_;
    bool opened_ = false;
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
    // a range is of the whole batch
    const long part = job->settings.bits == 8 ? batch : part_of_batch(job->layers, job->num_layers, batch);
    return share(job->num_clients, job->threads, [&] { return Trainer(*job, batch, part); });
}

// As fedlite_train.
extern "C" int fedlite_evaluate(const Test* test) {
    const long pieces = (test->count + test->piece - 1) / test->piece;
    const long part = part_of_batch(test->layers, test->num_layers, test->piece);
    return share(pieces, test->threads, [&] { return Tester(*test, part); });
}

// The order in which `count` examples are taken.
extern "C" void fedlite_permutation(uint64_t seed, int64_t* order, int64_t count) {
    for (int64_t i = 0; i < count; ++i) order[i] = i;
    shuffle(seed, order, count);
}
