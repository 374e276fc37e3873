// The causal depthwise convolution of a block of channels and its gradient, on the CPU. Included once for each
// instruction set, as simd.h is; the meaning is in cora/ops/reference/causal_conv1d.py.
//
// Positions are taken in the order of their direction, "before" being what the weights reach: the rows read again are
// then still in the first-level cache.

#include "sequence_simd.h"

namespace cora::CORA_SIMD {

// What a group of channels is before the activation at a step of their direction.
template <typename T>
Floats convolve(
    const Conv& conv, const float* weights, Floats sum, int64_t batch, const Block& block, int64_t group,
    int64_t step) {
  const bool reversed = conv.reversed[block.direction];
  const int64_t first = std::max<int64_t>(0, conv.width - 1 - step);
  for (int64_t tap = first; tap < conv.width; ++tap) {
    const int64_t source = step - (conv.width - 1) + tap;
    const int64_t position = reversed ? conv.length - 1 - source : source;
    sum += load(weights + tap * kLanes) * read<T>(conv.x, block, batch, position, group);
  }
  return sum;
}

// A step of all whole groups of a block, with rows of x that lie `stride` apart, the last weight meeting the last one.
template <typename T, int64_t W, bool kSilu>
void convolve_row(const float* weights, const float* bias, const T* last, int64_t stride, int64_t groups, T* out) {
  for (int64_t group = 0; group < groups; ++group) {
    const int64_t channel = group * kLanes;
    Floats sum = load(bias + channel);
#pragma GCC unroll 4
    for (int64_t tap = 0; tap < W; ++tap) {
      sum += load(weights + (group * W + tap) * kLanes) * load(last + channel - (W - 1 - tap) * stride);
    }
    store(out + channel, kSilu ? silu(sum) : sum);
  }
}

template <typename T>
using ConvolveRow = void (*)(const float*, const float*, const T*, int64_t, int64_t, T*);

template <typename T>
ConvolveRow<T> row_convolver(int64_t width, bool silu) {
  if (width == 2) return silu ? convolve_row<T, 2, true> : convolve_row<T, 2, false>;
  if (width == 3) return silu ? convolve_row<T, 3, true> : convolve_row<T, 3, false>;
  return silu ? convolve_row<T, 4, true> : convolve_row<T, 4, false>;
}

template <typename T>
void conv_forward(const Conv& conv, const Sequence& y, int64_t batch, const Block& block, std::vector<float>& room) {
  const int64_t channels = count_groups(block) * kLanes;
  float* weights = zeroed(room, channels * (conv.width + 1));
  pack(conv.weight, conv.channels, conv.width, block, 1.0f, weights);
  float* biases = weights + channels * conv.width;
  if (conv.bias != nullptr) pack(conv.bias, conv.channels, 1, block, 1.0f, biases);
  const bool reversed = conv.reversed[block.direction];
  const auto convolve_whole = row_convolver<T>(conv.width, conv.silu);
  const int64_t whole = block.width / kLanes, stride = reversed ? -conv.x.position_stride : conv.x.position_stride;
  for (int64_t step = 0; step < conv.length; ++step) {
    const int64_t position = reversed ? conv.length - 1 - step : step;
    const bool is_inside = step >= conv.width - 1;
    if (is_inside) {
      const T* last = conv.x.at<T>(batch, position, block.direction) + block.first;
      T* out = y.at<T>(batch, position, block.direction) + block.first;
      convolve_whole(weights, biases, last, stride, whole, out);
    }
    // The first steps, and channels that do not fill a vector.
    for (int64_t group = is_inside ? whole : 0; group < count_groups(block); ++group) {
      const Floats bias = load(biases + group * kLanes);
      const Floats sum = convolve<T>(conv, weights + group * conv.width * kLanes, bias, batch, block, group, step);
      write<T>(y, block, batch, position, group, conv.silu ? silu(sum) : sum);
    }
  }
}

// Positions between the one that is worked on and the one that is fetched. The forward convolution does not gain by it.
constexpr int64_t kConvRowsAhead = 4;

// What the gradient of a block works on.
struct ConvWorkspace {
  float* weights;       // [groups, W, lanes]
  float* weight_grads;  // [groups, W, lanes]
  float* bias_grads;    // [groups, lanes]
  float* later;  // [groups, W, lanes]: the gradients before the activation at this step and those after, in a ring

  ConvWorkspace(const Conv& conv, std::vector<float>& room) {
    const int64_t size = kChannelsPerBlock * conv.width;
    weights = zeroed(room, 3 * size + kChannelsPerBlock);
    weight_grads = weights + size;
    later = weight_grads + size;
    bias_grads = later + size;
  }
};

template <typename T>
void conv_backward(
    const Conv& conv, const Sequence& y_grad, const ConvGradients& grads, int64_t first_batch, int64_t last_batch,
    const Block& block, std::vector<float>& room) {
  const ConvWorkspace work(conv, room);
  pack(conv.weight, conv.channels, conv.width, block, 1.0f, work.weights);
  const bool reversed = conv.reversed[block.direction];
  const auto place = [&](int64_t step) { return reversed ? conv.length - 1 - step : step; };
  for (int64_t batch = first_batch; batch < last_batch; ++batch) {
    std::memset(work.later, 0, sizeof(float) * kChannelsPerBlock * conv.width);
    for (int64_t step = conv.length - 1; step >= 0; --step) {
      if (step >= conv.width - 1 + kConvRowsAhead) {
        prefetch<T>(conv.x, block, batch, place(step - (conv.width - 1) - kConvRowsAhead));
        prefetch<T>(y_grad, block, batch, place(step - kConvRowsAhead));
        prefetch<T, true>(grads.x, block, batch, place(step - kConvRowsAhead));
      }
      for (int64_t group = 0; group < count_groups(block); ++group) {
        const int64_t offset = group * conv.width * kLanes;
        const float* weights = work.weights + offset;
        float* later = work.later + offset;
        Floats grad = read<T>(y_grad, block, batch, place(step), group);
        if (conv.silu) {
          const Floats bias = parameter(conv.bias, conv.channels, block, group);
          const Floats sum = convolve<T>(conv, weights, bias, batch, block, group, step);
          const Floats open = sigmoid(sum);
          grad *= open * (1.0f + sum * (1.0f - open));
        }
        store(later + step % conv.width * kLanes, grad);
        float* bias_grad = work.bias_grads + group * kLanes;
        store(bias_grad, load(bias_grad) + grad);
        Floats input_grad{};
        for (int64_t tap = 0; tap < conv.width; ++tap) {
          // The weight at a tap meets this position at a step as much later as it reaches back.
          const int64_t reach = conv.width - 1 - tap;
          input_grad += load(weights + tap * kLanes) * load(later + (step + reach) % conv.width * kLanes);
          if (step < reach) continue;
          float* weight_grad = work.weight_grads + offset + tap * kLanes;
          store(weight_grad, load(weight_grad) + grad * read<T>(conv.x, block, batch, place(step - reach), group));
        }
        write<T>(grads.x, block, batch, place(step), group, input_grad);
      }
    }
  }
  unpack(work.weight_grads, conv.channels, conv.width, block, grads.weight);
  unpack(work.bias_grads, conv.channels, 1, block, grads.bias);
}

}  // namespace cora::CORA_SIMD
