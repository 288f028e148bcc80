// Memory of large CPU tensors from one range of addresses, where freed neighbours become one block again.
//
// glibc cannot give a freed aligned block to the next request of its size: a picture whose tensors take 100 MB at any
// moment leaves a heap of 300 MB. Here a request gets the smallest free block that holds it, the first of several, and
// a freed block joins its free neighbours. Small tensors stay with PyTorch's own allocator.
//
// Addresses are reserved once; the system gives a page when it is first written, two megabytes at a time where it can.
// The pages of freed blocks are kept, up to a limit: that is what makes the next tensor cheap.
#include <torch/library.h>

#ifdef __linux__
#include <c10/core/CPUAllocator.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <map>
#include <mutex>
#include <set>
#include <unordered_map>
#include <utility>
#endif

namespace segcore {
namespace {

#ifdef __linux__

constexpr size_t kSmallest = size_t(1) << 18;  // bytes; what is smaller costs glibc little and would split blocks
constexpr size_t kAlignment = 64;              // bytes, as PyTorch's own

// Ranges of addresses that do not overlap.
class Ranges {
 public:
  size_t bytes() const { return bytes_; }

  void add(char* first, char* last) {
    if (first == last) return;
    ranges_[first] = last;
    bytes_ += last - first;
  }

  // Whatever lies in [first, last) leaves.
  void cut(char* first, char* last) {
    auto at = ranges_.lower_bound(first);
    if (at != ranges_.begin() && std::prev(at)->second > first) --at;
    while (at != ranges_.end() && at->first < last) {
      const auto [from, to] = *at;
      bytes_ -= to - from;
      at = ranges_.erase(at);
      if (from < first) add(from, first);
      if (to > last) add(last, to);
    }
  }

  // Those for which `done` is true leave.
  template <class F>
  void drop(const F& done) {
    for (auto at = ranges_.begin(); at != ranges_.end();) {
      const auto [from, to] = *at;
      if (!done(from, to)) {
        ++at;
        continue;
      }
      bytes_ -= to - from;
      at = ranges_.erase(at);
    }
  }

 private:
  std::map<char*, char*> ranges_;  // from the first address to the one after the last
  size_t bytes_ = 0;
};

// Blocks of a range of addresses. Those from `top_` on were never taken, and are no block.
class Arena {
 public:
  Arena(char* first, size_t size, size_t page) : first_(first), end_(first + size), page_(page), top_(first) {}

  bool holds(const void* address) const { return address >= first_ && address < end_; }

  // Up to so many bytes of freed blocks may stay in memory; the most that was asked for counts.
  void keep(size_t bytes) { kept_ = std::max(kept_, bytes); }

  // At least `bytes`, or null where no addresses are left for them.
  void* take(size_t bytes) {
    const size_t size = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    const auto fit = sizes_.lower_bound({size, nullptr});
    char* const block = fit == sizes_.end() ? grow(size) : fit->second;
    if (block == nullptr) return nullptr;
    const size_t whole = remove(free_.find(block));
    if (whole > size) add(block + size, whole - size);
    taken_[block] = size;
    resident_.cut(block, block + size);
    return block;
  }

  void give_back(void* pointer) {
    const auto found = taken_.find(static_cast<char*>(pointer));
    char* block = found->first;
    size_t size = found->second;
    taken_.erase(found);
    resident_.add(block, block + size);
    const auto next = free_.find(block + size);
    if (next != free_.end()) size += remove(next);
    const auto after = free_.lower_bound(block);
    if (after != free_.begin() && end_of(std::prev(after)) == block) {
      block = std::prev(after)->first;
      size += remove(std::prev(after));
    }
    add(block, size);
    if (resident_.bytes() > kept_) resident_.drop([this](char* from, char* to) { return discard(from, to); });
  }

 private:
  using Blocks = std::map<char*, size_t>;

  static char* end_of(Blocks::const_iterator at) { return at->first + at->second; }

  void add(char* block, size_t size) {
    free_[block] = size;
    sizes_.insert({size, block});
  }

  size_t remove(Blocks::iterator at) {
    const size_t size = at->second;
    sizes_.erase({size, at->first});
    free_.erase(at);
    return size;
  }

  // A free block of `size` that ends at a new top. It begins with the free block before the old one, if there is any.
  char* grow(size_t size) {
    const bool extends = !free_.empty() && end_of(std::prev(free_.end())) == top_;
    char* const block = extends ? std::prev(free_.end())->first : top_;
    if (size > size_t(end_ - block)) return nullptr;
    if (extends) remove(std::prev(free_.end()));
    top_ = block + size;
    add(block, size);
    return block;
  }

  // The system gets the whole pages; whether it took them.
  bool discard(char* first, char* last) const {
    first += (page_ - uintptr_t(first) % page_) % page_;
    last -= uintptr_t(last) % page_;
    return first >= last || madvise(first, last - first, MADV_DONTNEED) == 0;
  }

  char* const first_;
  char* const end_;
  const size_t page_;  // bytes
  char* top_;
  size_t kept_ = 0;    // bytes
  Blocks free_;        // bytes by address
  std::set<std::pair<size_t, char*>> sizes_;  // of the same blocks
  std::unordered_map<char*, size_t> taken_;
  Ranges resident_;    // of free blocks: what may be in memory
};

// They live as long as the process: tensors are freed until its end.
std::mutex& lock = *new std::mutex;
Arena* arena = nullptr;
c10::Allocator* others = nullptr;  // serves what the arena does not

void release(void* pointer) {
  if (!arena->holds(pointer)) return others->raw_deleter()(pointer);
  c10::profiledCPUMemoryReporter().Delete(pointer);
  const std::lock_guard<std::mutex> guard(lock);
  arena->give_back(pointer);
}

struct ArenaAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    void* pointer = bytes < kSmallest ? nullptr : take(bytes);
    if (pointer == nullptr) pointer = others->raw_allocate(bytes);
    return {pointer, pointer, &release, c10::Device(c10::DeviceType::CPU)};
  }

  c10::DeleterFnPtr raw_deleter() const override { return &release; }

  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }

 private:
  static void* take(size_t bytes) {
    std::unique_lock<std::mutex> guard(lock);
    void* const pointer = arena->take(bytes);
    guard.unlock();
    if (pointer != nullptr) c10::profiledCPUMemoryReporter().New(pointer, bytes);
    return pointer;
  }
};

// A range of four times the machine's memory: more than gaps between blocks can use up. Null where the system refuses.
Arena* reserve() {
  const size_t page = size_t(sysconf(_SC_PAGESIZE)), size = 4 * size_t(sysconf(_SC_PHYS_PAGES)) * page;
  constexpr int kind = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  void* const range = mmap(nullptr, size, PROT_READ | PROT_WRITE, kind, -1, 0);
  if (range == MAP_FAILED) return nullptr;
  madvise(range, size, MADV_HUGEPAGE);  // faster where it is granted, and right where it is not
  return new Arena(static_cast<char*>(range), size, page);
}

bool install() {
  others = c10::GetCPUAllocator();
  if (others->raw_deleter() == nullptr) return false;
  arena = reserve();
  if (arena == nullptr) return false;
  // In a forked process the thread that held the lock is gone.
  pthread_atfork([] { lock.lock(); }, [] { lock.unlock(); }, [] { lock.unlock(); });
  c10::SetCPUAllocator(new ArenaAllocator, /*priority=*/1);
  return true;
}

bool use_arena(int64_t kept) {
  static const bool installed = install();
  if (!installed) return false;
  const std::lock_guard<std::mutex> guard(lock);
  arena->keep(size_t(kept));
  return true;
}

#else

bool use_arena(int64_t) { return false; }

#endif

}  // namespace

TORCH_LIBRARY_FRAGMENT(segcore_native, m) {
  // For the rest of the process, up to `kept` bytes of freed memory being kept. False: not on this system.
  m.def("use_arena(int kept) -> bool", &use_arena);
}

}  // namespace segcore
