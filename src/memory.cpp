// An allocator for tensors on the CPU that keeps what is freed for the next tensor of the same size.
//
// A network asks for the same sizes again with every frame. The C library's allocator splits and joins blocks in between, or
// maps and clears pages each time; here a tensor gets the block that was freed last, which is still in the cache.

#include <c10/core/Allocator.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <unordered_map>
#include <vector>

#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace {

// Of every block: a cache line, and what the widest vectors want.
constexpr size_t kAlignment = 64;

class CachingAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t n) override {
    void* data = n == 0 ? nullptr : take((n + kAlignment - 1) / kAlignment * kAlignment);
    return {data, data, &give, c10::Device(c10::DeviceType::CPU)};
  }

  c10::DeleterFnPtr raw_deleter() const override { return &give; }

  void copy_data(void* to, const void* from, size_t n) const override { default_copy_data(to, from, n); }

  // Frees every block that no tensor has.
  void release() {
    std::lock_guard<std::mutex> alone(mutex_);
    empty();
    peak_ = used_;
  }

 private:
  // A line in front of the data holds its size.
  static size_t& size_of(void* data) { return *reinterpret_cast<size_t*>(static_cast<char*>(data) - kAlignment); }

  void* take(size_t size) {
    std::lock_guard<std::mutex> alone(mutex_);
    void* data = nullptr;
    auto found = kept_.find(size);
    if (found != kept_.end() && !found->second.empty()) {
      data = found->second.back();
      found->second.pop_back();
      kept_bytes_ -= size;
    } else {
      data = fresh(size);
      if (data == nullptr) {
        empty();
        data = fresh(size);
      }
      TORCH_CHECK(data != nullptr, "can't allocate memory: ", size, " bytes for a tensor");
    }
    used_ += size;
    peak_ = std::max(peak_, used_);
    return data;
  }

  static void give(void* data);

  void keep(void* data) {
    std::lock_guard<std::mutex> alone(mutex_);
    const size_t size = size_of(data);
    used_ -= size;
    // Sizes that are not asked for any more must not pile up: never more than was in use at once.
    if (kept_bytes_ + size > peak_) {
      empty();
    }
    kept_[size].push_back(data);
    kept_bytes_ += size;
  }

  static void* fresh(size_t size) {
    void* block = nullptr;
    if (posix_memalign(&block, kAlignment, size + kAlignment) != 0) {
      return nullptr;
    }
    void* data = static_cast<char*>(block) + kAlignment;
    size_of(data) = size;
    return data;
  }

  void empty() {
    for (auto& [size, blocks] : kept_) {
      for (void* data : blocks) {
        std::free(static_cast<char*>(data) - kAlignment);
      }
    }
    kept_.clear();
    kept_bytes_ = 0;
  }

  std::mutex mutex_;
  std::unordered_map<size_t, std::vector<void*>> kept_;
  size_t kept_bytes_ = 0;
  size_t used_ = 0;
  size_t peak_ = 0;
};

// Never destroyed: tensors may be freed until the very end of the process.
CachingAllocator& allocator() {
  static auto* only = new CachingAllocator;
  return *only;
}

void CachingAllocator::give(void* data) {
  if (data != nullptr) {
    allocator().keep(data);
  }
}

}  // namespace

extern "C" void osdd_cache_cpu_memory() { c10::SetAllocator(c10::DeviceType::CPU, &allocator(), 1); }

extern "C" void osdd_release_cpu_memory() {
  allocator().release();
#ifdef __GLIBC__
  // To the system, not only to the C library.
  malloc_trim(0);
#endif
}
