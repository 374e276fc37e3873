// How the operations on sequences are cut into tasks on the CPU.
#pragma once

#include <algorithm>

#include "sequence.h"

namespace cora {

constexpr int64_t kChannelsPerBlock = 128;

// The sequences of a batch are taken in this many parts at most, each with gradients of the parameters of its own: a
// fixed number, so that the result does not depend on the number of threads.
constexpr int64_t kBatchParts = 8;

inline int64_t count_blocks(int64_t channels, int64_t per_block = kChannelsPerBlock) {
  return (channels + per_block - 1) / per_block;
}

// Channels [first, first + width) of one direction.
struct Block {
  int64_t direction;
  int64_t first;
  int64_t width;

  int64_t index() const { return first / kChannelsPerBlock; }
};

// The directions of the same channels follow each other: what they share is then still in the cache.
inline Block block_at(int64_t directions, int64_t channels, int64_t index, int64_t per_block = kChannelsPerBlock) {
  const int64_t first = index / directions * per_block;
  return {index % directions, first, std::min(per_block, channels - first)};
}

}  // namespace cora
