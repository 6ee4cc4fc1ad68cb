// Operations without weights.
#pragma once

#include <vector>

#include "images.hpp"

struct Weightless {
    void open(const float*) {}
    template <class Learn>
    void close(Learn) {}
};

static void channels_last(const float* from, const Image& image, float* to) {
    for (long place = 0; place < image.places; ++place)
        for (long c = 0; c < image.channels; ++c) to[place * image.row + c] = from[c * image.places + place];
}

static void channels_first(const float* from, const Image& image, float* to) {
    for (long c = 0; c < image.channels; ++c)
        for (long place = 0; place < image.places; ++place) to[c * image.places + place] = from[place * image.row + c];
}

class Flatten : public Weightless {
public:
    Flatten(const Layer& of, bool wide) : in_(input_of(of, wide)), size_(of.outputs) {}

    void forward(const Forward& pass) {
        for (long b = 0; b < pass.batch; ++b) channels_first(pass.x + b * in_.size(), in_, pass.y + b * size_);
    }

    template <class Learn>
    void backward(const Backward& pass, Learn) {
        for (long b = 0; pass.into && b < pass.batch; ++b)
            channels_last(pass.gradient + b * size_, in_, pass.into + b * in_.size());
    }

private:
    const Image in_;
    const long size_;
};

// Over all places of an image.
class Mean : public Weightless {
public:
    explicit Mean(const Layer& of) : in_(input_of(of, true)), out_(output_of(of, true)) {}

    void forward(const Forward& pass) {
        Floats sums(in_.row);
        for (long b = 0; b < pass.batch; ++b) {
            std::fill(sums.begin(), sums.end(), 0.0f);
            const float* x = pass.x + b * in_.size();
            for (long place = 0; place < in_.places; ++place)
                for (long c = 0; c < in_.row; c += LANES)
                    store(&sums[c], load(&sums[c]) + load(x + place * in_.row + c));
            for (long c = 0; c < in_.channels; ++c) pass.y[b * out_.row + c] = sums[c] / float(in_.places);
        }
    }

    template <class Learn>
    void backward(const Backward& pass, Learn) {
        for (long b = 0; pass.into && b < pass.batch; ++b)
            for (long place = 0; place < in_.places; ++place)
                for (long c = 0; c < in_.channels; ++c)
                    pass.into[b * in_.size() + place * in_.row + c] =
                        pass.gradient[b * out_.row + c] / float(in_.places);
    }

private:
    const Image in_, out_;
};

// Of one value or two; the gradient of both is that of the sum, which the network hands on.
class Sum : public Weightless {
public:
    Sum(const Layer& of, bool wide) : size_(input_of(of, wide).size()) {}

    void forward(const Forward& pass) {
        for (long i = 0; i < pass.batch * size_; ++i) pass.y[i] = pass.x[i] + (pass.other ? pass.other[i] : 0.0f);
    }

    template <class Learn>
    void backward(const Backward& pass, Learn) {
        if (pass.into && pass.into != pass.gradient) std::copy_n(pass.gradient, pass.batch * size_, pass.into);
    }

private:
    const long size_;
};
