// How long a payload of fedlite/compress/entropy.py is: its Writer, with words that are counted and not kept.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

constexpr uint32_t SCALE_BITS = 15, SCALE = 1u << SCALE_BITS;
constexpr uint32_t LOW = 1u << 16;
constexpr int64_t MOST_LANES = 1 << 10, FIRST_BLOCK = 16, LAST_BLOCK = 4096, LARGEST_ALPHABET = 256;

inline int64_t bit_length(uint64_t value) { return value ? 64 - __builtin_clzll(value) : 0; }

// A power of two: about one lane for `each` symbols.
inline int64_t lanes_for(int64_t count, int64_t each) {
    return std::min(int64_t(1) << (bit_length(std::max<int64_t>(count / each, 1)) - 1), MOST_LANES);
}

// A symbol's frequency and, above it, where its span begins.
inline uint32_t symbol_of(uint32_t frequency, uint32_t start) { return frequency | start << 16; }

// a / b, rounded down. Exact for a below 2^53: the nearest quotients that differ are 1 / b apart.
inline int64_t divided(int64_t a, int64_t b) { return int64_t(double(a) / double(b)); }

// Codes one symbol in each of `count` lanes; how many of them gave a word.
inline int64_t push(uint32_t* __restrict states, const uint32_t* __restrict symbols, int64_t count) {
    uint32_t words = 0;
    for (int64_t lane = 0; lane < count; ++lane) {
        const uint32_t frequency = symbols[lane] & 0xFFFF, start = symbols[lane] >> 16;
        const bool full = states[lane] >> (32 - SCALE_BITS) >= frequency;
        const uint32_t state = full ? states[lane] >> 16 : states[lane];
        words += full;
        states[lane] = state + uint32_t(int32_t(double(state) / double(frequency))) * (SCALE - frequency) + start;
    }
    return words;
}

class AnsSize {
public:
    void clear() {
        symbols_.clear();
        ends_.clear();
    }

    // The next block, of `count` symbols: room for them.
    uint32_t* block(int64_t count) {
        symbols_.resize(symbols_.size() + count);
        ends_.push_back(int64_t(symbols_.size()));
        return symbols_.data() + symbols_.size() - count;
    }

    // `count` symbols below `alphabet`, whose frequencies are learned on the way: entropy.code.
    void code(const uint8_t* values, int64_t count, int64_t alphabet) {
        int64_t seen[LARGEST_ALPHABET] = {};
        for (int64_t begin = 0, size = FIRST_BLOCK; begin < count;) {
            uint32_t table[LARGEST_ALPHABET];
            learned(seen, alphabet, 2 * begin + alphabet, table);
            const int64_t stop = std::min(begin + size, count);
            uint32_t* symbols = block(stop - begin);
            for (int64_t i = begin; i < stop; ++i) {
                *symbols++ = table[values[i]];
                ++seen[values[i]];
            }
            begin = stop;
            size = std::min(2 * size, LAST_BLOCK);
        }
    }

    // Bytes of all blocks in that many lanes.
    int64_t bytes(int64_t lanes) {
        states_.assign(lanes, LOW);
        int64_t words = 0;
        for (size_t block = ends_.size(); block-- > 0;) {
            const int64_t first = block ? ends_[block - 1] : 0, count = ends_[block] - first;
            for (int64_t begin = count ? (count - 1) / lanes * lanes : -1; begin >= 0; begin -= lanes)
                words += push(states_.data(), symbols_.data() + first + begin, std::min(lanes, count - begin));
        }
        return 4 * lanes + 2 * words;
    }

private:
    std::vector<uint32_t> symbols_, states_;
    std::vector<int64_t> ends_;

    // entropy.normalised of 2 · seen + 1, which add up to `sum`.
    static void learned(const int64_t* seen, int64_t alphabet, int64_t sum, uint32_t* table) {
        const int64_t room = SCALE - alphabet;
        int64_t frequency[LARGEST_ALPHABET], left = SCALE;
        for (int64_t i = 0; i < alphabet; ++i) frequency[i] = 1 + divided((2 * seen[i] + 1) * room, sum);
        for (int64_t i = 0; i < alphabet; ++i) left -= frequency[i];
        frequency[std::max_element(seen, seen + alphabet) - seen] += left;
        uint32_t start = 0;
        for (int64_t i = 0; i < alphabet; ++i) {
            table[i] = symbol_of(uint32_t(frequency[i]), start);
            start += uint32_t(frequency[i]);
        }
    }
};
