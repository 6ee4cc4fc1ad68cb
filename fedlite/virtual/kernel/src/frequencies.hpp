// Tables of symbol frequencies as fedlite/compress/frequencies.py makes and sends them, and where decisions change.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "ans.hpp"

constexpr int CLASSES = 16, EMPTY = 15;                 // as in fedlite/compress/contexts.py
constexpr int WIDTH = 64, ABSENT = 63, MIXED_UNIT = 8;  // frequencies.py, entropy.py
constexpr int GROUPS = 8, STRENGTHS = 4;                // levels.py

// From those modules.
struct Limits {
    const double* class_shares;    // (EMPTY - 1): falling, two in an octave
    const double* quarter_shares;  // (ABSENT - 1): falling, four in an octave
    const int64_t* quarters;       // (ABSENT)
    const double* group_means;     // (GROUPS - 1) rising
    const double* strong;          // (STRENGTHS - 1) rising
};

// How many of the rising limits the value has reached.
inline int reached(const double* limits, int count, double value) {
    int found = 0;
    for (int i = 0; i < count; ++i) found += value >= limits[i];
    return found;
}

// How many of the falling limits a share, 0 < share <= 1, is below. Limit k is 2^-((k + 1/2) / EACH), so that only EACH
// of them are in the share's octave.
template <int EACH>
int below(const double* limits, int count, double share) {
    uint64_t bits;
    std::memcpy(&bits, &share, sizeof bits);
    const int octave = 1023 - int(bits >> 52), first = std::min(std::max(EACH * (octave - 1), 0), count);
    int found = first;
    for (int i = 0; i < EACH; ++i) found += first + i < count && share < limits[std::min(first + i, count - 1)];
    return found;
}

// NUMBER tables.
template <int NUMBER>
class Tables {
public:
    uint32_t symbols[NUMBER * WIDTH];  // as AnsSize takes them, once they are sent

    // The symbol at `index`, of table index / WIDTH, comes once more; `turn` counts them, so that
    // one need not wait for the one before.
    void note(int64_t turn, int64_t index) { ++seen_[turn & 1][index]; }

    // Codes the tables and then makes them.
    void send(AnsSize& coder, const Limits& limits) {
        uint8_t lengths[NUMBER], parts[NUMBER * WIDTH];
        int64_t used = 0, sent = 0;
        for (int table = 0; table < NUMBER; ++table) {
            uint8_t* chosen = parts + sent;
            const int length = choose(table, chosen, limits.quarter_shares);
            if (!length) continue;
            make(table, chosen, length, limits.quarters);
            lengths[used++] = uint8_t(length - 1);
            sent += length;
        }
        coder.code(lengths, used, WIDTH);
        coder.code(parts, sent, WIDTH);
    }

private:
    uint32_t seen_[2][NUMBER * WIDTH] = {};

    // What is sent of a table, up to its last symbol; how much that is.
    int choose(int table, uint8_t* chosen, const double* shares) const {
        uint32_t counts[WIDTH];
        int64_t total = 0;
        int length = 0;
        for (int s = 0; s < WIDTH; ++s) {
            counts[s] = seen_[0][table * WIDTH + s] + seen_[1][table * WIDTH + s];
            total += counts[s];
        }
        for (int s = 0; s < WIDTH; ++s)
            if (counts[s]) length = s + 1;
        for (int s = 0; s < length; ++s)
            chosen[s] = uint8_t(counts[s] ? below<4>(shares, ABSENT - 1, counts[s] / double(total)) : ABSENT);
        return length;
    }

    void make(int table, const uint8_t* chosen, int length, const int64_t* quarters) {
        int64_t weights[WIDTH], units[WIDTH], sum = 0, room = SCALE / MIXED_UNIT, left = room;
        for (int s = 0; s < length; ++s) {
            weights[s] = chosen[s] == ABSENT ? 0 : quarters[chosen[s]];
            sum += weights[s];
            room -= weights[s] > 0;
        }
        for (int s = 0; s < length; ++s) {
            units[s] = (weights[s] > 0) + divided(weights[s] * room, sum);
            left -= units[s];
        }
        units[std::max_element(weights, weights + length) - weights] += left;
        uint32_t start = 0;
        for (int s = 0; s < length; ++s) {
            symbols[table * WIDTH + s] = symbol_of(uint32_t(units[s] * MIXED_UNIT), start);
            start += uint32_t(units[s] * MIXED_UNIT);
        }
    }
};
