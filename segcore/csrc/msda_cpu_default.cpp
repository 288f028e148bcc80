// Deformable attention for the compiler's own target: SSE2 on x86, NEON on ARM.
#include "msda_cpu_kernel.h"

namespace segcore {

template <>
MsdaKernels<float> msda_kernels_default() {
  return {&forward<float>, &backward<float>};
}
template <>
MsdaKernels<double> msda_kernels_default() {
  return {&forward<double>, &backward<double>};
}

}  // namespace segcore
