// The two small matrix products everything here is made of, computed tile by tile in registers.
//
// outer: C[m][n] = sum over k of A[m, k] · B[k][n]   rows of B are contiguous: vectors run over n
// inner: C[m][n] = sum over k of A[m][k] · B[n][k]   rows of both are contiguous: vectors run over k
//
// The sum over k has one fixed order. A tile is given to `take` while it is still in the first-level cache.
#pragma once

#include <algorithm>
#include <array>
#include <utility>

#include "vectors.hpp"

#define UNROLL _Pragma("GCC unroll 32")

// A(m, k) of an outer product; k runs over `runs` pieces of `length`, so that a patch of an image is a row of A.
struct Left {
    const float* at;
    long row, piece, step;  // distance between rows, between pieces, within a piece
    long runs, length;
};

constexpr int WIDEST = REGISTERS == 32 ? 4 : 2;  // vectors side by side in an outer tile
constexpr int tallest(int width) { return REGISTERS == 32 ? std::min(14, 28 / width) : 12 / width; }
constexpr int TALLEST = tallest(1);
constexpr int TILE_COLUMNS = WIDEST * LANES;

template <int ROWS, int WIDTH>
static void outer_tile(const Left& left, const float* right, long right_row, float* tile) {
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
    UNROLL for (int m = 0; m < ROWS; ++m)
        UNROLL for (int n = 0; n < WIDTH; ++n) store(tile + m * TILE_COLUMNS + n * LANES, total[m][n]);
}

using OuterTile = void (*)(const Left&, const float*, long, float*);

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

// take(row, column, rows, columns, tile) for each tile; a tile's rows are TILE_COLUMNS apart.
// `right` is readable up to LANES − 1 floats past its last row.
template <class Take>
static void outer(long rows, long columns, Left left, const float* right, long right_row, Take take) {
    alignas(64) float tile[TALLEST * TILE_COLUMNS];
    const float* corner = left.at;
    for (long column = 0; column < columns; column += TILE_COLUMNS) {
        const long wide = std::min<long>(TILE_COLUMNS, columns - column);
        const int width = int((wide + LANES - 1) / LANES);
        const long tiles = (rows + tallest(width) - 1) / tallest(width);
        for (long index = 0; index < tiles; ++index) {
            const long row = rows * index / tiles, tall = rows * (index + 1) / tiles - row;
            left.at = corner + row * left.row;
            OUTER[width - 1][tall - 1](left, right + column, right_row, tile);
            take(row, column, tall, wide, tile);
        }
    }
}

constexpr int INNER_ROWS = REGISTERS == 32 ? 5 : 3, INNER_COLUMNS = REGISTERS == 32 ? 4 : 3;

template <int ROWS, int COLUMNS>
static void inner_tile(const float* left, long left_row, const float* right, long right_row, long length,
                       float* tile) {
    Vec total[ROWS][COLUMNS] = {};
    const long whole = length / LANES * LANES;
    for (long k = 0; k < whole; k += LANES) {
        Vec b[COLUMNS];
        UNROLL for (int n = 0; n < COLUMNS; ++n) b[n] = load(right + n * right_row + k);
        UNROLL for (int m = 0; m < ROWS; ++m) {
            const Vec a = load(left + m * left_row + k);
            UNROLL for (int n = 0; n < COLUMNS; ++n) total[m][n] += a * b[n];
        }
    }
    if (const long rest = length - whole; rest > 0) {
        Vec b[COLUMNS];
        UNROLL for (int n = 0; n < COLUMNS; ++n) b[n] = load_some(right + n * right_row + whole, rest);
        UNROLL for (int m = 0; m < ROWS; ++m) {
            const Vec a = load_some(left + m * left_row + whole, rest);
            UNROLL for (int n = 0; n < COLUMNS; ++n) total[m][n] += a * b[n];
        }
    }
    UNROLL for (int m = 0; m < ROWS; ++m)
        UNROLL for (int n = 0; n < COLUMNS; ++n) tile[m * INNER_COLUMNS + n] = sum(total[m][n]);
}

using InnerTile = void (*)(const float*, long, const float*, long, long, float*);

template <int... INDEX>
constexpr auto inner_table(std::integer_sequence<int, INDEX...>) {
    return std::array<InnerTile, sizeof...(INDEX)>{
        {inner_tile<INDEX / INNER_COLUMNS + 1, INDEX % INNER_COLUMNS + 1>...}};
}

static constexpr auto INNER = inner_table(std::make_integer_sequence<int, INNER_ROWS * INNER_COLUMNS>());

// C (rows, columns), its rows `columns` apart; `start` is what each column begins with, or null for 0.
static void inner(long rows, long columns, long length, const float* left, const float* right,
                  const float* start, float* result) {
    float tile[INNER_ROWS * INNER_COLUMNS];
    for (long column = 0; column < columns; column += INNER_COLUMNS) {
        const long wide = std::min<long>(INNER_COLUMNS, columns - column);
        for (long row = 0; row < rows; row += INNER_ROWS) {
            const long tall = std::min<long>(INNER_ROWS, rows - row);
            INNER[(tall - 1) * INNER_COLUMNS + wide - 1](left + row * length, length, right + column * length,
                                                         length, length, tile);
            for (long m = 0; m < tall; ++m)
                for (long n = 0; n < wide; ++n)
                    result[(row + m) * columns + column + n] =
                        tile[m * INNER_COLUMNS + n] + (start ? start[column + n] : 0.0f);
        }
    }
}
