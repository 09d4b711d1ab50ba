// An allocator for tensors on the CPU that keeps what is freed for the next tensor of the same size.
//
// A network asks for the same sizes again with every frame. The C library's allocator splits and joins blocks in between, or
// maps and clears pages each time; here a tensor gets the block that was freed last, which is still in the cache.

#include <c10/core/Allocator.h>
#include <c10/util/Exception.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <unordered_map>
#include <vector>

namespace {

// Of every block: a cache line, and what the widest vectors want.
constexpr size_t kAlignment = 64;
// From here on blocks are mapped, so that what is given back goes to the system.
constexpr size_t kMapped = 1 << 20;

class CachingAllocator final : public c10::Allocator {
 public:
  explicit CachingAllocator(c10::Allocator* before) : before_(before) {}

  c10::DataPtr allocate(size_t n) override {
    TORCH_CHECK(n <= PTRDIFF_MAX - kAlignment, "can't allocate memory: ", n, " bytes for a tensor");
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
      sizes_.emplace(data, size);
    }
    used_ += size;
    peak_ = std::max(peak_, used_);
    return data;
  }

  static void give(void* data) noexcept;

  // Whether the block was one of ours.
  bool keep(void* data) noexcept {
    std::lock_guard<std::mutex> alone(mutex_);
    auto found = sizes_.find(data);
    if (found == sizes_.end()) {
      return false;
    }
    const size_t size = found->second;
    used_ -= size;
    // Sizes that are not asked for any more must not pile up.
    if (used_ + kept_bytes_ + size > 2 * peak_) {
      empty();
    }
    try {
      kept_[size].push_back(data);
      kept_bytes_ += size;
    } catch (const std::bad_alloc&) {
      sizes_.erase(found);
      drop(data, size);
    }
    return true;
  }

  static void* fresh(size_t size) {
    void* data = nullptr;
    if (size >= kMapped) {
      data = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      return data == MAP_FAILED ? nullptr : data;
    }
    return posix_memalign(&data, kAlignment, size) == 0 ? data : nullptr;
  }

  static void drop(void* data, size_t size) {
    if (size >= kMapped) {
      munmap(data, size);
    } else {
      std::free(data);
    }
  }

  void empty() {
    for (auto& [size, blocks] : kept_) {
      for (void* data : blocks) {
        sizes_.erase(data);
        drop(data, size);
      }
    }
    kept_.clear();
    kept_bytes_ = 0;
  }

  c10::Allocator* const before_;
  std::mutex mutex_;
  // Of all blocks of ours, in use or kept. Others come here too: oneDNN's scratch memory goes to whoever is the allocator
  // when it is freed.
  std::unordered_map<void*, size_t> sizes_;
  std::unordered_map<size_t, std::vector<void*>> kept_;
  size_t kept_bytes_ = 0;
  size_t used_ = 0;
  size_t peak_ = 0;
};

// Never destroyed: tensors may be freed until the very end of the process.
CachingAllocator& allocator() {
  static auto* only = new CachingAllocator(c10::GetAllocator(c10::DeviceType::CPU));
  return *only;
}

void CachingAllocator::give(void* data) noexcept {
  if (data != nullptr && !allocator().keep(data)) {
    allocator().before_->raw_deleter()(data);
  }
}

}  // namespace

extern "C" void osdd_cache_cpu_memory() { c10::SetAllocator(c10::DeviceType::CPU, &allocator(), 1); }

extern "C" void osdd_release_cpu_memory() { allocator().release(); }
