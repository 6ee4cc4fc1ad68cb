// Convolution as dense products over all places, for gradients that are dense too.
//
// Patches (places, length) times weights (length, outputs). A 1×1 convolution's patches are its input itself.
#pragma once

#include <vector>

#include "images.hpp"
#include "outer.hpp"

class Unfolded {
public:
    explicit Unfolded(const Layer& of)
        : layer_(of), in_(input_of(of, true)), out_(output_of(of, true)), width_(side_after(of.width, of)),
          length_(of.kernel * of.kernel * of.channels), patch_row_(padded(length_)),
          direct_(of.kernel == 1 && of.stride == 1 && of.padding == 0),
          turned_(patch_row_ * of.outputs > length_ * out_.row) {
        by_place_.resize(length_ * out_.row);
        by_output_.resize(of.outputs * patch_row_);
        total_.resize(turned_ ? length_ * out_.row : of.outputs * patch_row_);
        bias_.resize(out_.row);
        bias_total_.resize(out_.row);
        line_.resize(patch_row_);
        if (!direct_) patches_.resize(out_.places * patch_row_ + LANES);
        if (!direct_) patch_gradients_.resize(out_.places * patch_row_);
    }

    // The weights (outputs, length) in the two forms the products want; gradients to zero.
    void open(const float* weights) {
        const float* weight = weights + layer_.weight;
        for (long first = 0; first < layer_.outputs; first += LANES) {
            const long last = std::min<long>(first + LANES, layer_.outputs);
            for (long k = 0; k < length_; ++k)
                for (long o = first; o < last; ++o) by_place_[k * out_.row + o] = weight[o * length_ + k];
        }
        copy_places(weight, length_, by_output_.data(), patch_row_, layer_.outputs, length_);
        if (layer_.bias >= 0) std::copy_n(weights + layer_.bias, layer_.outputs, bias_.data());
        std::fill(total_.begin(), total_.end(), 0.0f);
        std::fill(bias_total_.begin(), bias_total_.end(), 0.0f);
    }

    void forward(const Forward& pass) {
        for (long b = 0; b < pass.batch; ++b) {
            unfolded_ = nullptr;  // other numbers may be where the last ones were
            const Left rows{patches(pass.x + b * in_.size()), patch_row_, 0, 1, 1, length_};
            float* y = pass.y + b * out_.size();
            outer(out_.places, out_.row, rows, by_place_.data(), out_.row,
                  {y, out_.row, false, 1, nullptr, bias_.data()});
        }
    }

    template <class Learn>
    void backward(const Backward& pass, Learn) {
        for (long b = 0; b < pass.batch; ++b) {
            const float* gradient = pass.gradient + b * out_.size();
            add_weights(patches(pass.x + b * in_.size()), gradient);
            if (layer_.bias >= 0) add_bias(gradient);
            if (!pass.into) continue;
            float* into = pass.into + b * in_.size();
            to_patches(gradient, direct_ ? into : patch_gradients_.data());
            if (!direct_) fold(into);
        }
    }

    template <class Learn>
    void close(Learn learn) {
        for (long o = 0; o < layer_.outputs; ++o) {
            if (turned_)
                for (long k = 0; k < length_; ++k) line_[k] = total_[k * out_.row + o];
            learn(layer_.weight + o * length_, turned_ ? line_.data() : &total_[o * patch_row_], length_);
        }
        if (layer_.bias >= 0) learn(layer_.bias, bias_total_.data(), layer_.outputs);
    }

private:
    const Layer& layer_;
    const Image in_, out_;
    const long width_, length_, patch_row_;
    const bool direct_;
    const bool turned_;  // whether the weights' gradients fill vectors better as (length, outputs)
    const float* unfolded_ = nullptr;  // whose patches are there
    Floats by_place_, by_output_, total_, bias_, bias_total_, line_, patches_, patch_gradients_;

    // each(where in the patches, where in the image) for all runs of channels of patches that are inside the image.
    template <class Each>
    void over_patches(Each each) const {
        long patch = 0;
        for (long top = -layer_.padding; patch < out_.places * patch_row_; top += layer_.stride)
            for (long place = 0, left = -layer_.padding; place < width_; ++place, left += layer_.stride) {
                for (long dy = 0; dy < layer_.kernel; ++dy)
                    for (long dx = 0; dx < layer_.kernel; ++dx) {
                        const long y = top + dy, x = left + dx;
                        if (y >= 0 && y < layer_.height && x >= 0 && x < layer_.width)
                            each(patch + (dy * layer_.kernel + dx) * layer_.channels,
                                 (y * layer_.width + x) * in_.row);
                    }
                patch += patch_row_;
            }
    }

    // Whole vectors are copied: the zeros behind a place's channels are written over by the next run, or belong.
    const float* patches(const float* x) {
        if (direct_) return x;
        if (x == unfolded_) return patches_.data();
        unfolded_ = x;
        over_patches([&](long at, long from) {
            for (long c = 0; c < in_.row; c += LANES) store(&patches_[at + c], load(x + from + c));
        });
        return patches_.data();
    }

    void fold(float* into) const {
        std::fill_n(into, in_.size(), 0.0f);
        over_patches([&](long at, long to) {
            for (long c = 0; c < layer_.channels; ++c) into[to + c] += patch_gradients_[at + c];
        });
    }

    void to_patches(const float* gradient, float* into) const {
        outer(out_.places, patch_row_, {gradient, out_.row, 0, 1, 1, layer_.outputs}, by_output_.data(), patch_row_,
              {into, patch_row_});
    }

    void add_weights(const float* patch, const float* gradient) {
        const long rows = turned_ ? length_ : layer_.outputs, columns = turned_ ? out_.row : patch_row_;
        const Left left{turned_ ? patch : gradient, 1, 0, turned_ ? patch_row_ : out_.row, 1, out_.places};
        outer(rows, columns, left, turned_ ? gradient : patch, columns,
              {total_.data(), columns, true});
    }

    void add_bias(const float* gradient) {
        for (long place = 0; place < out_.places; ++place)
            for (long o = 0; o < out_.row; o += LANES)
                store(&bias_total_[o], load(&bias_total_[o]) + load(gradient + place * out_.row + o));
    }
};
