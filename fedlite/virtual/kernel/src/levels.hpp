// How long a payload of fedlite/compress/levels.py is. Its decisions are made here as they are there, and what it
// codes goes to AnsSize in the same order.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "frequencies.hpp"

constexpr int CONTEXTS = 2 * EMPTY - 1;  // as in fedlite/compress/contexts.py
constexpr int ESCAPE = 47, SHORT = 12, BUCKETS = 9;                  // levels.py
constexpr int64_t SYMBOLS_EACH = 256;

// A matrix; where weights are pruned, which ones live.
struct Matrix {
    int64_t rows, columns, words;  // of 64 columns
    const uint64_t* live;          // (rows, words), or null: all
    const int32_t* live_rows;      // (rows), how many, or null
    const int32_t* live_columns;   // (columns)
};

// Where a level that is not zero is, and what: pruned weights are counted in a matrix, but not in the others.
struct Level {
    int32_t place, level;
};

struct Part {
    const Level* levels;
    int64_t count;
};

class LevelsSize {
public:
    LevelsSize(const Limits& limits, const std::vector<Matrix>& matrices, int64_t weights, int64_t others)
        : limits_(limits), matrices_(matrices), others_(others), marks_(new Mark[weights]) {
        int64_t columns = 0, words = 0;
        for (const Matrix& matrix : matrices) {
            columns = std::max(columns, matrix.columns);
            words = std::max(words, matrix.words);
        }
        before_.resize(columns);
        of_class_.resize(EMPTY * words);
        live_before_.resize(EMPTY * words);
    }

    // Bytes of the levels of each matrix, and then of the others.
    int64_t bytes(const std::vector<Part>& parts) {
        coder_.clear();
        raw_ = 0;
        contexts_.clear();
        find_classes(parts);
        int64_t row = 0, column = 0, count = 0;
        for (size_t m = 0; m < matrices_.size(); ++m) {
            gather(matrices_[m], parts[m], rows_.data() + row, columns_.data() + column, signs_.data() + row, count);
            row += matrices_[m].rows;
            column += matrices_[m].columns;
            count += parts[m].count;
        }
        if (others_) gather_others(parts.back(), count);
        count += parts.back().count;
        write_counts();
        write_gaps(count);
        write_values(count);
        return 8 + coder_.bytes(lanes_for(count, SYMBOLS_EACH)) + (raw_ + 7) / 8;
    }

private:
    // A level in the order of contexts and ranks; `sign` is its row's.
    struct Mark {
        int32_t gap;
        int16_t level;
        uint16_t sign, symbol;
    };
    struct Context {
        int64_t total, count;
    };

    const Limits& limits_;
    const std::vector<Matrix>& matrices_;
    const int64_t others_;
    AnsSize coder_;
    int64_t raw_ = 0;
    std::unique_ptr<Mark[]> marks_;
    std::vector<Context> contexts_;
    std::vector<uint8_t> rows_, columns_, signs_, there_, lengths_;
    std::vector<int32_t> row_counts_, negative_, column_counts_, before_, live_before_;
    int64_t live_in_[EMPTY];
    std::vector<uint64_t> of_class_;

    // levels._sides
    void find_classes(const std::vector<Part>& parts) {
        rows_.clear();
        columns_.clear();
        signs_.clear();
        there_.clear();
        for (size_t m = 0; m < matrices_.size(); ++m) {
            const Matrix& matrix = matrices_[m];
            row_counts_.assign(matrix.rows, 0);
            negative_.assign(matrix.rows, 0);
            column_counts_.assign(matrix.columns, 0);
            int64_t row = 0, begin = 0;
            for (int64_t i = 0; i < parts[m].count; ++i) {
                const Level& each = parts[m].levels[i];
                for (; each.place >= begin + matrix.columns; ++row) begin += matrix.columns;
                ++row_counts_[row];
                negative_[row] += each.level < 0;
                ++column_counts_[each.place - begin];
            }
            for (int64_t r = 0; r < matrix.rows; ++r) {
                const int32_t all = row_counts_[r], live = matrix.live ? matrix.live_rows[r] : int32_t(matrix.columns);
                const bool flip = 2 * negative_[r] > all;
                const double share = (flip ? negative_[r] : all - negative_[r]) / double(std::max(all, 1));
                rows_.push_back(class_of(all, live));
                signs_.push_back(uint8_t(2 * reached(limits_.strong, STRENGTHS - 1, share) + flip));
                if (all) there_.push_back(signs_.back());
            }
            for (int64_t c = 0; c < matrix.columns; ++c)
                columns_.push_back(
                    class_of(column_counts_[c], matrix.live ? matrix.live_columns[c] : int32_t(matrix.rows)));
        }
        coder_.code(rows_.data(), int64_t(rows_.size()), CLASSES);
        coder_.code(columns_.data(), int64_t(columns_.size()), CLASSES);
        coder_.code(there_.data(), int64_t(there_.size()), 2 * STRENGTHS);
    }

    uint8_t class_of(int32_t count, int32_t live) const {
        return uint8_t(count ? below<2>(limits_.class_shares, EMPTY - 1, count / double(live)) : EMPTY);
    }

    // Puts a matrix' levels in order behind the first `at` marks.
    void gather(const Matrix& matrix, const Part& part, const uint8_t* rows, const uint8_t* columns,
                const uint8_t* signs, int64_t at) {
        const Level* levels = part.levels;
        const int64_t count = part.count;
        int64_t next[CONTEXTS] = {}, more[CONTEXTS] = {}, ranked[CONTEXTS] = {}, last[CONTEXTS], in_class[CLASSES] = {};
        int64_t row = 0, begin = 0;
        for (int64_t i = 0; i < count; ++i) {
            for (; levels[i].place >= begin + matrix.columns; ++row) begin += matrix.columns;
            ++(i & 1 ? more : next)[rows[row] + columns[levels[i].place - begin]];
        }
        const size_t first = contexts_.size();
        for (int c = 0; c < CONTEXTS; ++c) {
            contexts_.push_back({0, next[c] + more[c]});
            next[c] = at;
            at += contexts_.back().count;
        }
        std::fill_n(last, CONTEXTS, -1);
        for (int64_t c = 0; c < matrix.columns; ++c) before_[c] = int32_t(in_class[columns[c]]++);
        if (matrix.live) split(matrix, columns);
        row = begin = 0;
        for (int64_t i = 0; i < count; ++row, begin += matrix.columns) {
            const int first_context = rows[row];
            if (first_context == EMPTY) continue;
            if (matrix.live) count_live(matrix, row, in_class);
            for (; i < count && levels[i].place < begin + matrix.columns; ++i) {
                const int64_t column = levels[i].place - begin;
                const int of = columns[column], context = first_context + of;
                const int64_t rank = ranked[context] + (matrix.live ? live_before(matrix, row, column, of) : before_[column]);
                marks_[next[context]++] = {int32_t(rank - last[context] - 1), int16_t(levels[i].level), signs[row], 0};
                last[context] = rank;
            }
            for (int of = 0; of < EMPTY; ++of) ranked[first_context + of] += matrix.live ? live_in_[of] : in_class[of];
        }
        for (int c = 0; c < CONTEXTS; ++c) contexts_[first + c].total = ranked[c];
    }

    // Which columns are in each class, as bits.
    void split(const Matrix& matrix, const uint8_t* columns) {
        std::fill(of_class_.begin(), of_class_.end(), 0);
        for (int64_t c = 0; c < matrix.columns; ++c)
            if (columns[c] != EMPTY) of_class_[columns[c] * matrix.words + c / 64] |= uint64_t(1) << c % 64;
    }

    // Of each class that has columns, a row's live weights: all of them, and those before each word.
    void count_live(const Matrix& matrix, int64_t row, const int64_t* in_class) {
        const uint64_t* live = matrix.live + row * matrix.words;
        for (int of = 0; of < EMPTY; ++of) {
            live_in_[of] = 0;
            if (!in_class[of]) continue;
            const uint64_t* columns = of_class_.data() + of * matrix.words;
            int32_t* before = live_before_.data() + of * matrix.words;
            for (int64_t w = 0; w < matrix.words; ++w) before[w] = __builtin_popcountll(live[w] & columns[w]);
            for (int64_t w = 0; w < matrix.words; ++w) {
                live_in_[of] += before[w];
                before[w] = int32_t(live_in_[of] - before[w]);
            }
        }
    }

    // Live weights of the column's class that are before it in the row which was counted.
    int64_t live_before(const Matrix& matrix, int64_t row, int64_t column, int of) const {
        const int64_t word = column / 64;
        const uint64_t both = matrix.live[row * matrix.words + word] & of_class_[of * matrix.words + word];
        return live_before_[of * matrix.words + word] + __builtin_popcountll(both & ((uint64_t(1) << column % 64) - 1));
    }

    void gather_others(const Part& part, int64_t at) {
        contexts_.push_back({others_, part.count});
        for (int64_t i = 0, next = 0; i < part.count; ++i) {
            const Level& each = part.levels[i];
            marks_[at + i] = {int32_t(each.place - next), int16_t(each.level), 0, 0};
            next = each.place + 1;
        }
    }

    // levels._counts
    void write_counts() {
        lengths_.clear();
        for (const Context& context : contexts_) {
            if (!context.total) continue;
            lengths_.push_back(uint8_t(bit_length(context.count)));
            raw_ += std::max(int64_t(lengths_.back()) - 1, int64_t(0));
        }
        coder_.code(lengths_.data(), int64_t(lengths_.size()), 32);
    }

    // levels._order
    void write_gaps(int64_t count) {
        Tables<BUCKETS> tables;
        int64_t at = 0, raw = 0;
        for (const Context& context : contexts_) {
            if (!context.count) continue;
            const int64_t length = bit_length(16 * (context.total - context.count) / context.count);
            const int64_t cut = std::max(length - 7, int64_t(0)), bucket = std::min(length, int64_t(BUCKETS - 1));
            raw += cut * context.count;
            for (const int64_t stop = at + context.count; at < stop; ++at) {
                const int64_t high = marks_[at].gap >> cut, symbol = std::min(high, int64_t(ESCAPE));
                if (high >= ESCAPE) raw += 5 + bit_length(high - ESCAPE);
                marks_[at].symbol = uint16_t(bucket * WIDTH + symbol);
                tables.note(at, marks_[at].symbol);
            }
        }
        raw_ += raw;
        tables.send(coder_, limits_);
        write(tables.symbols, count);
    }

    // levels._values
    void write_values(int64_t count) {
        Tables<GROUPS * STRENGTHS> tables;
        int64_t at = 0, raw = 0;
        lengths_.clear();
        for (const Context& context : contexts_) {
            if (!context.count) continue;
            int64_t sum = 0;
            for (int64_t i = at; i < at + context.count; ++i) sum += std::abs(int(marks_[i].level));
            const int group = reached(limits_.group_means, GROUPS - 1, double(sum) / double(context.count));
            lengths_.push_back(uint8_t(group));
            for (const int64_t stop = at + context.count; at < stop; ++at) {
                Mark& mark = marks_[at];
                const int size = std::abs(int(mark.level)), octave = int(bit_length(std::max(size - SHORT, 1))) - 1;
                const int kind = size <= SHORT ? size - 1 : SHORT + octave;
                const int symbol = 2 * kind + ((mark.level < 0) ^ (mark.sign & 1));
                if (size > SHORT) raw += octave;
                mark.symbol = uint16_t((group * STRENGTHS + (mark.sign >> 1)) * WIDTH + symbol);
                tables.note(at, mark.symbol);
            }
        }
        raw_ += raw;
        coder_.code(lengths_.data(), int64_t(lengths_.size()), GROUPS);
        tables.send(coder_, limits_);
        write(tables.symbols, count);
    }

    // One block of the symbols that were noted.
    void write(const uint32_t* symbols, int64_t count) {
        uint32_t* block = coder_.block(count);
        for (int64_t i = 0; i < count; ++i) block[i] = symbols[marks_[i].symbol];
    }
};
