// Convolution of each channel by its own kernel: vectors run over channels, all taps of a 3×3 kernel in registers.
#pragma once

#include <vector>

#include "images.hpp"
#include "vectors.hpp"

// The rows under a kernel of an image with a border of zeros: few enough for the first-level cache.
class Window {
public:
    Window(long height, long width, long row, long kernel, long border)
        : height_(height), width_(width), row_(row), kernel_(kernel), border_(border),
          line_((width + 2 * border) * row), values_(kernel * line_), taps_(kernel * kernel) {}

    void start(const float* image) {
        image_ = image;
        next_ = 0;
    }

    // Goes down until the kernel's first row is `top`. Where its taps lie is in `taps`.
    void reach(long top) {
        for (; next_ < top + kernel_; ++next_) {
            float* line = &values_[next_ % kernel_ * line_];
            const long y = next_ - border_;
            if (y >= 0 && y < height_)
                std::copy_n(image_ + y * width_ * row_, width_ * row_, line + border_ * row_);
            else
                std::fill_n(line, line_, 0.0f);
        }
        for (long dy = 0; dy < kernel_; ++dy)
            for (long dx = 0; dx < kernel_; ++dx)
                taps_[dy * kernel_ + dx] = (top + dy) % kernel_ * line_ + dx * row_;
    }

    const float* values() const { return values_.data(); }
    const long* taps() const { return taps_.data(); }

private:
    const long height_, width_, row_, kernel_, border_, line_;
    Floats values_;
    std::vector<long> taps_;
    const float* image_ = nullptr;
    long next_ = 0;
};

class Depthwise {
public:
    explicit Depthwise(const Layer& of)
        : layer_(of), in_(input_of(of, true)), out_(output_of(of, true)), out_height_(side_after(of.height, of)),
          out_width_(side_after(of.width, of)), taps_(of.kernel * of.kernel),
          turns_(of.stride == 1 && of.padding < of.kernel), line_((of.width + 2 * of.padding) * in_.row),
          window_(of.height, of.width, in_.row, of.kernel, of.padding),
          gradients_(out_height_, out_width_, in_.row, of.kernel, turns_ ? of.kernel - 1 - of.padding : 0) {
        if (!turns_) image_gradient_.resize((of.height + 2 * of.padding) * line_);
        for (long tap = 0; tap < taps_; ++tap)
            spread_.push_back(tap / of.kernel * line_ + tap % of.kernel * in_.row);
        weight_.resize(taps_ * in_.row);
        turned_.resize(taps_ * in_.row);
        total_.resize(taps_ * in_.row);
        bias_.resize(in_.row);
        none_.resize(in_.row);
        bias_total_.resize(in_.row);
        of_channel_.resize(taps_);
    }

    // The weights (channels, taps) with channels last; gradients to zero.
    void open(const float* weights) {
        for (long c = 0; c < in_.channels; ++c)
            for (long tap = 0; tap < taps_; ++tap) {
                const float weight = weights[layer_.weight + c * taps_ + tap];
                weight_[tap * in_.row + c] = turned_[(taps_ - 1 - tap) * in_.row + c] = weight;
            }
        if (layer_.bias >= 0) std::copy_n(weights + layer_.bias, in_.channels, bias_.data());
        std::fill(total_.begin(), total_.end(), 0.0f);
        std::fill(bias_total_.begin(), bias_total_.end(), 0.0f);
    }

    void forward(const Forward& pass) {
        for (long b = 0; b < pass.batch; ++b) {
            window_.start(pass.x + b * in_.size());
            filter(window_, layer_.stride, weight_, bias_, out_height_, out_width_, pass.y + b * out_.size());
        }
    }

    template <class Learn>
    void backward(const Backward& pass, Learn) {
        for (long b = 0; b < pass.batch; ++b) {
            const float* gradient = pass.gradient + b * out_.size();
            window_.start(pass.x + b * in_.size());
            for (long y = 0; y < out_height_; ++y) {
                window_.reach(y * layer_.stride);
                over_taps([&](auto count, long at, long tap) {
                    add_weights<count()>(at, tap, gradient + y * out_width_ * in_.row + at);
                });
            }
            if (layer_.bias >= 0) add_bias(gradient);
            if (pass.into) to_input(gradient, pass.into + b * in_.size());
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
    const long out_height_, out_width_, taps_;
    const bool turns_;  // the input's gradient is then the turned kernel's filter on the output's
    const long line_;   // of the input with its border, in floats
    Window window_, gradients_;
    std::vector<long> spread_;  // where taps lie in image_gradient_
    Floats image_gradient_;  // of the input with its border
    Floats weight_, turned_, total_, bias_, none_, bias_total_, of_channel_;

    // each(number of taps as a type, channel, first tap) over vectors of channels, and taps.
    template <class Each>
    void over_taps(Each each) const {
        for (long at = 0; at < in_.row; at += LANES) {
            if (taps_ == 9)
                each(std::integral_constant<int, 9>(), at, 0L);
            else
                for (long tap = 0; tap < taps_; ++tap) each(std::integral_constant<int, 1>(), at, tap);
        }
    }

    void filter(Window& window, long stride, const Floats& weight, const Floats& bias, long height, long width,
                float* out) const {
        for (long y = 0; y < height; ++y, out += width * in_.row) {
            window.reach(y * stride);
            over_taps([&](auto count, long at, long tap) {
                filter_row<count()>(window.values() + at, window.taps() + tap, stride * in_.row,
                                    &weight[tap * in_.row + at], tap == 0 ? &bias[at] : nullptr, out + at, width);
            });
        }
    }

    // Adds to what is in `out`, or to the bias.
    template <int TAPS>
    void filter_row(const float* from, const long* taps, long step, const float* weight, const float* bias, float* out,
                    long width) const {
        const long row = in_.row;
        long offset[TAPS];
        Vec w[TAPS];
        UNROLL for (int t = 0; t < TAPS; ++t) offset[t] = taps[t];
        UNROLL for (int t = 0; t < TAPS; ++t) w[t] = load(weight + t * row);
        for (long x = 0; x < width; ++x, from += step, out += row) {
            Vec sum = load(bias ? bias : out);
            UNROLL for (int t = 0; t < TAPS; ++t) sum += w[t] * load(from + offset[t]);
            store(out, sum);
        }
    }

    template <int TAPS>
    void add_weights(long at, long tap, const float* gradient) {
        const float* from = window_.values() + at;
        float* total = &total_[tap * in_.row + at];
        long offset[TAPS];
        Vec sums[TAPS];
        UNROLL for (int t = 0; t < TAPS; ++t) offset[t] = window_.taps()[tap + t];
        UNROLL for (int t = 0; t < TAPS; ++t) sums[t] = load(total + t * in_.row);
        for (long x = 0; x < out_width_; ++x, from += layer_.stride * in_.row, gradient += in_.row) {
            const Vec value = load(gradient);
            UNROLL for (int t = 0; t < TAPS; ++t) sums[t] += value * load(from + offset[t]);
        }
        UNROLL for (int t = 0; t < TAPS; ++t) store(total + t * in_.row, sums[t]);
    }

    void add_bias(const float* gradient) {
        for (long place = 0; place < out_.places; ++place)
            for (long at = 0; at < in_.row; at += LANES)
                store(&bias_total_[at], load(&bias_total_[at]) + load(gradient + place * in_.row + at));
    }

    void to_input(const float* gradient, float* into) {
        if (turns_) {
            gradients_.start(gradient);
            filter(gradients_, 1, turned_, none_, layer_.height, layer_.width, into);
            return;
        }
        std::fill(image_gradient_.begin(), image_gradient_.end(), 0.0f);
        for (long y = 0; y < out_height_; ++y)
            over_taps([&](auto count, long at, long tap) {
                spread_out<count()>(&image_gradient_[y * layer_.stride * line_ + at], &weight_[tap * in_.row + at],
                                    &spread_[tap], gradient + y * out_width_ * in_.row + at);
            });
        const long row = layer_.width * in_.row;
        for (long y = 0; y < layer_.height; ++y)
            std::copy_n(&image_gradient_[(y + layer_.padding) * line_ + layer_.padding * in_.row], row, into + y * row);
    }

    template <int TAPS>
    void spread_out(float* to, const float* weight, const long* taps, const float* gradient) const {
        long offset[TAPS];
        Vec w[TAPS];
        UNROLL for (int t = 0; t < TAPS; ++t) offset[t] = taps[t];
        UNROLL for (int t = 0; t < TAPS; ++t) w[t] = load(weight + t * in_.row);
        for (long x = 0; x < out_width_; ++x, to += layer_.stride * in_.row, gradient += in_.row) {
            const Vec value = load(gradient);
            UNROLL for (int t = 0; t < TAPS; ++t) store(to + offset[t], load(to + offset[t]) + value * w[t]);
        }
    }
};
