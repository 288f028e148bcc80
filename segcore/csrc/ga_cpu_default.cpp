// Attention to a map of rows and columns for the compiler's own target: SSE2 on x86, NEON on ARM.
#define SEGCORE_VECTOR_BYTES 16
#include "ga_cpu_kernel.h"

namespace segcore {

GaKernel ga_kernel_default() { return {kBlock, &forward}; }

}  // namespace segcore
