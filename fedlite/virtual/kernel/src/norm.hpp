// GroupNorm of images, its activation folded in: y = activation((x − mean) / √(variance + ε) · weight + bias),
// mean and (biased) variance over the places and channels of a group.  (Wu & He 2018, eq. 1–3, 7)
#pragma once

#include <cmath>
#include <vector>

#include "images.hpp"
#include "vectors.hpp"

class Norm {
public:
    Norm(const Layer& of, long batch)
        : layer_(of), in_(input_of(of, true)), channels_(in_.channels / of.groups), mean_(batch * in_.row),
          factor_(batch * in_.row), weight_(in_.row), bias_(in_.row), scale_(in_.row), shift_(in_.row),
          first_(in_.row), second_(in_.row), weight_total_(in_.row), bias_total_(in_.row),
          sums_(in_.row), squares_(in_.row) {}

    void open(const float* weights) {
        for (long c = 0; c < in_.channels; ++c) {
            weight_[c] = layer_.weight >= 0 ? weights[layer_.weight + c] : 1.0f;
            bias_[c] = layer_.bias >= 0 ? weights[layer_.bias + c] : 0.0f;
        }
        std::fill(weight_total_.begin(), weight_total_.end(), 0.0f);
        std::fill(bias_total_.begin(), bias_total_.end(), 0.0f);
    }

    void forward(const Forward& pass) {
        for (long b = 0; b < pass.batch; ++b) {
            const float* x = pass.x + b * in_.size();
            float* y = pass.y + b * in_.size();
            measure(x, &mean_[b * in_.row], &factor_[b * in_.row]);
            settle(b);
            with_activation([&](auto activation) {
                over_row(in_.row, [&](auto width, long at) { apply<activation(), width()>(x, at, y); });
            });
        }
    }

    // `into` may be `gradient`.
    template <class Learn>
    void backward(const Backward& pass, Learn) {
        for (long b = 0; b < pass.batch; ++b) {
            const float *x = pass.x + b * in_.size(), *gradient = pass.gradient + b * in_.size();
            settle(b);
            with_activation([&](auto activation) {
                const float* mean = &mean_[b * in_.row];
                over_row(in_.row, [&](auto width, long at) {
                    add_sums<activation(), width()>(x, gradient, mean, at);
                });
                combine(b);
                if (float* into = pass.into ? pass.into + b * in_.size() : nullptr)
                    over_row(in_.row, [&](auto width, long at) {
                        to_input<activation(), width()>(x, gradient, mean, at, into);
                    });
            });
        }
    }

    template <class Learn>
    void close(Learn learn) {
        if (layer_.weight >= 0) learn(layer_.weight, weight_total_.data(), in_.channels);
        if (layer_.bias >= 0) learn(layer_.bias, bias_total_.data(), in_.channels);
    }

private:
    static constexpr long BLOCK = 128;  // places that are summed in float32, before double takes over

    const Layer& layer_;
    const Image in_;
    const long channels_;         // of a group
    Floats mean_, factor_;        // (batch, row): of a channel's group; factor: 1 / √(variance + ε)
    Floats weight_, bias_;        // zero in lanes that hold no channel, as all that is computed from them
    Floats scale_, shift_;        // y = x · scale + shift, before the activation
    Floats first_, second_;       // sums over places by channel, or what groups make of them
    Floats weight_total_, bias_total_;
    std::vector<double> sums_, squares_;

    template <class Each>
    void with_activation(Each each) const {
        if (layer_.activation == RELU6) return each(std::integral_constant<int64_t, RELU6>());
        if (layer_.activation == RELU) return each(std::integral_constant<int64_t, RELU>());
        each(std::integral_constant<int64_t, NONE>());
    }

    template <int WIDTH>
    static void read(const float* from, Vec* to) {
        UNROLL for (int v = 0; v < WIDTH; ++v) to[v] = load(from + v * LANES);
    }

    template <int64_t ACTIVATION, int WIDTH>
    void apply(const float* x, long at, float* y) const {
        Vec scale[WIDTH], shift[WIDTH];
        read<WIDTH>(&scale_[at], scale);
        read<WIDTH>(&shift_[at], shift);
        for (long i = at; i < in_.size(); i += in_.row)
            UNROLL for (int v = 0; v < WIDTH; ++v)
                store(y + i + v * LANES, activated(ACTIVATION, load(x + i + v * LANES) * scale[v] + shift[v]));
    }

    static void add_lanes(Vec value, double* __restrict to) {
        float lanes[LANES];
        store(lanes, value);
        for (int lane = 0; lane < LANES; ++lane) to[lane] += lanes[lane];
    }

    // Sums of distances from each channel's first value, and of their squares: small numbers, where those of the
    // values themselves might cancel.
    template <int WIDTH>
    void add_distances(const float* x, long at) {
        Vec origin[WIDTH];
        read<WIDTH>(x + at, origin);
        for (long begin = 0; begin < in_.places; begin += BLOCK) {
            const long end = std::min(begin + BLOCK, in_.places);
            Vec sum[WIDTH] = {}, square[WIDTH] = {};
            for (long place = begin; place < end; ++place)
                UNROLL for (int v = 0; v < WIDTH; ++v) {
                    const Vec apart = load(x + place * in_.row + at + v * LANES) - origin[v];
                    sum[v] += apart;
                    square[v] += apart * apart;
                }
            for (int v = 0; v < WIDTH; ++v) {
                add_lanes(sum[v], &sums_[at + v * LANES]);
                add_lanes(square[v], &squares_[at + v * LANES]);
            }
        }
    }

    void measure(const float* x, float* mean, float* factor) {
        std::fill(sums_.begin(), sums_.end(), 0.0);
        std::fill(squares_.begin(), squares_.end(), 0.0);
        over_row(in_.row, [&](auto width, long at) { add_distances<width()>(x, at); });
        const double share = 1 / double(in_.places);
        double* __restrict means = sums_.data();
        double* __restrict variances = squares_.data();
        for (long c = 0; c < in_.channels; ++c) {
            const double away = means[c] * share;
            variances[c] = variances[c] * share - away * away;
            means[c] = x[c] + away;
        }
        for (long group = 0; group < layer_.groups; ++group) {
            const long begin = group * channels_, end = begin + channels_;
            double middle = 0, spread = 0;
            for (long c = begin; c < end; ++c) middle += means[c];
            middle /= double(channels_);
            for (long c = begin; c < end; ++c)
                spread += variances[c] + (means[c] - middle) * (means[c] - middle);
            const double variance = std::fmax(spread / double(channels_), 0.0);
            std::fill(mean + begin, mean + end, float(middle));
            std::fill(factor + begin, factor + end, float(1 / std::sqrt(variance + layer_.epsilon)));
        }
    }

    void settle(long b) {
        for (long c = 0; c < in_.channels; ++c) {
            scale_[c] = weight_[c] * factor_[b * in_.row + c];
            shift_[c] = bias_[c] - mean_[b * in_.row + c] * scale_[c];
        }
    }

    // By channel: first the gradients' sum, second that of gradient · (x − mean).
    template <int64_t ACTIVATION, int WIDTH>
    void add_sums(const float* x, const float* gradient, const float* mean, long at) {
        Vec scale[WIDTH], shift[WIDTH], middle[WIDTH], sum[WIDTH] = {}, product[WIDTH] = {};
        read<WIDTH>(&scale_[at], scale);
        read<WIDTH>(&shift_[at], shift);
        read<WIDTH>(mean + at, middle);
        for (long i = at; i < in_.size(); i += in_.row)
            UNROLL for (int v = 0; v < WIDTH; ++v) {
                const Vec value = load(x + i + v * LANES);
                const Vec g = passed(ACTIVATION, value * scale[v] + shift[v], load(gradient + i + v * LANES));
                sum[v] += g;
                product[v] += g * (value - middle[v]);
            }
        UNROLL for (int v = 0; v < WIDTH; ++v) {
            store(&first_[at + v * LANES], sum[v]);
            store(&second_[at + v * LANES], product[v]);
        }
    }

    // The parameters' gradients; then first and second become what the input's gradient loses, by group.
    void combine(long b) {
        const double count = double(in_.places * channels_);
        const float* factors = &factor_[b * in_.row];
        for (long c = 0; c < in_.row; ++c) weight_total_[c] += second_[c] * factors[c];
        for (long c = 0; c < in_.row; ++c) bias_total_[c] += first_[c];
        for (long group = 0; group < layer_.groups; ++group) {
            const long begin = group * channels_, end = begin + channels_;
            const float factor = factors[begin];
            double sum = 0, product = 0;
            for (long c = begin; c < end; ++c) sum += double(first_[c]) * weight_[c];
            for (long c = begin; c < end; ++c) product += double(second_[c]) * weight_[c];
            std::fill(&first_[begin], &first_[begin] + channels_, float(sum / count * factor));
            std::fill(&second_[begin], &second_[begin] + channels_,
                      float(product / count * factor * factor * factor));
        }
    }

    template <int64_t ACTIVATION, int WIDTH>
    void to_input(const float* x, const float* gradient, const float* mean, long at, float* into) const {
        Vec scale[WIDTH], shift[WIDTH], less[WIDTH], tilt[WIDTH];
        read<WIDTH>(&scale_[at], scale);
        read<WIDTH>(&shift_[at], shift);
        read<WIDTH>(&first_[at], less);
        read<WIDTH>(&second_[at], tilt);
        UNROLL for (int v = 0; v < WIDTH; ++v) less[v] -= load(mean + at + v * LANES) * tilt[v];
        for (long i = at; i < in_.size(); i += in_.row)
            UNROLL for (int v = 0; v < WIDTH; ++v) {
                const Vec value = load(x + i + v * LANES);
                const Vec g = passed(ACTIVATION, value * scale[v] + shift[v], load(gradient + i + v * LANES));
                store(into + i + v * LANES, g * scale[v] - (value * tilt[v] + less[v]));
            }
    }
};
