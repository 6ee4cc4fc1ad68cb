// What happens to trained rows, a block of clients at a time: int8 coding with error feedback, sums, maxima.
//
// The numbers are NumPy's to the last bit (fedlite/compress/int8.py, fedlite/aggregate.py). So a product is
// rounded before it is added: this file is compiled without the fused operations that train.cpp lives on.
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#else
#pragma GCC optimize("fp-contract=off")
#endif

#include <cmath>

#include "bits.hpp"
#include "threads.hpp"

namespace {

constexpr uint32_t SMALLEST = 0x0100, LARGEST = 0xF802;  // as in fedlite/compress/int8.py
constexpr float TOP = 127;

// A span of a row: weights under one scale, or a statistic, which stays exact.
struct Piece {
    int64_t start, length;
    int64_t live;  // weights that travel; fewer than `length` where some are pruned
    int64_t statistic;
};

struct Coding {
    const Piece* pieces;  // together the whole row, in its order
    int64_t num_pieces, size, scales, weights, body;
    const uint8_t* live;   // (size): 0 or 1
    const int32_t* place;  // of each live weight, in the pieces that have pruned ones: counted from its start
    int64_t clients;
    float* rows;      // (clients, size): updates in, what the server decodes out
    float* owed;      // (clients, size) or null
    float* residual;  // (clients, size): may be `owed`
    uint8_t* bodies;  // (clients, body)
    uint8_t* finite;  // (clients)
    int64_t threads;
};

void add(float* __restrict x, const float* __restrict owed, int64_t count) {
    for (int64_t i = 0; i < count; ++i) x[i] += owed[i];
}

void prune(float* __restrict x, const uint8_t* __restrict live, int64_t count) {
    for (int64_t i = 0; i < count; ++i) x[i] = live[i] ? x[i] : 0.0f;
}

uint32_t scale_code(uint32_t peak) {
    const uint32_t code = std::min((bits_of(float_of(peak) / TOP) + 0x7FFF) >> 15, LARGEST);
    return code < SMALLEST ? 0 : code;
}

// Levels; x becomes what they decode to, `rest` what is lost. A level times a scale is exact: 7 bits by 9.
void quantize(float* __restrict x, int64_t count, float scale, int8_t* __restrict levels, float* __restrict rest) {
    for (int64_t i = 0; i < count; ++i) {
        const float level = std::rint(x[i] / scale) + 0.0f;  // an integer's zero, which has no sign
        const float decoded = level * scale;
        levels[i] = int8_t(int32_t(level));
        rest[i] = x[i] - decoded;
        x[i] = decoded;
    }
}

// One thread's work.
class Coder {
public:
    explicit Coder(const Coding& of) : job_(of), peaks_(of.num_pieces) {
        int64_t longest = 0;
        for (int64_t p = 0; p < of.num_pieces; ++p) longest = std::max(longest, of.pieces[p].length);
        levels_.resize(longest);
    }

    void code(int64_t client) {
        float* row = job_.rows + client * job_.size;
        const float* owed = job_.owed ? job_.owed + client * job_.size : nullptr;
        float* residual = job_.residual + client * job_.size;
        job_.finite[client] = sum(row, owed);
        if (job_.finite[client]) return write(row, residual, job_.bodies + client * job_.body);
        std::fill_n(row, job_.size, 0.0f);
        if (!owed) std::fill_n(residual, job_.size, 0.0f);
    }

private:
    const Coding& job_;
    std::vector<uint32_t> peaks_;
    std::vector<int8_t> levels_;

    // Adds what is owed, finds each piece's peak and then drops what is pruned. Whether all was finite.
    bool sum(float* row, const float* owed) {
        uint32_t worst = 0;
        for (int64_t p = 0; p < job_.num_pieces; ++p) {
            const Piece& piece = job_.pieces[p];
            float* x = row + piece.start;
            if (owed) add(x, owed + piece.start, piece.length);
            peaks_[p] = largest_bits(x, piece.length);
            worst = std::max(worst, peaks_[p]);
            if (piece.statistic || piece.live == piece.length) continue;
            prune(x, job_.live + piece.start, piece.length);
            peaks_[p] = largest_bits(x, piece.length);
        }
        return worst < INFINITE;
    }

    void write(float* row, float* residual, uint8_t* body) {
        uint8_t *exponent = body, *fraction = body + job_.scales, *levels = fraction + job_.scales;
        uint8_t* statistics = levels + job_.weights;
        const int32_t* place = job_.place;
        for (int64_t p = 0; p < job_.num_pieces; ++p) {
            const Piece& piece = job_.pieces[p];
            float *x = row + piece.start, *rest = residual + piece.start;
            if (piece.statistic || !piece.live) {
                std::fill_n(rest, piece.length, 0.0f);
                if (piece.statistic) statistics = put(statistics, x, piece.length);
                continue;
            }
            const uint32_t code = scale_code(peaks_[p]);
            *exponent++ = uint8_t(code >> 8);
            *fraction++ = uint8_t(code);
            const bool whole = piece.live == piece.length;
            int8_t* to = whole ? reinterpret_cast<int8_t*>(levels) : levels_.data();
            if (code) {
                quantize(x, piece.length, float_of(code << 15), to, rest);
            } else {
                std::copy_n(x, piece.length, rest);
                std::fill_n(x, piece.length, 0.0f);
                std::fill_n(to, piece.length, int8_t(0));
            }
            if (!whole) {
                for (int64_t i = 0; i < piece.live; ++i) levels[i] = uint8_t(to[place[i]]);
                place += piece.live;
            }
            levels += piece.live;
        }
    }

    static uint8_t* put(uint8_t* to, const float* x, int64_t count) {
        for (int64_t i = 0; i < count; ++i)
            for (int byte = 0; byte < 4; ++byte) *to++ = uint8_t(bits_of(x[i]) >> 8 * byte);
        return to;
    }
};

constexpr int64_t BLOCK = 8192;  // coordinates: each row is read in pieces long enough to be fetched ahead

// The addition of clients one after another, a few of them while a total is in its register.
void add_block(double* __restrict total, const float* rows, int64_t size, const double* weights, int64_t clients,
               int64_t count) {
    int64_t b = 0;
    for (; b + 4 <= clients; b += 4) {
        const float *first = rows + b * size, *second = first + size, *third = second + size, *fourth = third + size;
        const double w = weights[b], x = weights[b + 1], y = weights[b + 2], z = weights[b + 3];
        for (int64_t i = 0; i < count; ++i)
            total[i] = (((total[i] + w * first[i]) + x * second[i]) + y * third[i]) + z * fourth[i];
    }
    for (; b < clients; ++b)
        for (int64_t i = 0; i < count; ++i) total[i] += weights[b] * rows[b * size + i];
}

}  // namespace

// 0, or 1 if memory ran out.
extern "C" int fedlite_code(const Coding* job) {
    return code_all<Coder>(*job);
}

// total (size) += weights[b] · rows[b], client after client in the order of b.
extern "C" void fedlite_add(double* total, const float* rows, const double* weights, int64_t clients, int64_t size,
                            int64_t threads) {
    const int64_t blocks = (size + BLOCK - 1) / BLOCK;
    spread(blocks, threads, [&](const auto& next) {
        for (int64_t block; (block = next()) < blocks;) {
            const int64_t at = block * BLOCK;
            add_block(total + at, rows + at, size, weights, clients, std::min(BLOCK, size - at));
        }
    });
}

// The largest magnitude of each row; infinity or NaN where one is in it.
extern "C" void fedlite_largest(const float* rows, float* largest, int64_t clients, int64_t size, int64_t threads) {
    spread(clients, threads, [&](const auto& next) {
        for (int64_t b; (b = next()) < clients;) largest[b] = float_of(largest_bits(rows + b * size, size));
    });
}
