// From weights to levels and back, by the numbers of fedlite/compress/step.py and sums.py.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "bits.hpp"
#include "levels.hpp"

namespace {

constexpr float TOP = 32767, FINER = 8, PARTS = 1 << 16;
constexpr double FAR = 256;
constexpr int SHIFTS = 3;
constexpr int64_t LANES = 1024;   // sums.LANES
constexpr int64_t AT_ONCE = 64;   // weights looked at together
constexpr int64_t SLACK = 4;      // places written behind those that were found

// Adds what is owed; the bits of the largest magnitude.
uint32_t add(float* __restrict x, const float* __restrict owed, int64_t count) {
    uint32_t most = 0;
    for (int64_t i = 0; i < count; ++i) {
        x[i] += owed[i];
        most = std::max(most, bits_of(x[i]) & MAGNITUDE);
    }
    return most;
}

// Leaves zeros behind.
void move(float* __restrict x, int64_t count, float* __restrict to) {
    for (int64_t i = 0; i < count; ++i) {
        to[i] = x[i];
        x[i] = 0;
    }
}

void move_live(float* __restrict x, const uint8_t* __restrict live, int64_t count, float* __restrict to) {
    for (int64_t i = 0; i < count; ++i) {
        to[i] = live[i] ? x[i] : 0.0f;
        x[i] = 0;
    }
}

// The upper half of a float32's bits, rounded to nearest; the largest stay finite: step.halves.
uint32_t half_of(float value) {
    const uint32_t bits = bits_of(value), upper = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
    return (upper & 0x7FFF) > 0x7F7F ? (upper & 0x8000) | 0x7F7F : upper;
}

// A sum as in sums.py: product i is added in lane i mod LANES.
class Lanes {
public:
    void clear() { std::fill_n(lanes_, LANES, 0.0); }

    // Squares of values that come behind `before` others.
    void add_squares(const float* x, int64_t count, int64_t before) {
        for (int64_t i = 0; i < count;) {
            const int64_t lane = (before + i) % LANES, some = std::min(LANES - lane, count - i);
            for (int64_t j = 0; j < some; ++j) lanes_[lane + j] += double(x[i + j]) * double(x[i + j]);
            i += some;
        }
    }

    // Product i.
    void add(int64_t i, float one, float other) { lanes_[i % LANES] += double(one) * double(other); }

    double total() {
        for (int64_t half = LANES / 2; half > 0; half /= 2)
            for (int64_t i = 0; i < half; ++i) lanes_[i] += lanes_[i + half];
        return lanes_[0];
    }

private:
    double lanes_[LANES];
};

// What levels stand for.
class Values {
public:
    Values(float step, const int* shifts) : step_(step), far_(float(shifts[SHIFTS - 1] / FAR - 0.5)) {
        for (int size = 1; size <= NEAR; ++size) {
            const float unit = size <= SHIFTS ? float(size + shifts[size - 1] / FAR - 0.5) : float(size) + far_;
            near_[NEAR + size] = unit * step;
            near_[NEAR - size] = -near_[NEAR + size];
        }
    }

    float operator()(int32_t level) const {
        if (std::abs(level) <= NEAR) return near_[NEAR + level];
        const float value = (float(std::abs(level)) + far_) * step_;
        return level < 0 ? -value : value;
    }

private:
    static constexpr int NEAR = 15;
    float step_, far_, near_[2 * NEAR + 1];
};

// How much of a step more than their levels weights are: whole parts, by the size of the level.
struct Lost {
    int64_t parts[SHIFTS] = {}, counts[SHIFTS] = {};

    void shifts(int* to) const {
        for (int i = 0; i < SHIFTS; ++i) {
            const double mean = double(parts[i]) / std::max(double(counts[i]) * double(PARTS), 1.0);
            to[i] = int(std::min(std::max(std::rint((mean + 0.5) * FAR), 0.0), FAR - 1));
        }
    }
};

// A tensor's weights are cut.
struct Cut {
    float inverse, finer, away;  // 1 / step, 8 or 1, 1 - dead zone

    // Where levels are not zero, in order; how many. `places` has room for SLACK more.
    int64_t find(const float* x, int64_t count, int32_t* places) const {
        int64_t found = 0;
        for (int64_t begin = 0; begin < count; begin += AT_ONCE) {
            uint64_t left = beyond(x + begin, std::min(AT_ONCE, count - begin));
            const int64_t next = found + __builtin_popcountll(left);
            for (; found < next; found += SLACK)
                for (int64_t i = 0; i < SLACK; ++i, left &= left - 1) places[found + i] = int32_t(begin + lowest(left));
            found = next;
        }
        return found;
    }

    // The levels at these places.
    void levels(const float* x, const int32_t* places, int64_t count, Level* to, Lost& lost) const {
        for (int64_t begin = 0; begin < count; begin += SOME)
            some_levels(x, places + begin, std::min(SOME, count - begin), to + begin, lost);
    }

private:
    static constexpr int64_t SOME = 1024;  // of whose parts the sum is an int32

    void some_levels(const float* __restrict x, const int32_t* __restrict places, int64_t count, Level* __restrict to,
                     Lost& lost) const {
        int32_t all = 0, first = 0, second = 0, ones = 0, twos = 0;
        for (int64_t i = 0; i < count; ++i) {
            const float value = x[places[i]], ratio = std::min(std::abs(value * inverse * finer), TOP);
            const int32_t size = int32_t(ratio + away), part = int32_t(std::rint((ratio - float(size)) * PARTS));
            const int32_t one = -(size == 1), two = -(size == 2), negative = -(value < 0);
            to[i].place = places[i];
            to[i].level = (size ^ negative) - negative;
            all += part;
            first += part & one;
            second += part & two;
            ones -= one;
            twos -= two;
        }
        const int64_t parts[] = {first, second, all - first - second}, counts[] = {ones, twos, count - ones - twos};
        for (int i = 0; i < SHIFTS; ++i) {
            lost.parts[i] += parts[i];
            lost.counts[i] += counts[i];
        }
    }

    static int lowest(uint64_t bits) { return bits ? __builtin_ctzll(bits) : 0; }

    // One bit for each of at most AT_ONCE weights: whether it is beyond the dead zone.
    uint64_t beyond(const float* __restrict x, int64_t count) const {
        uint8_t flags[AT_ONCE] = {};
        if (count == AT_ONCE)  // so that it is unrolled
            for (int64_t i = 0; i < AT_ONCE; ++i) flags[i] = std::abs(x[i] * inverse * finer) + away >= 1.0f;
        else
            for (int64_t i = 0; i < count; ++i) flags[i] = std::abs(x[i] * inverse * finer) + away >= 1.0f;
        uint64_t all = 0;
        for (int64_t i = 0; i < AT_ONCE; i += 8) {
            uint64_t eight = 0;
            for (int j = 0; j < 8; ++j) eight |= uint64_t(flags[i + j]) << 8 * j;
            all |= (eight * 0x0102040810204080) >> 56 << i;  // byte j, which is 0 or 1, goes to bit 56 + j
        }
        return all;
    }
};

}  // namespace
