// The order in which a client's examples are taken: numpy.random.default_rng(seed).permutation, draw for draw.
//
// SeedSequence: NumPy Enhancement Proposal 19 and O'Neill 2015, "Developing a seed_seq alternative". PCG64: O'Neill
// 2014, the XSL-RR member with 128 bits of state. A bounded draw is a half of 64 bits, the low one
// first, masked and drawn again while it is too large.
#pragma once

#include <cstdint>
#include <utility>

class Chance {
public:
    explicit Chance(uint64_t seed) {
        uint32_t pool[4], key = 0x43b0d7e5;
        const uint32_t words[4] = {uint32_t(seed), uint32_t(seed >> 32), 0, 0};
        for (int i = 0; i < 4; ++i) pool[i] = stirred(words[i], key, 0x931e8875);
        for (int from = 0; from < 4; ++from)
            for (int to = 0; to < 4; ++to)
                if (from != to) pool[to] = mixed(pool[to], stirred(pool[from], key, 0x931e8875));
        uint64_t state[4];
        key = 0x8b51f9dd;
        for (int i = 0; i < 4; ++i) {
            const uint64_t low = stirred(pool[2 * i % 4], key, 0x58f38ded);
            state[i] = low | uint64_t(stirred(pool[(2 * i + 1) % 4], key, 0x58f38ded)) << 32;
        }
        step_ = (Wide(state[2]) << 64 | state[3]) << 1 | 1;
        turn();
        state_ += Wide(state[0]) << 64 | state[1];
        turn();
    }

    // 0 … most, each as likely; most < 2³².
    uint32_t upto(uint32_t most) {
        uint32_t mask = most;
        for (int bits = 1; bits < 32; bits *= 2) mask |= mask >> bits;
        uint32_t drawn;
        do drawn = half() & mask;
        while (drawn > most);
        return drawn;
    }

private:
    using Wide = unsigned __int128;
    Wide state_ = 0, step_ = 0;
    uint32_t high_ = 0;
    bool kept_ = false;

    static uint32_t stirred(uint32_t value, uint32_t& key, uint32_t factor) {
        value ^= key;
        key *= factor;
        value *= key;
        return value ^ value >> 16;
    }

    static uint32_t mixed(uint32_t x, uint32_t y) {
        const uint32_t value = 0xca01f9dd * x - 0x4973f715 * y;
        return value ^ value >> 16;
    }

    void turn() { state_ = state_ * (Wide(0x2360ed051fc65da4) << 64 | 0x4385df649fccf645) + step_; }

    uint32_t half() {
        if (kept_) {
            kept_ = false;
            return high_;
        }
        turn();
        const uint64_t folded = uint64_t(state_ >> 64) ^ uint64_t(state_);
        const int turned = int(state_ >> 122);
        const uint64_t drawn = folded >> turned | folded << (-turned & 63);
        kept_ = true;
        high_ = uint32_t(drawn >> 32);
        return uint32_t(drawn);
    }
};

static inline void shuffle(uint64_t seed, int64_t* order, int64_t count) {
    Chance chance(seed);
    for (int64_t i = count - 1; i > 0; --i) std::swap(order[i], order[chance.upto(uint32_t(i))]);
}
