// The kernels of gated.cu, or with GROUP_NORM or FRAME those of group_norm.cu or frame.cu, as ordinary functions, for tests on machines
// without a GPU: the threads of a block, and what a group of them tells each other, on threads of the CPU.

#include <algorithm>
#include <barrier>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#define __device__
#define __global__
#define __launch_bounds__(...)
#define __restrict__
#define asm(text, ...) bfloat16_of(n, x)

using std::min;

struct Index {
  unsigned x;
};
static thread_local Index threadIdx;
static Index blockIdx, blockDim, gridDim;

static float __uint_as_float(unsigned bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

static void bfloat16_of(unsigned short& n, float x) {
  unsigned bits;
  std::memcpy(&bits, &x, sizeof bits);
  n = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

static float rsqrtf(float x) { return 1 / std::sqrt(x); }

#ifndef GROUP
#define GROUP 1
#endif
constexpr int kGroup = GROUP;

// Where the threads of each group meet.
struct Meeting {
  std::barrier<> barrier{kGroup};
  float values[kGroup];
};
static std::vector<Meeting>* meetings;

static float __shfl_xor_sync(unsigned, float value, int step, int) {
  Meeting& meeting = (*meetings)[threadIdx.x / kGroup];
  const int lane = threadIdx.x % kGroup;
  meeting.values[lane] = value;
  meeting.barrier.arrive_and_wait();
  const float other = meeting.values[lane ^ step];
  meeting.barrier.arrive_and_wait();
  return other;
}

#include "numbers.cu"
#ifdef GROUP_NORM
#include "group_norm.cu"
#elif defined(FRAME)
#include "frame.cu"
#else
#include "gated.cu"
#endif

template <typename Work>
static void run(unsigned blocks, unsigned threads, bool together, Work work) {
  gridDim = {blocks};
  blockDim = {threads};
  for (blockIdx.x = 0; blockIdx.x < blocks; blockIdx.x++) {
    if (!together) {
      for (unsigned t = 0; t < threads; t++) threadIdx.x = t, work();
      continue;
    }
    std::vector<Meeting> all(threads / kGroup);
    meetings = &all;
    std::vector<std::thread> running;
    for (unsigned t = 0; t < threads; t++) running.emplace_back([&, t] { threadIdx.x = t, work(); });
    for (std::thread& thread : running) thread.join();
  }
}

template <typename... Arguments, size_t... I>
static void apply(void (*kernel)(Arguments...), void** from, std::index_sequence<I...>) {
  kernel(*static_cast<Arguments*>(from[I])...);
}

template <typename... Arguments>
static void start(void (*kernel)(Arguments...), bool together, unsigned blocks, unsigned threads, void** from) {
  run(blocks, threads, together, [&] { apply(kernel, from, std::index_sequence_for<Arguments...>()); });
}

extern "C" int osdd_emulated(const char* name, unsigned blocks, unsigned threads, void** from) {
  const std::string kernel = name;
#ifdef GROUP_NORM
  if (kernel == "channel_sums") start(channel_sums, false, blocks, threads, from);
  else if (kernel == "group_scales") start(group_scales, false, blocks, threads, from);
  else if (kernel == "scale_shift") start(scale_shift, false, blocks, threads, from);
  else if (kernel == "scale_shift_silu") start(scale_shift_silu, false, blocks, threads, from);
#elif defined(FRAME)
  if (kernel == "tiles_of_frame") start(tiles_of_frame, false, blocks, threads, from);
  else if (kernel == "frame_of_tiles") start(frame_of_tiles, false, blocks, threads, from);
#else
  if (kernel == "channel_norm") start(channel_norm, true, blocks, threads, from);
  else if (kernel == "channel_norm_backward") start(channel_norm_backward, true, blocks, threads, from);
  else if (kernel == "gate_depthwise") start(gate_depthwise, false, blocks, threads, from);
  else if (kernel == "gate_depthwise_backward") start(gate_depthwise_backward, false, blocks, threads, from);
  else if (kernel == "depthwise_backward") start(depthwise_backward, false, blocks, threads, from);
  else if (kernel == "gate") start(gate, false, blocks, threads, from);
  else if (kernel == "gate_backward") start(gate_backward, false, blocks, threads, from);
#endif
  else return 1;
  return 0;
}
