// An allocator for tensors on the CPU that keeps what is freed for tensors of about the same size.
//
// A network asks for the same sizes again with every frame. The C library's allocator splits and joins blocks in between, or
// maps and clears pages each time; here a tensor gets a block that another of about its size had before.

#include <c10/core/Allocator.h>
#include <c10/util/Exception.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <iterator>
#include <map>
#include <mutex>
#include <unordered_map>

namespace {

// Of every block: a cache line, and what the widest vectors want.
constexpr size_t kAlignment = 64;
// From here on blocks are mapped, so that what is given back goes to the system.
constexpr size_t kMapped = 1 << 20;
// From here on the system is asked for large pages.
constexpr size_t kHuge = 4 << 20;

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
    shrink(0);
    peak_ = used_;
  }

  // Bytes in use, from which on the peak is watched.
  size_t watch() {
    std::lock_guard<std::mutex> alone(mutex_);
    return watched_peak_ = used_;
  }

  size_t watched_peak() {
    std::lock_guard<std::mutex> alone(mutex_);
    return watched_peak_;
  }

 private:
  void* take(size_t size) {
    std::lock_guard<std::mutex> alone(mutex_);
    // A block that is somewhat too large serves as well: a network's sizes are many, its memory at any time is of few.
    auto found = kept_.upper_bound(size);
    if (found != kept_.begin() && std::prev(found)->first == size) {
      // Freed last of its size, so most likely still in the cache.
      --found;
    }
    void* data = nullptr;
    if (found != kept_.end() && found->first <= size + size / 2) {
      size = found->first;
      data = found->second.data;
      kept_bytes_ -= size;
      kept_.erase(found);
    } else {
      data = fresh(size);
      if (data == nullptr) {
        shrink(0);
        data = fresh(size);
      }
      TORCH_CHECK(data != nullptr, "can't allocate memory: ", size, " bytes for a tensor");
      sizes_.emplace(data, size);
    }
    used_ += size;
    peak_ = std::max(peak_, used_);
    watched_peak_ = std::max(watched_peak_, used_);
    shrink(2 * peak_ - used_);
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
    try {
      kept_.emplace(size, Kept{data, ++freed_});
      kept_bytes_ += size;
      // Sizes that are not asked for any more must not pile up.
      shrink(2 * peak_ - used_);
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
      if (data == MAP_FAILED) {
        return nullptr;
      }
#ifdef MADV_HUGEPAGE
      // A map of many megabytes is many thousand small pages, more than a processor remembers the places of.
      if (size >= kHuge) {
        madvise(data, size, MADV_HUGEPAGE);
      }
#endif
      return data;
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

  // Frees what has been kept longest until so many bytes are left.
  void shrink(size_t bytes) {
    while (kept_bytes_ > bytes) {
      auto oldest = std::min_element(kept_.begin(), kept_.end(), [](const auto& one, const auto& two) {
        return one.second.freed < two.second.freed;
      });
      kept_bytes_ -= oldest->first;
      sizes_.erase(oldest->second.data);
      drop(oldest->second.data, oldest->first);
      kept_.erase(oldest);
    }
  }

  struct Kept {
    void* data;
    // When, in frees.
    uint64_t freed;
  };

  c10::Allocator* const before_;
  std::mutex mutex_;
  // Of all blocks of ours, in use or kept. Others come here too: oneDNN's scratch memory goes to whoever is the allocator
  // when it is freed.
  std::unordered_map<void*, size_t> sizes_;
  std::multimap<size_t, Kept> kept_;
  uint64_t freed_ = 0;
  size_t kept_bytes_ = 0;
  size_t used_ = 0;
  size_t peak_ = 0;
  size_t watched_peak_ = 0;
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

extern "C" size_t osdd_watch_cpu_memory() { return allocator().watch(); }

extern "C" size_t osdd_watched_cpu_memory() { return allocator().watched_peak(); }
