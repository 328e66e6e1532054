// Memory for PyTorch's tensors on the CPU, from one range of addresses, reused exactly.
//
// The C library finds a place for an aligned block by asking for a larger one and cutting it, so a
// block that was freed is too small for the next of its own size (glibc's bug 14581), and between
// blocks that live long its memory lies idle. Here every block begins and ends on a cache line: what
// was freed fits the next of its size, and neighbours that are both free become one. The lowest place
// that is large enough is taken: in training that leaves a few per cent idle, where the smallest such
// place leaves a fifth. Nothing is given back to the kernel.
//
// Small tensors, and what finds no room, go to PyTorch's own allocator.
// Built by `tensor_memory.py` against the installed PyTorch's headers. It knows no tensors.

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <iterator>
#include <map>
#include <mutex>
#include <set>
#include <unordered_map>
#include <vector>

namespace {

constexpr size_t LINE = 64;
constexpr size_t SMALLEST = 1 << 14;
// Tensors of a power of two would otherwise all begin at the same place of a page, and fall on the
// same lines of the cache.
constexpr size_t STAGGER = 2 * LINE;

class Blocks {
 public:
  Blocks(char* start, size_t size) : start_(start), end_(start + size) { add(start, size); }

  bool owns(const void* pointer) const { return pointer >= start_ && pointer < end_; }

  void* take(size_t wanted) {
    const size_t size = (wanted + LINE - 1) / LINE * LINE + STAGGER;
    std::lock_guard<std::mutex> guard(mutex);
    char* const place = lowest(size);
    if (place == nullptr) return nullptr;
    const size_t room = remove(free_.find(place));
    if (room > size) add(place + size, room - size);
    used_.emplace(place, size);
    in_use_ += size;
    if (place + size > start_ + touched_) touched_ = place + size - start_;
    return place;
  }

  void give(void* pointer) {
    char* place = static_cast<char*>(pointer);
    std::lock_guard<std::mutex> guard(mutex);
    const auto found = used_.find(place);
    size_t size = found->second;
    in_use_ -= size;
    used_.erase(found);
    const auto after = free_.lower_bound(place);
    const auto before = after == free_.begin() ? free_.end() : std::prev(after);
    if (after != free_.end() && place + size == after->first) size += remove(after);
    if (before != free_.end() && before->first + before->second == place) {
      place = before->first;
      size += remove(before);
    }
    add(place, size);
  }

  size_t in_use() {
    std::lock_guard<std::mutex> guard(mutex);
    return in_use_;
  }

  // Bytes of free places that the kernel counts as the process's: those that were written once.
  size_t idle() {
    std::lock_guard<std::mutex> guard(mutex);
    const uintptr_t page = sysconf(_SC_PAGESIZE);
    std::vector<unsigned char> there;
    size_t pages = 0;
    for (const auto& [place, size] : free_) {
      char* const after = std::min(place + size, start_ + touched_);
      const uintptr_t first = (reinterpret_cast<uintptr_t>(place) + page - 1) / page * page;
      const uintptr_t last = reinterpret_cast<uintptr_t>(after) / page * page;
      if (first >= last) continue;
      there.resize((last - first) / page);
      if (mincore(reinterpret_cast<void*>(first), last - first, there.data()) != 0) return 0;
      for (const unsigned char state : there) pages += state & 1;
    }
    return pages * page;
  }

  size_t touched() {
    std::lock_guard<std::mutex> guard(mutex);
    return touched_;
  }

  std::mutex mutex;

 private:
  static int class_of(size_t size) { return 63 - __builtin_clzll(size); }

  // The lowest place that is large enough. Of the class of this size some are too small, of those
  // above it none.
  char* lowest(size_t size) const {
    char* best = nullptr;
    const int own = class_of(size);
    for (char* place : classes_[own]) {
      if (free_.at(place) < size) continue;
      best = place;
      break;
    }
    for (size_t above = own + 1; above < classes_.size(); ++above) {
      if (classes_[above].empty()) continue;
      char* place = *classes_[above].begin();
      if (best == nullptr || place < best) best = place;
    }
    return best;
  }

  void add(char* place, size_t size) {
    free_.emplace(place, size);
    classes_[class_of(size)].insert(place);
  }

  size_t remove(std::map<char*, size_t>::const_iterator place) {
    const size_t size = place->second;
    classes_[class_of(size)].erase(place->first);
    free_.erase(place);
    return size;
  }

  char* const start_;
  char* const end_;
  std::map<char*, size_t> free_;
  std::array<std::set<char*>, 64> classes_;  // free places by the power of two of their size
  std::unordered_map<char*, size_t> used_;
  size_t in_use_ = 0;
  size_t touched_ = 0;
};

Blocks* blocks = nullptr;
c10::Allocator* stock = nullptr;

void release(void* pointer) {
  if (!blocks->owns(pointer)) {
    stock->raw_deallocate(pointer);
    return;
  }
  c10::profiledCPUMemoryReporter().Delete(pointer);
  blocks->give(pointer);
}

class TensorMemory final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t size) override {
    void* pointer = size < SMALLEST ? nullptr : blocks->take(size);
    if (pointer != nullptr) {
      c10::profiledCPUMemoryReporter().New(pointer, size);
    } else {
      pointer = stock->raw_allocate(size);
    }
    return {pointer, pointer, &release, c10::Device(c10::DeviceType::CPU)};
  }

  c10::DeleterFnPtr raw_deleter() const override { return &release; }

  void copy_data(void* to, const void* from, size_t count) const override {
    default_copy_data(to, from, count);
  }
};

}  // namespace

extern "C" {

// Take `size` bytes of addresses and serve tensors from them; returns whether that is done. With
// `huge` the kernel is asked for huge pages. To be called once.
int tensor_memory_begin(uint64_t size, int huge) {
  stock = c10::GetAllocator(c10::DeviceType::CPU);
  if (blocks != nullptr || stock == nullptr || stock->raw_deleter() == nullptr) return 0;
  constexpr int kind = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  void* start = mmap(nullptr, size, PROT_READ | PROT_WRITE, kind, -1, 0);
  if (start == MAP_FAILED) return 0;
  if (huge != 0) madvise(start, size, MADV_HUGEPAGE);
  blocks = new Blocks(static_cast<char*>(start), size);
  pthread_atfork([] { blocks->mutex.lock(); }, [] { blocks->mutex.unlock(); },
                 [] { blocks->mutex.unlock(); });
  auto* ours = new TensorMemory();
  c10::SetAllocator(c10::DeviceType::CPU, ours);
  return c10::GetAllocator(c10::DeviceType::CPU) == ours;
}

// Bytes that tensors hold now, and the most that lay below the highest place ever taken.
uint64_t tensor_memory_in_use() { return blocks == nullptr ? 0 : blocks->in_use(); }
uint64_t tensor_memory_touched() { return blocks == nullptr ? 0 : blocks->touched(); }

// Bytes that no tensor holds and that were written once, in whole pages; 0 where that is not known.
uint64_t tensor_memory_idle() { return blocks == nullptr ? 0 : blocks->idle(); }
}
