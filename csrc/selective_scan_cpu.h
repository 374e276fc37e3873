// Where the gradients of the selective scan on the CPU go.
#pragma once

#include "channel_blocks.h"
#include "selective_scan.h"

namespace cora {

// Those of A, D and delta_bias are added up over a part of the batch; those of B and C are what a block contributes.
struct ScanGradients {
  Sequence u, delta, z;
  float* transition;  // [G, E, K]
  float* skip;        // [G, E]
  float* step_bias;   // [G, E]
  float* read_in;     // [B, L, G, K]
  float* read_out;    // [B, L, G, K]
};

}  // namespace cora
