// Convolution of each channel by its own kernel: vectors run over channels, all taps of a 3×3 kernel in registers.
#pragma once

#include <vector>

#include "images.hpp"
#include "products.hpp"

class Depthwise {
public:
    explicit Depthwise(const Layer& of)
        : layer_(of), in_(input_of(of, true)), out_(output_of(of, true)), out_height_(side_after(of.height, of)),
          out_width_(side_after(of.width, of)), line_(( of.width + 2 * of.padding) * in_.row),
          taps_(of.kernel * of.kernel) {
        image_.resize((of.height + 2 * of.padding) * line_);
        image_gradient_.resize(image_.size());
        weight_.resize(taps_ * in_.row);
        total_.resize(weight_.size());
        bias_.resize(in_.row);
        bias_total_.resize(in_.row);
        of_channel_.resize(taps_);
    }

    // The weights (channels, taps) with channels last; gradients to zero.
    void open(const float* weights) {
        for (long c = 0; c < in_.channels; ++c)
            for (long tap = 0; tap < taps_; ++tap)
                weight_[tap * in_.row + c] = weights[layer_.weight + c * taps_ + tap];
        if (layer_.bias >= 0) std::copy_n(weights + layer_.bias, in_.channels, bias_.data());
        std::fill(total_.begin(), total_.end(), 0.0f);
        std::fill(bias_total_.begin(), bias_total_.end(), 0.0f);
    }

    void forward(const Forward& pass) {
        for (long b = 0; b < pass.batch; ++b) {
            pad(pass.x + b * in_.size());
            float* y = pass.y + b * out_.size();
            for (long at = 0; at < out_.size(); at += LANES) store(y + at, load(&bias_[at % in_.row]));
            over_taps([&](auto count, long tap, long at, const long* offset) { filter<count()>(tap, at, offset, y); });
        }
    }

    template <class Learn>
    void backward(const Backward& pass, Learn) {
        for (long b = 0; b < pass.batch; ++b) {
            const float* gradient = pass.gradient + b * out_.size();
            pad(pass.x + b * in_.size());
            over_taps([&](auto count, long tap, long at, const long* offset) {
                add_weights<count()>(tap, at, offset, gradient);
            });
            if (layer_.bias >= 0)
                for (long at = 0; at < out_.size(); at += LANES) {
                    float* to = &bias_total_[at % in_.row];
                    store(to, load(to) + load(gradient + at));
                }
            if (!pass.into) continue;
            std::fill(image_gradient_.begin(), image_gradient_.end(), 0.0f);
            over_taps([&](auto count, long tap, long at, const long* offset) {
                spread_out<count()>(tap, at, offset, gradient);
            });
            float* into = pass.into + b * in_.size();
            const long row = layer_.width * in_.row;
            for (long y = 0; y < layer_.height; ++y) std::copy_n(&image_gradient_[inside(y)], row, into + y * row);
        }
    }

    template <class Learn>
    void close(Learn learn) {
        for (long c = 0; c < in_.channels; ++c) {
            for (long tap = 0; tap < taps_; ++tap) of_channel_[tap] = total_[tap * in_.row + c];
            learn(layer_.weight + c * taps_, of_channel_.data(), taps_);
        }
        if (layer_.bias >= 0) learn(layer_.bias, bias_total_.data(), in_.channels);
    }

private:
    const Layer& layer_;
    const Image in_, out_;
    const long out_height_, out_width_, line_, taps_;  // line_: of the padded image, in floats
    Floats image_, image_gradient_, weight_, total_, bias_, bias_total_, of_channel_;

    long inside(long y) const { return (y + layer_.padding) * line_ + layer_.padding * in_.row; }

    void pad(const float* x) {
        const long row = layer_.width * in_.row;
        for (long y = 0; y < layer_.height; ++y) std::copy_n(x + y * row, row, &image_[inside(y)]);
    }

    // each(number of taps as a type, first tap, channel, the taps' places) for all taps of all vectors of channels.
    template <class Each>
    void over_taps(Each each) const {
        for (long at = 0; at < in_.row; at += LANES) {
            long offset[9];
            const auto place = [&](long tap) {
                return tap / layer_.kernel * line_ + tap % layer_.kernel * in_.row + at;
            };
            if (taps_ == 9) {
                for (long tap = 0; tap < 9; ++tap) offset[tap] = place(tap);
                each(std::integral_constant<int, 9>(), 0L, at, offset);
                continue;
            }
            for (long tap = 0; tap < taps_; ++tap) {
                offset[0] = place(tap);
                each(std::integral_constant<int, 1>(), tap, at, offset);
            }
        }
    }

    // each(where in the padded image its patch begins, where in the output) for all places.
    template <class Each>
    void over_places(long at, Each each) const {
        for (long y = 0; y < out_height_; ++y)
            for (long x = 0; x < out_width_; ++x)
                each((y * line_ + x * in_.row) * layer_.stride, (y * out_width_ + x) * in_.row + at);
    }

    template <int TAPS>
    void filter(long tap, long at, const long* offset, float* y) const {
        Vec w[TAPS];
        UNROLL for (int t = 0; t < TAPS; ++t) w[t] = load(&weight_[(tap + t) * in_.row + at]);
        over_places(at, [&](long from, long to) {
            Vec sum = load(y + to);
            UNROLL for (int t = 0; t < TAPS; ++t) sum += w[t] * load(&image_[from + offset[t]]);
            store(y + to, sum);
        });
    }

    template <int TAPS>
    void add_weights(long tap, long at, const long* offset, const float* gradient) {
        Vec sums[TAPS];
        UNROLL for (int t = 0; t < TAPS; ++t) sums[t] = load(&total_[(tap + t) * in_.row + at]);
        over_places(at, [&](long from, long to) {
            const Vec value = load(gradient + to);
            UNROLL for (int t = 0; t < TAPS; ++t) sums[t] += value * load(&image_[from + offset[t]]);
        });
        UNROLL for (int t = 0; t < TAPS; ++t) store(&total_[(tap + t) * in_.row + at], sums[t]);
    }

    template <int TAPS>
    void spread_out(long tap, long at, const long* offset, const float* gradient) {
        Vec w[TAPS];
        UNROLL for (int t = 0; t < TAPS; ++t) w[t] = load(&weight_[(tap + t) * in_.row + at]);
        over_places(at, [&](long from, long to) {
            const Vec value = load(gradient + to);
            UNROLL for (int t = 0; t < TAPS; ++t) {
                float* place = &image_gradient_[from + offset[t]];
                store(place, load(place) + value * w[t]);
            }
        });
    }
};
