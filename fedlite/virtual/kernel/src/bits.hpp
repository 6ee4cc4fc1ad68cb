// Floats by their bits: those of magnitudes are in their order, with infinity and NaN at the top.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace {

constexpr uint32_t MAGNITUDE = 0x7fffffff, INFINITE = 0x7f800000;

uint32_t bits_of(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

float float_of(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

uint32_t largest_bits(const float* x, int64_t count) {
    uint32_t most = 0;
    for (int64_t i = 0; i < count; ++i) most = std::max(most, bits_of(x[i]) & MAGNITUDE);
    return most;
}

}  // namespace
