// C[m][n] = sum over k of A[m, k] · B[k][n], tile by tile in registers. Rows of B are contiguous: vectors run over n.
//
// The sum over k has one fixed order.
#pragma once

#include <algorithm>
#include <array>
#include <utility>

#include "vectors.hpp"

// A(m, k); k runs over `runs` pieces of `length`, so that a patch of an image is a row of A.
struct Left {
    const float* at;
    long row, piece, step;  // distance between rows, between pieces, within a piece
    long runs, length;
};

// What becomes of the product P = (A · B) ⊙ live + bias: C, its rows `row` floats apart, is P; or C + rate · P.
struct Into {
    float* at;
    long row;
    bool adds = false;
    float rate = 1;  // where it adds
    const float* live = nullptr;  // as C, 0 or 1; null for 1
    const float* bias = nullptr;  // of each column; null for 0

    Into from(long down, long right) const {
        const long by = down * row + right;
        return {at + by, row, adds, rate, live ? live + by : nullptr, bias ? bias + right : nullptr};
    }
};

constexpr int WIDEST = REGISTERS == 32 ? 4 : 2;  // vectors side by side in a tile
constexpr int tallest(int width) { return REGISTERS == 32 ? std::min(14, 28 / width) : 12 / width; }
constexpr int TALLEST = tallest(1);
constexpr int TILE_COLUMNS = WIDEST * LANES;

template <int ROWS, int WIDTH>
static void outer_tile(const Left& left, const float* right, long right_row, const Into& into) {
    Vec total[ROWS][WIDTH] = {};
    for (long run = 0; run < left.runs; ++run) {
        const float* a = left.at + run * left.piece;
        for (long k = 0; k < left.length; ++k, a += left.step, right += right_row) {
            Vec b[WIDTH];
            UNROLL for (int n = 0; n < WIDTH; ++n) b[n] = load(right + n * LANES);
            UNROLL for (int m = 0; m < ROWS; ++m) {
                const float value = a[m * left.row];
                UNROLL for (int n = 0; n < WIDTH; ++n) total[m][n] += value * b[n];
            }
        }
    }
    const auto each = [&](auto change) {
        UNROLL for (int m = 0; m < ROWS; ++m)
            UNROLL for (int n = 0; n < WIDTH; ++n) change(total[m][n], m * into.row + n * LANES, n * LANES);
    };
    if (into.live) each([&](Vec& value, long at, long) { value *= load(into.live + at); });
    if (into.bias) each([&](Vec& value, long, long column) { value += load(into.bias + column); });
    if (into.adds)
        each([&](Vec& value, long at, long) { value = multiply_add(into.rate, value, load(into.at + at)); });
    each([&](Vec value, long at, long) { store(into.at + at, value); });
}

using OuterTile = void (*)(const Left&, const float*, long, const Into&);

template <int WIDTH, int... ROWS>
constexpr std::array<OuterTile, TALLEST> outer_column(std::integer_sequence<int, ROWS...>) {
    return {{outer_tile<std::min(ROWS + 1, tallest(WIDTH)), WIDTH>...}};
}

template <int... WIDTHS>
constexpr auto outer_table(std::integer_sequence<int, WIDTHS...>) {
    return std::array<std::array<OuterTile, TALLEST>, WIDEST>{
        {outer_column<WIDTHS + 1>(std::make_integer_sequence<int, TALLEST>())...}};
}

static constexpr auto OUTER = outer_table(std::make_integer_sequence<int, WIDEST>());

// A tile of its own, of which the first `columns` of each of its `rows` go on.
static inline void put(const float* tile, long rows, long columns, const Into& into) {
    for (long m = 0; m < rows; ++m)
        for (long n = 0; n < columns; ++n) {
            const long at = m * into.row + n;
            float value = tile[m * TILE_COLUMNS + n];
            if (into.live) value *= into.live[at];
            if (into.bias) value += into.bias[n];
            into.at[at] = into.adds ? multiply_add(into.rate, value, into.at[at]) : value;
        }
}

struct Nothing {
    void operator()() const {}
};

// `right` is readable up to LANES − 1 floats past its last row. meanwhile() after each tile.
template <class Meanwhile = Nothing>
static void outer(long rows, long columns, Left left, const float* right, long right_row, const Into& into,
                  Meanwhile meanwhile = {}) {
    alignas(64) float tile[TALLEST * TILE_COLUMNS];
    const float* corner = left.at;
    for (long column = 0; column < columns; column += TILE_COLUMNS) {
        const long wide = std::min<long>(TILE_COLUMNS, columns - column);
        const int width = int((wide + LANES - 1) / LANES);
        const long tiles = (rows + tallest(width) - 1) / tallest(width);
        for (long index = 0; index < tiles; ++index) {
            const long row = rows * index / tiles, tall = rows * (index + 1) / tiles - row;
            const OuterTile product = OUTER[width - 1][tall - 1];
            left.at = corner + row * left.row;
            if (wide % LANES == 0) {
                product(left, right + column, right_row, into.from(row, column));
            } else {  // the last vector would reach into C's next row
                product(left, right + column, right_row, {tile, TILE_COLUMNS});
                put(tile, tall, wide, into.from(row, column));
            }
            meanwhile();
        }
    }
}
