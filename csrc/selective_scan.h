// The arguments of cora::selective_scan and cora::selective_scan_backward and their checks, shared by the CPU and the
// CUDA implementation.
//
// Shapes: B batch, L positions, G directions, E channels of a direction, K states of a channel.
#pragma once

#include "sequence.h"

namespace cora {

// The forward scan keeps the states before every so many positions; the backward scan recomputes those between.
constexpr int64_t kPositionsPerChunk = 32;

// The arguments of a scan, checked; the tensors must outlive it.
struct Scan {
  int64_t batch, length, directions, channels, states;
  bool softplus;
  std::vector<int64_t> reversed;  // for each direction, whether it runs from the last position to the first
  Sequence u, delta, z;
  const float* transition;  // A, [G, E, K]
  const float* read_in;     // B, [B, L, G, K]
  const float* read_out;    // C, the same
  const float* skip;        // D, [G, E], or null
  const float* step_bias;   // delta_bias, [G, E], or null

  int64_t chunks() const { return (length + kPositionsPerChunk - 1) / kPositionsPerChunk; }
};

inline Scan check_scan(
    const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B, const Tensor& C,
    const std::optional<Tensor>& D, const std::optional<Tensor>& z, const std::optional<Tensor>& delta_bias,
    bool delta_softplus, const std::vector<int64_t>& reversed) {
  check_kernel_dtype(u, "selective_scan: u");
  STD_TORCH_CHECK(u.dim() == 4 && u.size(1) >= 1, "selective_scan: u is [B, L, G, E] with L at least 1");
  STD_TORCH_CHECK(A.dim() == 3, "selective_scan: A is [G, E, K]");
  Scan scan;
  scan.batch = u.size(0);
  scan.length = u.size(1);
  scan.directions = u.size(2);
  scan.channels = u.size(3);
  scan.states = A.size(2);
  scan.softplus = delta_softplus;
  scan.reversed = reversed;
  STD_TORCH_CHECK(
      static_cast<int64_t>(reversed.size()) == scan.directions,
      "selective_scan: every direction says whether it is reversed");
  scan.u = check_sequence(u, u, "selective_scan: u");
  scan.delta = check_sequence(delta, u, "selective_scan: delta");
  if (z.has_value()) scan.z = check_sequence(*z, u, "selective_scan: z");
  const std::vector<int64_t> per_channel = {scan.directions, scan.channels};
  const std::vector<int64_t> per_state = {scan.batch, scan.length, scan.directions, scan.states};
  scan.transition = check_parameter(A, {scan.directions, scan.channels, scan.states}, u, "selective_scan: A");
  scan.read_in = check_parameter(B, per_state, u, "selective_scan: B");
  scan.read_out = check_parameter(C, per_state, u, "selective_scan: C");
  scan.skip = D.has_value() ? check_parameter(*D, per_channel, u, "selective_scan: D") : nullptr;
  scan.step_bias =
      delta_bias.has_value() ? check_parameter(*delta_bias, per_channel, u, "selective_scan: delta_bias") : nullptr;
  return scan;
}

}  // namespace cora
