// How values lie between layers: places one after another, channels within a place.
//
// In a wide network an image's places are whole vectors, whose last lanes are zero; else they are packed.
#pragma once

#include <algorithm>
#include <type_traits>

#include "job.hpp"
#include "vectors.hpp"

struct Image {
    long channels, places, row;  // row: floats from place to place
    long size() const { return places * row; }
};

static Image image_of(long channels, long height, long width, bool wide) {
    if (height == 0) return {channels, 1, channels};
    return {channels, height * width, wide ? padded(channels) : channels};
}

static Image input_of(const Layer& of, bool wide) { return image_of(of.channels, of.height, of.width, wide); }

static long side_after(long side, const Layer& of) {
    return ((side + 2 * of.padding - of.kernel) / of.stride + 1) / of.pool;
}

static Image output_of(const Layer& of, bool wide) {
    switch (of.kind) {
        case CONVOLUTION:
        case UNFOLDED:
        case DEPTHWISE:
            return image_of(of.outputs, side_after(of.height, of), side_after(of.width, of), wide);
        case DENSE:
        case FLATTEN: return image_of(of.outputs, 0, 0, wide);
        case MEAN: return image_of(of.outputs, of.kernel, of.kernel, wide);
        default: return input_of(of, wide);
    }
}

// What an operation works on: `batch` examples.
struct Forward {
    long batch;
    const float *x, *other, *weights;
    float* y;
};

struct Backward {
    long batch;
    const float *x, *weights;
    const float* gradient;  // of y
    float* into;            // the gradient of x goes here; null if nobody wants it
};

static void copy_places(const float* from, long from_row, float* to, long to_row, long places, long channels) {
    if (from_row == channels && to_row == channels) {
        std::copy_n(from, places * channels, to);
        return;
    }
    for (long place = 0; place < places; ++place) std::copy_n(from + place * from_row, channels, to + place * to_row);
}

// each(number of vectors as a type, first channel) over the vectors of a place, up to four at a time.
template <class Each>
static void over_row(long row, Each each) {
    for (long at = 0; at < row; at += 4 * LANES) switch (std::min((row - at) / LANES, 4L)) {
            case 4: each(std::integral_constant<int, 4>(), at); break;
            case 3: each(std::integral_constant<int, 3>(), at); break;
            case 2: each(std::integral_constant<int, 2>(), at); break;
            default: each(std::integral_constant<int, 1>(), at);
        }
}

static inline Vec activated(int64_t activation, Vec value) {
    if (activation == NONE) return value;
    value = value < 0 ? Vec{} : value;
    return activation == RELU6 ? (value > 6 ? Vec{} + 6.0f : value) : value;
}

// The gradient before an activation whose result is `value`.
static inline Vec passed(int64_t activation, Vec value, Vec gradient) {
    if (activation == NONE) return gradient;
    gradient = value > 0 ? gradient : Vec{};
    return activation == RELU6 ? (value < 6 ? gradient : Vec{}) : gradient;
}
