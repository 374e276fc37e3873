// cora::selective_scan_forward and cora::selective_scan_backward on the CPU.
#include <tuple>

#include "selective_scan_cpu.h"

#define CORA_KERNELS "selective_scan_kernels.h"
#include "for_each_instruction_set.h"

namespace cora {
namespace {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;

template <typename T>
void forward_all(const Scan& scan, const Sequence& y, float* states) {
  const auto forward = CORA_FASTEST(scan_forward<T>);
  const int64_t blocks = scan.directions * count_blocks(scan.channels);
  torch::stable::parallel_for(0, scan.batch * blocks, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> room;
    for (int64_t task = begin; task < end; ++task) {
      forward(scan, y, states, task / blocks, block_at(scan.directions, scan.channels, task % blocks), room);
    }
  });
}

std::tuple<Tensor, Tensor> selective_scan_forward(
    const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B, const Tensor& C, std::optional<Tensor> D,
    std::optional<Tensor> z, std::optional<Tensor> delta_bias, bool delta_softplus, std::vector<int64_t> reversed,
    bool keep_states) {
  const Scan scan = check_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reversed);
  const Tensor y = torch::stable::new_empty(u, {scan.batch, scan.length, scan.directions, scan.channels});
  const int64_t kept = keep_states ? scan.batch * scan.directions * count_blocks(scan.channels) * scan.chunks() : 0;
  const Tensor states = torch::stable::new_empty(A, {kept, kChannelsPerBlock * scan.states});
  float* place = keep_states ? floats_of(states) : nullptr;
  if (u.scalar_type() == ScalarType::Float) {
    forward_all<float>(scan, sequence_of(y), place);
  } else if (u.scalar_type() == ScalarType::Half) {
    forward_all<Half>(scan, sequence_of(y), place);
  } else {
    forward_all<BFloat16>(scan, sequence_of(y), place);
  }
  return {y, states};
}

template <typename T>
void backward_all(const Scan& scan, const Sequence& y_grad, const float* states, const ScanGradients& grads) {
  const auto backward = CORA_FASTEST(scan_backward<T>);
  const int64_t blocks = scan.directions * count_blocks(scan.channels);
  const int64_t parts = std::min(kBatchParts, scan.batch);
  const int64_t channels = scan.directions * scan.channels;
  torch::stable::parallel_for(0, parts * blocks, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> room;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t part = task / blocks;
      const Block block = block_at(scan.directions, scan.channels, task % blocks);
      ScanGradients own = grads;
      own.transition += part * channels * scan.states;
      own.skip += part * channels;
      own.step_bias += part * channels;
      const int64_t rows = scan.batch * scan.length * scan.directions;
      own.read_in += block.index() * rows * scan.states;
      own.read_out += block.index() * rows * scan.states;
      const int64_t first = part * scan.batch / parts, last = (part + 1) * scan.batch / parts;
      backward(scan, y_grad, states, own, first, last, block, room);
    }
  });
}

// The gradients of u, delta, z (empty without z), then those of A, D and delta_bias for each part of the batch, then
// those of B and C for each block of channels: the caller adds them up.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> selective_scan_backward(
    const Tensor& y_grad, const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B, const Tensor& C,
    std::optional<Tensor> D, std::optional<Tensor> z, std::optional<Tensor> delta_bias, bool delta_softplus,
    std::vector<int64_t> reversed, const Tensor& states) {
  const Scan scan = check_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reversed);
  const Sequence output = check_sequence(y_grad, u, "selective_scan: the gradient of y");
  STD_TORCH_CHECK(
      states.dim() == 2 && states.is_contiguous() && states.scalar_type() == ScalarType::Float &&
          states.size(0) == scan.batch * scan.directions * count_blocks(scan.channels) * scan.chunks() &&
          states.size(1) == kChannelsPerBlock * scan.states,
      "selective_scan: the states are not those that the forward scan kept");
  const std::vector<int64_t> shape = {scan.batch, scan.length, scan.directions, scan.channels};
  const Tensor u_grad = torch::stable::new_empty(u, shape);
  const Tensor delta_grad = torch::stable::new_empty(u, shape);
  const Tensor z_grad = z.has_value() ? torch::stable::new_empty(u, shape) : torch::stable::new_empty(u, {0});
  const int64_t parts = std::min(kBatchParts, scan.batch);
  const Tensor A_grad = torch::stable::new_empty(A, {parts, scan.directions, scan.channels, scan.states});
  const Tensor D_grad = torch::stable::new_empty(A, {parts, scan.directions, scan.channels});
  const Tensor bias_grad = torch::stable::new_empty(A, {parts, scan.directions, scan.channels});
  const std::vector<int64_t> by_block = {
      count_blocks(scan.channels), scan.batch, scan.length, scan.directions, scan.states};
  const Tensor B_grad = torch::stable::new_empty(A, by_block);
  const Tensor C_grad = torch::stable::new_empty(A, by_block);
  ScanGradients grads;
  grads.u = sequence_of(u_grad);
  grads.delta = sequence_of(delta_grad);
  if (z.has_value()) grads.z = sequence_of(z_grad);
  grads.transition = floats_of(A_grad);
  grads.skip = floats_of(D_grad);
  grads.step_bias = floats_of(bias_grad);
  grads.read_in = floats_of(B_grad);
  grads.read_out = floats_of(C_grad);
  const float* kept = static_cast<const float*>(states.const_data_ptr());
  if (u.scalar_type() == ScalarType::Float) {
    backward_all<float>(scan, output, kept, grads);
  } else if (u.scalar_type() == ScalarType::Half) {
    backward_all<Half>(scan, output, kept, grads);
  } else {
    backward_all<BFloat16>(scan, output, kept, grads);
  }
  return {u_grad, delta_grad, z_grad, A_grad, D_grad, bias_grad, B_grad, C_grad};
}

}  // namespace
}  // namespace cora

STABLE_TORCH_LIBRARY_IMPL(cora, CPU, library) {
  library.impl("selective_scan_forward", TORCH_BOX(&cora::selective_scan_forward));
  library.impl("selective_scan_backward", TORCH_BOX(&cora::selective_scan_backward));
}
