// Compiles one function body for AVX2 and for any processor, and calls the one that runs here.
#pragma once
#include "cpu_features.h"

#if defined(__GNUC__) || defined(__clang__)
#define SEGCORE_ALWAYS_INLINE inline __attribute__((always_inline))
#else
#define SEGCORE_ALWAYS_INLINE inline
#endif

namespace segcore {

#if SEGCORE_X86
template <class Body, class... Arguments>
__attribute__((target("avx2,fma"))) auto run_with_avx2(Arguments... arguments) {
  return Body::run(arguments...);
}
#endif

// Body::run must be SEGCORE_ALWAYS_INLINE, and call nothing that is not.
template <class Body, class... Arguments>
auto run_here(Arguments... arguments) {
#if SEGCORE_X86
  if (instruction_set() != InstructionSet::kDefault) return run_with_avx2<Body>(arguments...);
#endif
  return Body::run(arguments...);
}

}  // namespace segcore
