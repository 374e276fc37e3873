// How the operations on sequences are cut into tasks on the CPU.
#pragma once

#include <algorithm>

#include "sequence.h"

namespace cora {

constexpr int64_t kChannelsPerGroup = 8;
constexpr int64_t kGroupsPerBlock = 16;
constexpr int64_t kChannelsPerBlock = kGroupsPerBlock * kChannelsPerGroup;

// The sequences of a batch are taken in this many parts at most, each with gradients of the parameters of its own: a
// fixed number, so that the result does not depend on the number of threads.
constexpr int64_t kBatchParts = 8;

inline int64_t count_blocks(int64_t channels) { return (channels + kChannelsPerBlock - 1) / kChannelsPerBlock; }

// Channels [first, first + width) of one direction.
struct Block {
  int64_t direction;
  int64_t first;
  int64_t width;

  int64_t index() const { return first / kChannelsPerBlock; }
  int64_t groups() const { return (width + kChannelsPerGroup - 1) / kChannelsPerGroup; }
  // Channels of a group and the ones after it.
  int64_t count(int64_t group) const { return width - group * kChannelsPerGroup; }
};

// The directions of the same channels follow each other: what they share is then still in the cache.
inline Block block_at(int64_t directions, int64_t channels, int64_t index) {
  const int64_t first = index / directions * kChannelsPerBlock;
  return {index % directions, first, std::min(kChannelsPerBlock, channels - first)};
}

}  // namespace cora
