// Attention to a map of rows and columns for AVX512. Standard headers come before the pragma: their inline functions are
// shared with the rest of the program and must stay runnable everywhere.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "ga_cpu.h"
#include "target.h"

#if SEGCORE_X86
SEGCORE_TARGET_BEGIN("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma,f16c")
#define SEGCORE_VECTOR_BYTES 64
#include "ga_cpu_kernel.h"

namespace segcore {

GaKernel ga_kernel_avx512() { return {kBlock, &forward}; }

}  // namespace segcore
SEGCORE_TARGET_END
#endif
