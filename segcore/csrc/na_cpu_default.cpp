// Neighbourhood attention for the compiler's own target: SSE2 on x86, NEON on ARM.
#define SEGCORE_VECTOR_BYTES 16
#include "na_cpu_kernel.h"

namespace segcore {

template <>
NaKernels<float> na_kernels_default() {
  return {&forward<float>, &backward<float>};
}
template <>
NaKernels<double> na_kernels_default() {
  return {&forward<double>, &backward<double>};
}

}  // namespace segcore
