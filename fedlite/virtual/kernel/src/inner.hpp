// C[m][n] = sum over k of A[m][k] · B[n][k], tile by tile in registers. Rows of both are contiguous: vectors run over k.
//
// The sum over k has one fixed order: of every LANES-th product, then of the lanes.
#pragma once

#include <algorithm>
#include <array>
#include <utility>

#include "vectors.hpp"

// COUNT vectors become one: the sum of the i-th is in its lane i · LANES / COUNT. COUNT is a power of two.
template <int COUNT, int BY = LANES / 2>
static inline void fold_all(Vec* of) {
    constexpr int AFTER = (COUNT + 1) / 2;
    UNROLL for (int i = 0; i < AFTER; ++i)
        of[i] = fold<BY>(of[i], of[i + COUNT / 2], std::make_integer_sequence<int, LANES>());
    if constexpr (BY > 1) fold_all<AFTER, BY / 2>(of);
}

constexpr int power_of_two(int least) { return least <= 1 ? 1 : 2 * power_of_two((least + 1) / 2); }

// The sum of each vector's lanes; a tile's are folded together, in a quarter of the steps that each by itself takes.
template <int COUNT>
static inline void sums(const Vec* of, float* to) {
    constexpr int NOW = std::min(COUNT, LANES), FILLED = power_of_two(NOW);
    Vec each[FILLED] = {};
    UNROLL for (int i = 0; i < NOW; ++i) each[i] = of[i];
    fold_all<FILLED>(each);
    if constexpr (NOW == LANES)
        store(to, each[0]);
    else
        UNROLL for (int i = 0; i < NOW; ++i) to[i] = each[0][i * (LANES / FILLED)];
    if constexpr (COUNT > NOW) sums<COUNT - NOW>(of + NOW, to + NOW);
}

constexpr int INNER_ROWS = REGISTERS == 32 ? 10 : 6, INNER_COLUMNS = 4;
constexpr int most_columns(int rows) { return rows <= INNER_ROWS / 2 ? INNER_COLUMNS : 2; }

template <int ROWS, int COLUMNS>
static void inner_tile(const float* left, const float* right, long length, float* tile) {
    Vec total[ROWS][COLUMNS] = {};
    const long whole = length / LANES * LANES;
    for (long k = 0; k < whole; k += LANES) {
        Vec b[COLUMNS];
        UNROLL for (int n = 0; n < COLUMNS; ++n) b[n] = load(right + n * length + k);
        UNROLL for (int m = 0; m < ROWS; ++m) {
            const Vec a = load(left + m * length + k);
            UNROLL for (int n = 0; n < COLUMNS; ++n) total[m][n] += a * b[n];
        }
    }
    if (const long rest = length - whole; rest > 0) {
        Vec b[COLUMNS];
        UNROLL for (int n = 0; n < COLUMNS; ++n) b[n] = load_some(right + n * length + whole, rest);
        UNROLL for (int m = 0; m < ROWS; ++m) {
            const Vec a = load_some(left + m * length + whole, rest);
            UNROLL for (int n = 0; n < COLUMNS; ++n) total[m][n] += a * b[n];
        }
    }
    sums<ROWS * COLUMNS>(&total[0][0], tile);
}

using InnerTile = void (*)(const float*, const float*, long, float*);

template <int ROWS, int... COLUMNS>
constexpr std::array<InnerTile, INNER_COLUMNS> inner_row(std::integer_sequence<int, COLUMNS...>) {
    return {{inner_tile<ROWS, std::min(COLUMNS + 1, most_columns(ROWS))>...}};
}

template <int... ROWS>
constexpr auto inner_table(std::integer_sequence<int, ROWS...>) {
    return std::array<std::array<InnerTile, INNER_COLUMNS>, INNER_ROWS>{
        {inner_row<ROWS + 1>(std::make_integer_sequence<int, INNER_COLUMNS>())...}};
}

static constexpr auto INNER = inner_table(std::make_integer_sequence<int, INNER_ROWS>());

constexpr long NEAR = 8192;  // floats of A that B may pass and leave in a first-level cache of 48 KiB

// C (rows, columns), its rows `columns` apart; `start` is what each column begins with, or null for 0.
static void inner(long rows, long columns, long length, const float* left, const float* right,
                  const float* start, float* result) {
    alignas(64) float tile[INNER_ROWS * INNER_COLUMNS];
    // A tile's rows of A stay near while all of B passes; where they are too long for it, its rows of B while A does.
    const bool near = INNER_ROWS * length <= NEAR;
    const long most = near ? INNER_ROWS : INNER_ROWS / 2, tiles = (rows + most - 1) / most;
    const auto compute = [&](long index, long column) {
        const long row = rows * index / tiles, tall = rows * (index + 1) / tiles - row;
        const long wide = std::min<long>(most_columns(int(tall)), columns - column);
        INNER[tall - 1][wide - 1](left + row * length, right + column * length, length, tile);
        for (long m = 0; m < tall; ++m)
            for (long n = 0; n < wide; ++n)
                result[(row + m) * columns + column + n] = tile[m * wide + n] + (start ? start[column + n] : 0.0f);
        return column + wide;
    };
    if (near)
        for (long index = 0; index < tiles; ++index)
            for (long column = 0; column < columns;) column = compute(index, column);
    else
        for (long column = 0, next = columns; column < columns; column = next)
            for (long index = 0; index < tiles; ++index) next = compute(index, column);
}
