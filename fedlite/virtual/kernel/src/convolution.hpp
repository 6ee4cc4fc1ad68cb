// Convolution of one example, channels last, with ReLU and pooling folded in.
//
// Forward: each row of outputs is an outer product of the patches along it and the weights, (k, outputs).
// Backward: pooling and ReLU leave few gradients, so each output channel's are listed and its weights' gradient
// is the sum of the patches listed; the input's gradient adds the weights at those patches.
#pragma once

#include <vector>

#include "images.hpp"
#include "job.hpp"
#include "outer.hpp"

template <int RUNS, int WIDTH>
static void gather(const float* image, long piece, const int* at, const float* gradient, long count,
                   float* total, long row) {
    Vec sums[RUNS][WIDTH];
    UNROLL for (int r = 0; r < RUNS; ++r)
        UNROLL for (int v = 0; v < WIDTH; ++v) sums[r][v] = load(total + r * row + v * LANES);
    for (long i = 0; i < count; ++i) {
        const float* patch = image + at[i];
        UNROLL for (int r = 0; r < RUNS; ++r)
            UNROLL for (int v = 0; v < WIDTH; ++v) sums[r][v] += gradient[i] * load(patch + r * piece + v * LANES);
    }
    UNROLL for (int r = 0; r < RUNS; ++r)
        UNROLL for (int v = 0; v < WIDTH; ++v) store(total + r * row + v * LANES, sums[r][v]);
}

template <int RUNS, int WIDTH>
static void scatter(float* image, long piece, const int* at, const float* gradient, long count,
                    const float* weight, long row) {
    Vec w[RUNS][WIDTH];
    UNROLL for (int r = 0; r < RUNS; ++r)
        UNROLL for (int v = 0; v < WIDTH; ++v) w[r][v] = load(weight + r * row + v * LANES);
    for (long i = 0; i < count; ++i) {
        float* patch = image + at[i];
        UNROLL for (int r = 0; r < RUNS; ++r)
            UNROLL for (int v = 0; v < WIDTH; ++v) {
                float* to = patch + r * piece + v * LANES;
                store(to, load(to) + gradient[i] * w[r][v]);
            }
    }
}

// f<RUNS, WIDTH>(first run, first vector of a run) over a whole patch, in pieces that fit the registers.
template <class Each>
static void over_patch(long kernel, long vectors, Each each) {
    const auto across = [&](auto runs, long run) {
        for (long v = 0; v < vectors; v += 3) switch (std::min(vectors - v, 3L)) {
                case 3: each(runs, std::integral_constant<int, 3>(), run, v); break;
                case 2: each(runs, std::integral_constant<int, 2>(), run, v); break;
                default: each(runs, std::integral_constant<int, 1>(), run, v);
            }
    };
    if (kernel == 3) return across(std::integral_constant<int, 3>(), 0);
    if (kernel == 5) return across(std::integral_constant<int, 5>(), 0);
    for (long run = 0; run < kernel; ++run) across(std::integral_constant<int, 1>(), run);
}

class Convolution {
public:
    const Layer& layer;
    const Image in, out;
    const long channels, outputs, wide_outputs, kernel;
    const long image_row, out_height, out_width;  // of the padded input, in floats; before pooling
    const long pooled_height, pooled_width;
    const long run, run_row;  // a patch is `kernel` runs; their distance in padded weights
    Floats image, image_gradient, plane, by_output, by_run, total, bias, bias_total, values;
    std::vector<int> places, window, choices;

    Convolution(const Layer& of, bool wide, long batch)
        : layer(of), in(input_of(of, wide)), out(output_of(of, wide)), channels(of.channels), outputs(of.outputs),
          wide_outputs(padded(outputs)),
          kernel(of.kernel), image_row((of.width + 2 * of.padding) * channels),
          out_height((of.height + 2 * of.padding - kernel) / of.stride + 1),
          out_width((of.width + 2 * of.padding - kernel) / of.stride + 1),
          pooled_height(out_height / of.pool), pooled_width(out_width / of.pool),
          run(kernel * channels), run_row(padded(run)) {
        image.resize((of.height + 2 * of.padding) * image_row + LANES);
        image_gradient.resize(image.size());
        plane.resize(out_height * out_width * wide_outputs);
        by_output.resize(kernel * run * wide_outputs);
        by_run.resize(outputs * kernel * run_row);
        total.resize(by_run.size());
        bias.resize(wide_outputs);
        bias_total.resize(outputs);
        values.resize(pooled_height * pooled_width);
        places.resize(values.size());
        for (long y = 0; y < of.pool; ++y)
            for (long x = 0; x < of.pool; ++x) window.push_back(place(y, x));
        choices.resize(batch * choice_size());
    }

    // The weights (outputs, kernel, kernel, channels) in the two forms the products want; gradients to zero.
    void open(const float* weights) {
        const float* weight = weights + layer.weight;
        const long length = kernel * run;
        for (long o = 0; o < outputs; ++o) {
            for (long k = 0; k < length; ++k) by_output[k * wide_outputs + o] = weight[o * length + k];
            for (long r = 0; r < kernel; ++r)
                std::copy_n(weight + o * length + r * run, run, &by_run[(o * kernel + r) * run_row]);
        }
        if (layer.bias >= 0) std::copy_n(weights + layer.bias, outputs, bias.data());
        std::fill(total.begin(), total.end(), 0.0f);
        std::fill(bias_total.begin(), bias_total.end(), 0.0f);
    }

    void forward(const Forward& pass) {
        for (long b = 0; b < pass.batch; ++b)
            forward(pass.x + b * in.size(), pass.y + b * out.size(), &choices[b * choice_size()]);
    }

    template <class Learn>
    void backward(const Backward& pass, Learn) {
        for (long b = 0; b < pass.batch; ++b)
            backward(pass.x + b * in.size(), pass.gradient + b * out.size(), &choices[b * choice_size()],
                     pass.into ? pass.into + b * in.size() : nullptr);
    }

    // The weights' gradients, summed over the examples since `open`.
    template <class Learn>
    void close(Learn learn) const {
        for (long line = 0; line < outputs * kernel; ++line)
            learn(layer.weight + line * run, &total[line * run_row], run);
        if (layer.bias >= 0) learn(layer.bias, bias_total.data(), outputs);
    }

private:
    long choice_size() const { return wide_outputs * pooled_height * pooled_width; }

    // Writes up to LANES − 1 floats past `output`.
    void forward(const float* input, float* output, int* choice) {
        pad(input);
        for (long y = 0; y < out_height; ++y) {
            const Left patches{&image[y * layer.stride * image_row], layer.stride * channels, image_row, 1,
                               kernel, run};
            float* line = &plane[y * out_width * wide_outputs];
            outer(out_width, wide_outputs, patches, by_output.data(), wide_outputs, {line, wide_outputs});
        }
        for (long y = 0; y < pooled_height; ++y)
            for (long x = 0; x < pooled_width; ++x)
                for (long o = 0; o < outputs; o += LANES)
                    pool(y, x, o, output, choice);
    }

    // `gradient` is of the output, already zero where ReLU was; the input's is written if asked for.
    void backward(const float* input, const float* gradient, const int* choice, float* input_gradient) {
        pad(input);
        if (input_gradient) std::fill(image_gradient.begin(), image_gradient.end(), 0.0f);
        for (long at = 0; at < out.size(); at += out.row)
            for (long o = 0; o < outputs; ++o) bias_total[o] += gradient[at + o];
        for (long o = 0; o < outputs; ++o) {
            const long count = list(gradient, choice, o);
            const long first = o * kernel * run_row;
            over_patch(kernel, run_row / LANES, [&](auto runs, auto width, long r, long v) {
                const long in_image = r * image_row + v * LANES, in_weight = first + r * run_row + v * LANES;
                gather<runs(), width()>(&image[in_image], image_row, places.data(), values.data(), count,
                                        &total[in_weight], run_row);
                if (input_gradient)
                    scatter<runs(), width()>(&image_gradient[in_image], image_row, places.data(), values.data(),
                                             count, &by_run[in_weight], run_row);
            });
        }
        if (!input_gradient) return;
        const long row = layer.width * in.row;
        for (long y = 0; y < layer.height; ++y)
            copy_places(&image_gradient[place_in(y)], channels, input_gradient + y * row, in.row, layer.width,
                        channels);
    }

    long place(long y, long x) const { return (y * image_row + x * channels) * layer.stride; }
    long place_in(long y) const { return (y + layer.padding) * image_row + layer.padding * channels; }

    void pad(const float* input) {
        const long row = layer.width * in.row;
        for (long y = 0; y < layer.height; ++y)
            copy_places(input + y * row, in.row, &image[place_in(y)], channels, layer.width, channels);
    }

    // The first largest of a window, as torch's; then bias and ReLU, which keep their order.
    void pool(long y, long x, long o, float* output, int* choice) const {
        const long side = layer.pool;
        const float* corner = &plane[(y * side * out_width + x * side) * wide_outputs + o];
        Vec best = load(corner);
        const int first = place(y * side, x * side);
        IntVec chosen = IntVec{} + first;
        for (int index = 1; index < side * side; ++index) {
            const Vec value = load(corner + (index / side * out_width + index % side) * wide_outputs);
            const IntVec more = value > best;
            best = more ? value : best;
            chosen = more ? IntVec{} + (first + window[index]) : chosen;
        }
        best = activated(layer.activation, best + load(&bias[o]));
        store(output + (y * pooled_width + x) * out.row + o, best);
        std::memcpy(choice + (y * pooled_width + x) * wide_outputs + o, &chosen, sizeof chosen);
    }

    // Where output channel o has a gradient: patches and values. Returns how many.
    long list(const float* gradient, const int* choice, long o) {
        const long all = pooled_height * pooled_width;
        int* __restrict place = places.data();
        float* __restrict value = values.data();
        long count = 0;
        gradient += o;
        choice += o;
        for (long at = 0; at < all; ++at, gradient += out.row, choice += wide_outputs) {
            place[count] = *choice;
            value[count] = *gradient;
            count += *gradient != 0;
        }
        return count;
    }
};
