// A stand-in for libtorch's allocator for GPUs and for its streams, for tests: it has no memory, and only counts.

#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <thread>

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

// Stream 0 is the default one, and its handle is null, as CUDA's is; each thread has a current one.
class FakeStreams final : public c10::impl::DeviceGuardImplInterface {
 public:
  c10::DeviceType type() const override { return c10::DeviceType::CUDA; }
  c10::Device exchangeDevice(c10::Device) const override { return device(); }
  c10::Device getDevice() const override { return device(); }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  // Nobody else is to take this for a GPU.
  c10::DeviceIndex deviceCount() const noexcept override { return 0; }

  c10::Stream getStream(c10::Device) const override { return stream(current); }
  c10::Stream getDefaultStream(c10::Device) const override { return stream(0); }
  c10::Stream getStreamFromGlobalPool(c10::Device, bool) const override { return stream(++made); }

  c10::Stream exchangeStream(c10::Stream other) const override {
    const auto before = current;
    current = other.id();
    return stream(before);
  }

  void* getStreamNativeHandle(const c10::Stream stream) const override { return reinterpret_cast<void*>(stream.id()); }

  void synchronizeStream(const c10::Stream& stream) const override {
    TORCH_CHECK(stream.id() != lost, "CUDA error: unspecified launch failure");
    ++synchronized;
  }

  // Events are numbered; the test says which have been reached.
  void record(void** event, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {
    *event = new int64_t(++recorded);
  }

  bool queryEvent(void* event) const override { return *static_cast<int64_t*>(event) <= reached; }

  void synchronizeEvent(void* event) const override {
    while (!queryEvent(event)) {
      std::this_thread::yield();
    }
    TORCH_CHECK(!events_lost, "CUDA error: unspecified launch failure");
  }

  void destroyEvent(void* event, const c10::DeviceIndex) const noexcept override {
    delete static_cast<int64_t*>(event);
  }

  static inline std::atomic<int64_t> recorded = 0;
  static inline std::atomic<int64_t> reached = 0;
  static inline std::atomic<bool> events_lost = false;

  static inline thread_local c10::StreamId current = 0;
  static inline c10::StreamId made = 0;
  static inline c10::StreamId lost = -1;
  static inline int64_t synchronized = 0;

 private:
  static c10::Device device() { return c10::Device(c10::DeviceType::CUDA, 0); }
  static c10::Stream stream(c10::StreamId id) { return c10::Stream(c10::Stream::UNSAFE, device(), id); }
};

FakeStreams streams;

// Of the graph that was begun last; -1 where there is none.
int capture_mode = -1;

}  // namespace

enum cudaStreamCaptureMode { cudaStreamCaptureModeGlobal, cudaStreamCaptureModeThreadLocal };

namespace at::cuda {

// What graph.cpp looks for, under the names that a compiler gives it.
struct CUDAGraph {
  CUDAGraph(bool keep_graph);
  ~CUDAGraph();
  void capture_begin(std::pair<unsigned long long, unsigned long long> pool, cudaStreamCaptureMode mode);
  void capture_end();
  void replay();

  bool recorded;
};

CUDAGraph::CUDAGraph(bool keep_graph) : recorded(keep_graph) {}

CUDAGraph::~CUDAGraph() { capture_mode = -1; }

void CUDAGraph::capture_begin(std::pair<unsigned long long, unsigned long long> pool, cudaStreamCaptureMode mode) {
  TORCH_CHECK(pool.first == 0 && pool.second == 0, "a pool of its own");
  capture_mode = mode;
}

void CUDAGraph::capture_end() { recorded = true; }

void CUDAGraph::replay() { TORCH_CHECK(recorded, "nothing was recorded"); }

}  // namespace at::cuda

extern "C" void fake_gpu_install(int64_t total) {
  fake = new FakeGpu(total);
  // As libtorch's library for GPUs, this is where names are looked for.
  Dl_info here;
  dladdr(&fake, &here);
  dlopen(here.dli_fname, RTLD_NOW | RTLD_NOLOAD | RTLD_GLOBAL);
  c10::SetAllocator(c10::DeviceType::CUDA, fake, 1);
  c10::impl::device_guard_impl_registry[static_cast<size_t>(c10::DeviceType::CUDA)].store(&streams);
}

extern "C" void fake_gpu_take(int64_t bytes) { fake->take(bytes); }

extern "C" int64_t fake_gpu_reserved() { return fake->reserved(); }

// How often a stream has been waited for.
extern "C" int64_t fake_gpu_synchronized() { return FakeStreams::synchronized; }

// From now on waiting for this stream fails.
extern "C" void fake_gpu_lose(int64_t stream) { FakeStreams::lost = stream; }

// How the graph that was begun last records; -1 where there is none.
extern "C" int64_t fake_gpu_capture_mode() { return capture_mode; }

// The first so many events are reached.
extern "C" void fake_gpu_reach(int64_t events) { FakeStreams::reached = events; }

// From now on waiting for an event fails.
extern "C" void fake_gpu_lose_events() { FakeStreams::events_lost = true; }
