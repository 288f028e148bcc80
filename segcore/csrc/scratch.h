// Zeroed scratch memory for the CPU kernels, aligned to cache lines: vectors never straddle two.
//
// Not std::vector: its members are shared (weak) symbols, and the linker could hand a copy built for AVX-512
// to code that runs anywhere.
#pragma once
#include <cstdint>
#include <cstdlib>

namespace {

template <class T>
class Scratch {
 public:
  Scratch() = default;
  explicit Scratch(int64_t size) { resize(size); }
  ~Scratch() { std::free(block_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  void resize(int64_t size) {
    std::free(block_);
    block_ = std::calloc(size_t(size > 0 ? size : 1) * sizeof(T) + 63, 1);
    if (block_ == nullptr) std::abort();  // a few kilobytes: no program goes on from here
    data_ = reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(block_) + 63) / 64 * 64);
  }
  T* data() { return data_; }
  const T* data() const { return data_; }
  T& operator[](int64_t i) { return data_[i]; }
  const T& operator[](int64_t i) const { return data_[i]; }

 private:
  void* block_ = nullptr;
  T* data_ = nullptr;
};

static inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

}  // namespace
