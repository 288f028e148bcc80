// Attention with a mask or a bias for the compiler's own target: SSE2 on x86, NEON on ARM.
#define SEGCORE_VECTOR_BYTES 16
#include "ma_cpu_kernel.h"

namespace segcore {

MaKernel ma_kernel_default() { return {&block_size, &forward}; }

}  // namespace segcore
