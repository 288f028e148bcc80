// The best instruction set that this processor and this build share. ATEN_CPU_CAPABILITY=default or avx2 limits it, as
// it limits PyTorch's own kernels.
#pragma once
#include <cstdlib>
#include <cstring>

#include "target.h"

namespace segcore {

enum class InstructionSet { kDefault, kAvx2, kAvx512 };

inline InstructionSet instruction_set() {
#if SEGCORE_X86
  static const InstructionSet best = [] {
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
    const char* limit = std::getenv("ATEN_CPU_CAPABILITY");
    if (limit != nullptr && std::strcmp(limit, "default") == 0) return InstructionSet::kDefault;
    if (limit != nullptr && std::strcmp(limit, "avx2") == 0 && avx2) return InstructionSet::kAvx2;
    return avx512 ? InstructionSet::kAvx512 : avx2 ? InstructionSet::kAvx2 : InstructionSet::kDefault;
  }();
  return best;
#else
  return InstructionSet::kDefault;
#endif
}

inline const char* instruction_set_name() {
  switch (instruction_set()) {
    case InstructionSet::kAvx512:
      return "AVX-512VL";
    case InstructionSet::kAvx2:
      return "AVX2";
    default:
      return "default";
  }
}

// Of three builds of a function, the one for this processor.
template <class Function>
Function choose(Function plain, Function avx2, Function avx512) {
  const auto best = instruction_set();
  return best == InstructionSet::kAvx512 ? avx512 : best == InstructionSet::kAvx2 ? avx2 : plain;
}

}  // namespace segcore

// name_default, name_avx2 or name_avx512, with template arguments if it has some; other processors have the first alone.
#if SEGCORE_X86
#define SEGCORE_BUILD_OF(name, ...) \
  segcore::choose(&name##_default __VA_ARGS__, &name##_avx2 __VA_ARGS__, &name##_avx512 __VA_ARGS__)
#else
#define SEGCORE_BUILD_OF(name, ...) (&name##_default __VA_ARGS__)
#endif
