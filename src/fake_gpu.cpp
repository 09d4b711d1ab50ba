// A stand-in for libtorch's allocator for GPUs, for a test: it has no memory, and only counts.

#include <c10/core/CachingDeviceAllocator.h>

#include <algorithm>
#include <cstdint>

namespace {

class FakeGpu final : public c10::DeviceAllocator {
 public:
  explicit FakeGpu(int64_t total) : total_(total) {}

  // As if tensors had so many bytes more; freed ones are kept for others.
  void take(int64_t bytes) {
    used_ += bytes;
    reserved_ = std::max(reserved_, used_);
    peak_ = std::max(peak_, used_);
  }

  int64_t reserved() const { return reserved_; }

  bool initialized() override { return true; }

  void emptyCache(c10::MempoolId_t) override { reserved_ = used_; }

  void recordStream(const c10::DataPtr&, c10::Stream) override {}

  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(c10::DeviceIndex) override {
    c10::CachingDeviceAllocator::DeviceStats stats;
    stats.allocated_bytes[0].current = used_;
    stats.allocated_bytes[0].peak = peak_;
    stats.reserved_bytes[0].current = reserved_;
    return stats;
  }

  void resetAccumulatedStats(c10::DeviceIndex) override {}

  void resetPeakStats(c10::DeviceIndex) override { peak_ = used_; }

  std::pair<size_t, size_t> getMemoryInfo(c10::DeviceIndex) override { return {total_ - reserved_, total_}; }

  c10::DataPtr allocate(size_t) override { TORCH_CHECK(false, "a fake has no memory"); }

  void copy_data(void*, const void*, size_t) const override {}

 private:
  int64_t total_;
  int64_t used_ = 0;
  int64_t reserved_ = 0;
  int64_t peak_ = 0;
};

FakeGpu* fake = nullptr;

}  // namespace

extern "C" void fake_gpu_install(int64_t total) {
  fake = new FakeGpu(total);
  c10::SetAllocator(c10::DeviceType::CUDA, fake, 1);
}

extern "C" void fake_gpu_take(int64_t bytes) { fake->take(bytes); }

extern "C" int64_t fake_gpu_reserved() { return fake->reserved(); }
