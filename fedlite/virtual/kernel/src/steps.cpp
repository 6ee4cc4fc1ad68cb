// One step for a whole update with error feedback, a block of clients at a time, and how long its payload is.
//
// The numbers are NumPy's to the last bit (fedlite/compress/step.py, sums.py), so a product is rounded before it is
// added: compiled as coding.cpp. Most levels are zero; what is not is found once, and then little is left to do.
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#else
#pragma GCC optimize("fp-contract=off")
#endif

#include <cmath>

#include "cut.hpp"
#include "levels.hpp"
#include "threads.hpp"

namespace {

constexpr double LEAST = 0x1p-120, MOST = 0x1p112, LONGEST = 1.5, COARSE = 4;
constexpr float PER_GRID = 1 << 20, LARGEST_SUM = 1 << 24;  // 1 / step.GRID; downlink.py
constexpr int64_t LONGEST_SUM = 1 << 20;
constexpr int64_t SHORT_PLANE = 64, STATISTICS_EACH = 1 << 14;  // ans.py, entropy.py

enum Kind : int64_t { STATISTIC, MATRIX, OTHER };

// A tensor in a row, in its order.
struct Span {
    int64_t start, length, live, kind;
    int64_t rows, columns;  // of a matrix
    int64_t place;          // where its live weights begin in `place`; −1 where all are
    int64_t bits, counts;   // where a pruned matrix begins in `bits` and `counts`
};

struct Stepping {
    const Span* spans;
    int64_t num_spans, size, weights, statistics;
    const uint8_t* live;     // (size): 0 or 1
    const int32_t* place;    // live weights of spans with pruned ones, counted from the span's start
    const uint64_t* bits;    // rows of pruned matrices, one bit for each column, in words of their own
    const int32_t* counts;   // live weights of their rows and then of their columns
    Limits limits;
    double deviations, passes;  // passes: of the largest weight, a step that it passes
    float away;    // 1 − dead zone
    int64_t sums;  // of exact steps: the longest that is right is taken, and where none is, `sizes` is 0
    int64_t clients;
    float* rows;      // (clients, size): updates in, what the server decodes out
    float* owed;      // (clients, size) or null
    float* residual;  // (clients, size): may be `owed`
    int64_t* sizes;   // (clients): bytes of the compressed bodies
    uint8_t* finite;  // (clients)
    int64_t threads;
};

// One thread's work.
class Coder {
public:
    explicit Coder(const Stepping& of)
        : job_(of), live_(new float[of.weights]), levels_(new Level[of.weights]),
          places_(new int32_t[of.weights + SLACK]) {
        for (int64_t s = 0; s < of.num_spans; ++s) {
            const Span& span = of.spans[s];
            if (span.kind == OTHER) others_ += span.live;
            if (span.kind != MATRIX || !span.live) continue;
            const bool whole = span.place < 0;
            matrices_.push_back({span.rows, span.columns, (span.columns + 63) / 64, whole ? nullptr : of.bits + span.bits,
                                 of.counts + span.counts, of.counts + span.counts + span.rows});
            in_matrices_ += span.live;
        }
        size_.reset(new LevelsSize(of.limits, matrices_, of.weights, others_));
    }

    void code(int64_t client) {
        float* row = job_.rows + client * job_.size;
        const float* owed = job_.owed ? job_.owed + client * job_.size : nullptr;
        float* residual = job_.residual + client * job_.size;
        job_.sizes[client] = 0;
        job_.finite[client] = sum(row, owed);
        if (job_.finite[client]) {
            job_.sizes[client] = write(row, residual);
            return;
        }
        std::fill_n(row, job_.size, 0.0f);
        if (!owed) std::fill_n(residual, job_.size, 0.0f);
    }

private:
    const Stepping& job_;
    std::vector<Matrix> matrices_;
    int64_t others_ = 0, in_matrices_ = 0;
    std::unique_ptr<float[]> live_;     // live weights of spans with pruned ones, where the layout has them
    std::unique_ptr<Level[]> levels_;   // those that are not zero, span by span
    std::unique_ptr<int32_t[]> places_;
    std::vector<int64_t> ends_;         // of each span's in `levels_`
    std::unique_ptr<LevelsSize> size_;
    std::vector<Part> parts_;
    std::vector<Level> rest_;  // the other tensors', as if they were one
    std::vector<uint8_t> statistics_;
    AnsSize coder_;
    Lanes large_, small_, products_;
    uint32_t large_peak_ = 0, small_peak_ = 0;  // bits of the largest magnitudes

    // Adds what is owed, puts live weights together and squares them. Whether all was finite.
    bool sum(float* row, const float* owed) {
        uint32_t worst = 0;
        int64_t before = 0, weight = 0;
        large_.clear();
        small_.clear();
        large_peak_ = small_peak_ = 0;
        for (int64_t s = 0; s < job_.num_spans; ++s) {
            const Span& span = job_.spans[s];
            float* x = row + span.start;
            worst = std::max(worst, owed ? add(x, owed + span.start, span.length) : largest_bits(x, span.length));
            if (worst >= INFINITE) return false;
            if (span.kind == STATISTIC) continue;
            const float* some = weights_of(span, x, weight);
            if (span.place >= 0)
                for (int64_t i = 0; i < span.live; ++i) live_[weight + i] = x[job_.place[span.place + i]];
            if (span.kind == MATRIX) {
                large_.add_squares(some, span.live, 0);
                large_peak_ = std::max(large_peak_, largest_bits(some, span.live));
            } else {
                small_.add_squares(some, span.live, before);
                small_peak_ = std::max(small_peak_, largest_bits(some, span.live));
                before += span.live;
            }
            weight += span.live;
        }
        return true;
    }

    const float* weights_of(const Span& span, const float* x, int64_t weight) const {
        return span.place < 0 ? x : live_.get() + weight;
    }

    // Row and residual from update + owed; bytes of the compressed body.
    int64_t write(float* row, float* residual) {
        const double large = large_.total(), small = small_.total();
        const double step = job_.sums      ? unit_of(row)
                            : in_matrices_ ? step_of(large / double(in_matrices_), large_peak_)
                                           : step_of(small / double(std::max(others_, int64_t(1))), small_peak_);
        if (job_.sums && step == 0) return 0;
        int shifts[SHIFTS] = {};
        find(step, row, residual, shifts);
        const Values values(float(step), shifts);
        const double square = large + small, product = step > 0 ? product_of(values, residual) : 0;
        double longer = step;
        if (0 < product && product < square) longer = std::min(double(float(step * std::min(square / product, LONGEST))), MOST);
        decode(Values(float(longer), shifts), row, residual);
        return 1 + 7 + plane(2 * job_.weights, [&] { return levels(); }) + plane(2 * job_.statistics, [&] {
                   coder_.clear();
                   coder_.code(statistics_.data(), 2 * job_.statistics, 256);
                   return coder_.bytes(lanes_for(2 * job_.statistics, STATISTICS_EACH));
               });
    }

    double step_of(double square, uint32_t peak_bits) const {
        const double reach = std::max(1.0, job_.deviations / COARSE) * double(float_of(peak_bits));
        const double step = float(std::min({job_.deviations * std::sqrt(square), job_.passes * reach, MOST}));
        return step < LEAST ? 0 : step;
    }

    // The longest step of which all weights are multiples (finer ones', of an eighth): downlink.py.
    double unit_of(const float* row) const {
        int64_t weight = 0, found = LONGEST_SUM;
        float most = 0;
        for (int64_t s = 0; s < job_.num_spans; ++s) {
            const Span& span = job_.spans[s];
            if (span.kind == STATISTIC) continue;
            const float* x = weights_of(span, row + span.start, weight);
            weight += span.live;
            int32_t bits = 0;
            for (int64_t i = 0; i < span.live; ++i) {
                const float size = std::abs(x[i]) * PER_GRID;
                most = std::max(most, size);
                bits |= int32_t(std::min(size, LARGEST_SUM));
            }
            if (bits) found = std::min(found, int64_t(bits & -bits) * int64_t(finer(span) ? FINER : 1));
        }
        if (!weight || most >= LARGEST_SUM || found < int64_t(FINER) || most * FINER > TOP * float(found)) return 0;
        return double(found) / PER_GRID;
    }

    bool finer(const Span& span) const { return span.kind == OTHER && in_matrices_; }

    // Finds levels and where they lie; `row` is 0 then, but for statistics, and `residual` has the weights.
    void find(double step, float* row, float* residual, int* shifts) {
        Lost lost;
        int64_t weight = 0, found = 0;
        ends_.clear();
        statistics_.clear();
        for (int64_t s = 0; s < job_.num_spans; ++s) {
            const Span& span = job_.spans[s];
            float *x = row + span.start, *rest = residual + span.start;
            if (span.kind == STATISTIC) {
                halve(x, rest, span.length);
            } else {
                Level* to = levels_.get() + found;
                const int64_t more = step > 0 ? cut(span, step, weights_of(span, x, weight), to, lost) : 0;
                weight += span.live;
                found += more;
                if (span.place >= 0) {
                    for (int64_t i = 0; i < more; ++i) to[i].place = job_.place[span.place + to[i].place];
                    move_live(x, job_.live + span.start, span.length, rest);
                } else {
                    move(x, span.length, rest);
                }
            }
            ends_.push_back(found);
        }
        if (step > 0) lost.shifts(shifts);
    }

    int64_t cut(const Span& span, double step, const float* weights, Level* levels, Lost& lost) {
        const Cut cut{float(1 / step), finer(span) ? FINER : 1.0f, job_.away};
        const int64_t found = cut.find(weights, span.live, places_.get());
        cut.levels(weights, places_.get(), found, levels, lost);
        return found;
    }

    // Statistics as they travel, and what that loses.
    void halve(float* x, float* rest, int64_t count) {
        for (int64_t i = 0; i < count; ++i) {
            const uint32_t half = half_of(x[i]);
            statistics_.push_back(uint8_t(half));
            statistics_.push_back(uint8_t(half >> 8));
            const float read = float_of(half << 16);
            rest[i] = x[i] - read;
            x[i] = read;
        }
    }

    // Of the weights with what their levels stand for.
    double product_of(const Values& values, const float* weights) {
        products_.clear();
        each(values, [&](int64_t i, int64_t at, float value) { products_.add(i, weights[at], value); });
        return products_.total();
    }

    void decode(const Values& values, float* row, float* residual) const {
        each(values, [=](int64_t, int64_t at, float value) {
            row[at] = value;
            residual[at] -= value;
        });
    }

    // use(i, where in the row, what it stands for) of each level that is not zero.
    template <class Use>
    void each(const Values& values, Use use) const {
        int64_t i = 0;
        for (int64_t s = 0; s < job_.num_spans; ++s) {
            const Span& span = job_.spans[s];
            const float unit = finer(span) ? 1 / FINER : 1;
            for (; i < ends_[s]; ++i) use(i, span.start + levels_[i].place, values(levels_[i].level) * unit);
        }
    }

    // Bytes of a plane in the shorter way: ans.py.
    template <class Coded>
    static int64_t plane(int64_t plain, Coded coded) {
        return plain < SHORT_PLANE ? 1 + plain : 1 + std::min(plain, coded() + 4);
    }

    int64_t levels() {
        parts_.clear();
        rest_.clear();
        int64_t begin = 0, before = 0;
        for (int64_t s = 0; s < job_.num_spans; begin = ends_[s++]) {
            const Span& span = job_.spans[s];
            const Level *first = levels_.get() + begin, *last = levels_.get() + ends_[s];
            if (span.kind == MATRIX) parts_.push_back({first, last - first});
            if (span.kind != OTHER) continue;
            for (; first < last; ++first) rest_.push_back({int32_t(before + rank(span, first->place)), first->level});
            before += span.live;
        }
        parts_.push_back({rest_.data(), int64_t(rest_.size())});
        return size_->bytes(parts_);
    }

    // How many of its span's live weights are before one.
    int64_t rank(const Span& span, int32_t place) const {
        const int32_t* live = job_.place + span.place;
        return span.place < 0 ? place : std::lower_bound(live, live + span.live, place) - live;
    }
};

}  // namespace

// 0, or 1 if memory ran out.
extern "C" int fedlite_step(const Stepping* job) {
    return code_all<Coder>(*job);
}
