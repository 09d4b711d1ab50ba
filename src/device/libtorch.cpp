// What libtorch has and tch does not reach: settings, memory, streams, transfers.

#include <ATen/Context.h>
#include <ATen/core/CachingHostAllocator.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/pin_memory.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

namespace {

// Libtorch's for GPUs; null before the first tensor there, and where there is none.
c10::DeviceAllocator* gpu_allocator() {
  auto* found = dynamic_cast<c10::DeviceAllocator*>(c10::GetAllocator(c10::DeviceType::CUDA));
  return found != nullptr && found->initialized() ? found : nullptr;
}

// As in memory.rs.
struct GpuMemory {
  uint64_t available;
  uint64_t used;
  uint64_t peak;
};

// Streams that were some thread's own. cuBLAS gets memory for each stream that it sees, for good.
class UnusedStreams {
 public:
  std::optional<c10::Stream> take(c10::Device device) {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (auto stream = streams_.begin(); stream != streams_.end(); ++stream) {
      if (stream->device() == device) {
        const auto taken = *stream;
        streams_.erase(stream);
        return taken;
      }
    }
    return std::nullopt;
  }

  void give(c10::Stream stream) {
    const std::lock_guard<std::mutex> lock(mutex_);
    streams_.push_back(stream);
  }

 private:
  std::mutex mutex_;
  std::vector<c10::Stream> streams_;
};

// Never destroyed, as threads may outlive main.
UnusedStreams& unused_streams() {
  static auto* streams = new UnusedStreams;
  return *streams;
}

}  // namespace

// What is kept for tensors goes back to the driver, and pinned memory of the CPU's to the system.
extern "C" void osdd_release_gpu_memory() {
  try {
    if (auto* allocator = gpu_allocator()) {
      allocator->emptyCache();
      if (auto* pinned = at::getHostAllocator(c10::DeviceType::CUDA)) {
        pinned->empty_cache();
      }
    }
  } catch (...) {
    // A device that is lost keeps what it has.
  }
}

// False where nobody knows.
extern "C" bool osdd_gpu_memory(int8_t index, bool watch, GpuMemory* memory) {
  try {
    auto* allocator = gpu_allocator();
    if (allocator == nullptr) {
      return false;
    }
    if (watch) {
      allocator->resetPeakStats(index);
    }
    using Kind = c10::CachingAllocator::StatType;
    const auto stats = allocator->getDeviceStats(index);
    const auto& used = stats.allocated_bytes[static_cast<size_t>(Kind::AGGREGATE)];
    const auto& reserved = stats.reserved_bytes[static_cast<size_t>(Kind::AGGREGATE)];
    const auto free = allocator->getMemoryInfo(index).first;
    *memory = {free + static_cast<uint64_t>(reserved.current - used.current), static_cast<uint64_t>(used.current),
               static_cast<uint64_t>(used.peak)};
    return true;
  } catch (...) {
    return false;
  }
}

// Convolutions of float32 on a GPU are computed in TF32 by default, with 10 bits of mantissa.
extern "C" void osdd_exact_float32() { at::globalContext().setAllowTF32CuDNN(false); }

// This thread's work on a GPU, which becomes its current one, goes to a stream of libtorch's from now on, not to the one that everybody
// waits for. False where it stays as it was.
extern "C" bool osdd_take_stream(int8_t index) {
  try {
    const c10::Device device(c10::DeviceType::CUDA, index);
    const c10::impl::VirtualGuardImpl gpu(device.type());
    auto own = unused_streams().take(device);
    if (!own) {
      own = gpu.getStreamFromGlobalPool(device);
    }
    if (gpu.getStreamNativeHandle(*own) == nullptr) {
      return false;
    }
    gpu.setDevice(device);
    gpu.exchangeStream(*own);
    return true;
  } catch (...) {
    return false;
  }
}

// This thread's work goes to the default stream again, and the next that asks for one gets its own.
extern "C" void osdd_give_stream_back(int8_t index) {
  try {
    const c10::Device device(c10::DeviceType::CUDA, index);
    const c10::impl::VirtualGuardImpl gpu(device.type());
    unused_streams().give(gpu.exchangeStream(gpu.getDefaultStream(device)));
  } catch (...) {
    // One stream less to be used again.
  }
}

// The driver's handle of the stream that this thread's work goes to. Null is the default stream, which it is, too, where libtorch
// does not tell: then nobody can have chosen another.
extern "C" void* osdd_current_stream(int8_t index) {
  try {
    const c10::impl::VirtualGuardImpl gpu(c10::DeviceType::CUDA);
    return gpu.getStreamNativeHandle(gpu.getStream(c10::Device(c10::DeviceType::CUDA, index)));
  } catch (...) {
    return nullptr;
  }
}

// Waits for it. False with a message where that fails.
extern "C" bool osdd_synchronize(int8_t index, char* message, size_t capacity) {
  try {
    const c10::impl::VirtualGuardImpl gpu(c10::DeviceType::CUDA);
    gpu.synchronizeStream(gpu.getStream(c10::Device(c10::DeviceType::CUDA, index)));
    return true;
  } catch (const std::exception& error) {
    std::strncpy(message, error.what(), capacity - 1);
    return false;
  }
}

// A copy on a GPU, which goes through memory that the system does not move, so that this thread does not wait for what is ahead of it in
// the current stream. Null where that fails.
extern "C" void* osdd_upload(const void* tensor, int8_t index) {
  try {
    const auto pinned = static_cast<const at::Tensor*>(tensor)->pin_memory();
    return new at::Tensor(pinned.to(c10::Device(c10::DeviceType::CUDA, index), pinned.scalar_type(), /*non_blocking=*/true));
  } catch (...) {
    return nullptr;
  }
}

// A copy in the CPU's memory that is there once the current stream has come so far. Null where that fails.
extern "C" void* osdd_fetch(const void* tensor) {
  try {
    const auto& from = *static_cast<const at::Tensor*>(tensor);
    auto to = at::empty(from.sizes(), from.options().device(c10::kCPU).pinned_memory(true));
    to.copy_(from, /*non_blocking=*/true);
    return new at::Tensor(std::move(to));
  } catch (...) {
    return nullptr;
  }
}

// A mark behind what has been asked of the current stream. Null with a message where that fails.
extern "C" void* osdd_fence(int8_t index, char* message, size_t capacity) {
  try {
    const c10::impl::VirtualGuardImpl gpu(c10::DeviceType::CUDA);
    auto fence = std::make_unique<c10::Event>(c10::DeviceType::CUDA);
    fence->record(gpu.getStream(c10::Device(c10::DeviceType::CUDA, index)));
    return fence.release();
  } catch (const std::exception& error) {
    std::strncpy(message, error.what(), capacity - 1);
    return nullptr;
  }
}

// Also true where it never will be, which waiting tells.
extern "C" bool osdd_fence_is_reached(const void* fence) {
  try {
    return static_cast<const c10::Event*>(fence)->query();
  } catch (...) {
    return true;
  }
}

// Waits for it. False with a message where that fails.
extern "C" bool osdd_fence_wait(const void* fence, char* message, size_t capacity) {
  try {
    static_cast<const c10::Event*>(fence)->synchronize();
    return true;
  } catch (const std::exception& error) {
    std::strncpy(message, error.what(), capacity - 1);
    return false;
  }
}

extern "C" void osdd_fence_free(void* fence) { delete static_cast<c10::Event*>(fence); }
