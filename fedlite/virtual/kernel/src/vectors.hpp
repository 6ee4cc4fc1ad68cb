// Float vectors as wide as this machine's registers, by the compiler's own vector types.
#pragma once

#include <cstring>
#include <new>
#include <utility>
#include <vector>

#if defined(__AVX512F__)
#include <immintrin.h>
constexpr int LANES = 16, REGISTERS = 32;
#elif defined(__AVX__)
constexpr int LANES = 8, REGISTERS = 16;
#elif defined(__aarch64__)
constexpr int LANES = 4, REGISTERS = 32;
#else
constexpr int LANES = 4, REGISTERS = 16;
#endif

typedef float Vec __attribute__((vector_size(LANES * 4)));
typedef int IntVec __attribute__((vector_size(LANES * 4)));
typedef float Unaligned __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

static inline Vec load(const float* from) { return *reinterpret_cast<const Unaligned*>(from); }
static inline void store(float* to, Vec value) { *reinterpret_cast<Unaligned*>(to) = value; }

// The first `count` lanes, zeros after them; count < LANES.
static inline Vec load_some(const float* from, long count) {
#if defined(__AVX512F__)
    return (Vec)_mm512_maskz_loadu_ps((__mmask16)((1u << count) - 1), from);
#else
    Vec value = {};
    for (long lane = 0; lane < count; ++lane) value[lane] = from[lane];
    return value;
#endif
}

// Each lane and the one `BY` further on, round the end.
template <int BY, int... LANE>
static inline Vec fold(Vec value, std::integer_sequence<int, LANE...>) {
#if defined(__clang__)
    return value + __builtin_shufflevector(value, value, (LANE + BY) % LANES...);
#else
    return value + __builtin_shuffle(value, IntVec{(LANE + BY) % LANES...});
#endif
}

// Sum of all lanes, always in the same order.
template <int BY = LANES / 2>
static inline float sum(Vec value) {
    value = fold<BY>(value, std::make_integer_sequence<int, LANES>());
    if constexpr (BY > 1)
        return sum<BY / 2>(value);
    else
        return value[0];
}

static inline long padded(long count) { return (count + LANES - 1) / LANES * LANES; }

// Memory on which no vector straddles a cache line.
template <class T>
struct Aligned {
    using value_type = T;
    static constexpr std::align_val_t LINE{64};
    Aligned() = default;
    template <class U>
    Aligned(const Aligned<U>&) {}
    T* allocate(std::size_t count) { return static_cast<T*>(::operator new(count * sizeof(T), LINE)); }
    void deallocate(T* at, std::size_t) { ::operator delete(at, LINE); }
    bool operator==(const Aligned&) const { return true; }
    bool operator!=(const Aligned&) const { return false; }
};

using Floats = std::vector<float, Aligned<float>>;
