// Deformable attention for AVX2. Standard headers come before the pragma: their inline functions are
// shared with the rest of the program and must stay runnable everywhere.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "msda_cpu.h"
#include "target.h"

#if SEGCORE_X86
SEGCORE_TARGET_BEGIN("avx2,fma,f16c")
#include "msda_cpu_kernel.h"

namespace segcore {

template <>
MsdaKernels<float> msda_kernels_avx2() {
  return {&forward<float>, &backward<float>};
}
template <>
MsdaKernels<double> msda_kernels_avx2() {
  return {&forward<double>, &backward<double>};
}

}  // namespace segcore
SEGCORE_TARGET_END
#endif
