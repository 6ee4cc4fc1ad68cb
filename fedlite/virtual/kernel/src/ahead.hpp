// Examples of the next batch, asked of memory while this one learns: they lie far apart, and would be waited for.
#pragma once

#include <cstdint>

class Ahead {
public:
    // From now on, these `count` examples of `size` floats: x[chosen[0]], x[chosen[1]], …
    void plan(const float* x, const int64_t* chosen, long count, long size) {
        x_ = x, chosen_ = chosen, left_ = count, size_ = size, at_ = 0;
    }

    // The next lines of them, as many as a tile's product leaves time for.
    void ask() {
        for (int line = 0; line < LINES && left_ > 0; ++line) {
            __builtin_prefetch(x_ + *chosen_ * size_ + at_, 0, 2);
            at_ += LINE;
            if (at_ < size_) continue;
            at_ = 0, ++chosen_, --left_;
        }
    }

private:
    static constexpr long LINE = 16, LINES = 16;  // floats of one; how many at once
    const float* x_ = nullptr;
    const int64_t* chosen_ = nullptr;
    long left_ = 0, size_ = 0, at_ = 0;
};
