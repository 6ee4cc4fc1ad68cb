// Float vectors as wide as this machine's registers, by the compiler's own vector types.
#pragma once

#include <cstring>
#include <new>
#include <utility>
#include <vector>

#if defined(__AVX__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
constexpr int LANES = 16, REGISTERS = 32;
#elif defined(__AVX__)
constexpr int LANES = 8, REGISTERS = 16;
#elif defined(__aarch64__)
constexpr int LANES = 4, REGISTERS = 32;
#else
constexpr int LANES = 4, REGISTERS = 16;
#endif

#define UNROLL _Pragma("GCC unroll 32")

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

// factor · value + to, rounded once where the processor can: whichever of the two computes it, the same bits.
static inline float multiply_add(float factor, float value, float to) {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
    return __builtin_fmaf(factor, value, to);
#else
    return factor * value + to;
#endif
}

static inline Vec multiply_add(float factor, Vec value, Vec to) {
#if defined(__AVX512F__)
    return (Vec)_mm512_fmadd_ps(_mm512_set1_ps(factor), (__m512)value, (__m512)to);
#elif defined(__AVX__) && defined(__FMA__)
    return (Vec)_mm256_fmadd_ps(_mm256_set1_ps(factor), (__m256)value, (__m256)to);
#elif defined(__ARM_FEATURE_FMA)
    for (int lane = 0; lane < LANES; ++lane) to[lane] = multiply_add(factor, value[lane], to[lane]);
    return to;
#else
    return factor * value + to;
#endif
}

// Each lane of both with the one BY further on: `one`'s where (lane & BY) is 0, `other`'s elsewhere.
template <int BY, int... LANE>
static inline Vec fold(Vec one, Vec other, std::integer_sequence<int, LANE...>) {
#if defined(__clang__)
    return __builtin_shufflevector(one, other, (LANE & BY ? LANES + LANE - BY : LANE)...) +
           __builtin_shufflevector(one, other, (LANE & BY ? LANES + LANE : LANE + BY)...);
#else
    return __builtin_shuffle(one, other, IntVec{(LANE & BY ? LANES + LANE - BY : LANE)...}) +
           __builtin_shuffle(one, other, IntVec{(LANE & BY ? LANES + LANE : LANE + BY)...});
#endif
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
