// Attention with a mask or a bias for AVX512. Standard headers come before the pragma: their inline functions are
// shared with the rest of the program and must stay runnable everywhere.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "ma_cpu.h"
#include "target.h"

#if SEGCORE_X86
SEGCORE_TARGET_BEGIN("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma,f16c")
#define SEGCORE_VECTOR_BYTES 64
#include "ma_cpu_kernel.h"

namespace segcore {

MaKernel ma_kernel_avx512() { return {&block_size, &forward}; }

}  // namespace segcore
SEGCORE_TARGET_END
#endif
