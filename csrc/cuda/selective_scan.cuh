// What the kernels of the selective scan share; the meaning is in cora/ops/reference/selective_scan.py.
//
// The 32 lanes of a warp are 32 channels, which lie side by side in memory; the warps of a block share out the K states
// of these channels. States stay in registers. Exponentials are the bound on paper, 16 a cycle and multiprocessor
// against 128 multiplications: every fourth one is a polynomial, so that both kinds of unit are busy as long.
//
// All sums are taken in an order of their own: the result is the same every time.
#pragma once

#include "../selective_scan.h"
#include "launch.cuh"

namespace cora {
namespace {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;

constexpr int kStatesOfThread = 4;  // in the backward scan, and in a forward scan of few channels
constexpr int kChunk = static_cast<int>(kPositionsPerChunk);
constexpr int kMostStates = 64;

// A kernel's arguments hold no vectors: bit g of `reversed` is direction g's.
struct DeviceScan {
  int64_t batch, length;
  int directions, channels, states, groups;  // groups of 32 channels, of one direction
  int parts;                                 // warps that share out the states
  uint32_t reversed;
  bool softplus;
  Sequence u, delta, z;
  const float *transition, *read_in, *read_out, *skip, *step_bias;

  explicit DeviceScan(const Scan& scan, int states_of_thread)
      : batch(scan.batch),
        length(scan.length),
        directions(static_cast<int>(scan.directions)),
        channels(static_cast<int>(scan.channels)),
        states(static_cast<int>(scan.states)),
        groups((channels + kWarp - 1) / kWarp),
        parts((states + states_of_thread - 1) / states_of_thread),
        reversed(0),
        softplus(scan.softplus),
        u(scan.u),
        delta(scan.delta),
        z(scan.z),
        transition(scan.transition),
        read_in(scan.read_in),
        read_out(scan.read_out),
        skip(scan.skip),
        step_bias(scan.step_bias) {
    STD_TORCH_CHECK(directions <= 32, "selective_scan: at most 32 directions");
    STD_TORCH_CHECK(
        states >= 1 && states <= kMostStates, "selective_scan: on CUDA devices a channel has 1 to 64 states");
    for (int way = 0; way < directions; ++way) reversed |= static_cast<uint32_t>(scan.reversed[way] != 0) << way;
  }
};

// One channel of a sequence in the order of its direction.
struct Channel {
  int64_t batch;
  int way, index;
  bool is_real;  // the last group of channels may not be full
  bool is_reversed;

  __device__ Channel(const DeviceScan& scan, int64_t batch, int way, int group)
      : batch(batch),
        way(way),
        index(group * kWarp + static_cast<int>(threadIdx.x)),
        is_real(index < scan.channels),
        is_reversed((scan.reversed >> way & 1) != 0) {}

  __device__ int64_t position(const DeviceScan& scan, int64_t step) const {
    return is_reversed ? scan.length - 1 - step : step;
  }
  template <typename T>
  __device__ float read(const DeviceScan& scan, const Sequence& sequence, int64_t step) const {
    return static_cast<float>(sequence.at<T>(batch, position(scan, step), way)[index]);
  }
  template <typename T>
  __device__ void write(const DeviceScan& scan, const Sequence& sequence, int64_t step, float value) const {
    sequence.at<T>(batch, position(scan, step), way)[index] = static_cast<T>(value);
  }
  __device__ float parameter(const DeviceScan& scan, const float* values) const {
    return values == nullptr || !is_real ? 0.0f : values[static_cast<int64_t>(way) * scan.channels + index];
  }
  // A log2(e) of state k; 0 for a channel or a state that is not there, which then stays 0.
  __device__ float decay(const DeviceScan& scan, int k) const {
    if (!is_real || k >= scan.states) return 0.0f;
    return scan.transition[(static_cast<int64_t>(way) * scan.channels + index) * scan.states + k] * kLog2E;
  }
  __device__ float step_size(const DeviceScan& scan, float raw) const { return scan.softplus ? softplus(raw) : raw; }
  // Where its K states before a chunk are kept: [B, G, chunks, E, K].
  __device__ int64_t kept(const DeviceScan& scan, int64_t chunk) const {
    const int64_t chunks = (scan.length + kChunk - 1) / kChunk;
    const int64_t row = (batch * scan.directions + way) * chunks + chunk;
    return (row * scan.channels + index) * scan.states;
  }
};

// exp2 of what a state loses; the fourth of four by the other kind of unit.
__device__ __forceinline__ float decayed(int state, float exponent) {
  return state % 4 == 3 ? exp2_polynomial(exponent) : exp2_special(exponent);
}

__device__ __forceinline__ int thread_of_block() {
  return static_cast<int>(threadIdx.y) * kWarp + static_cast<int>(threadIdx.x);
}

// Copies B or C of steps [first, first + positions) to [positions, states of all parts]; 0 beyond their ends.
__device__ void share_weights(
    const DeviceScan& scan, const Channel& channel, const float* weights, int64_t first, int positions, int padded,
    float* shared) {
  for (int place = thread_of_block(); place < positions * padded; place += scan.parts * kWarp) {
    const int64_t step = first + place / padded;
    const int k = place % padded;
    float value = 0.0f;
    if (step < scan.length && k < scan.states) {
      const int64_t row = (channel.batch * scan.length + channel.position(scan, step)) * scan.directions + channel.way;
      value = weights[row * scan.states + k];
    }
    shared[place] = value;
  }
}

}  // namespace
}  // namespace cora
