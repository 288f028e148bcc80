// Deformable attention on CUDA (Deformable DETR, arXiv:2010.04159, eq. 3), forward and backward.
//
// A team of threads, a power of two, serves one query and head; each thread holds kVector channels, 16 bytes of them
// where the channels divide. The team first computes the geometry of its N points, each point once, into shared
// memory (four offsets and four weights: two 16-byte broadcasts per point); then every thread streams its slice of
// the 4 N rows. Sums and geometry are fp32 (fp64 for double). Taps outside the map have offset -1: they load nothing,
// and their weight times zero lets NaN through.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "msda_cuda.h"

namespace segcore {
namespace {

constexpr int kThreads = 128;

template <class T>
struct Math {
  using type = float;
};
template <>
struct Math<double> {
  using type = double;
};

template <class A, class T>
__device__ __forceinline__ A widen(T x) {
  return A(x);
}
template <>
__device__ __forceinline__ float widen<float, __half>(__half x) {
  return __half2float(x);
}
template <>
__device__ __forceinline__ float widen<float, __nv_bfloat16>(__nv_bfloat16 x) {
  return __bfloat162float(x);
}

template <class T, class A>
__device__ __forceinline__ T narrow(A x) {
  return T(x);
}
template <>
__device__ __forceinline__ __half narrow<__half, float>(float x) {
  return __float2half_rn(x);
}
template <>
__device__ __forceinline__ __nv_bfloat16 narrow<__nv_bfloat16, float>(float x) {
  return __float2bfloat16_rn(x);
}

// kVector values that move as one load or store.
template <class T, int kVector>
struct alignas(sizeof(T) * kVector) Pack {
  T x[kVector];
};

// One point's four taps: element offsets inside the image's value map (-1: outside), weights, fractions.
template <class A>
struct alignas(16) Taps {
  int offset[4];
  A weight[4];
};

template <class A>
struct Point {
  A fx, fy, weight;  // fractions, weight after the softmax
};

__device__ __forceinline__ float exponential(float x) { return expf(x); }
__device__ __forceinline__ double exponential(double x) { return exp(x); }

template <int kTeam, class A>
__device__ __forceinline__ A team_sum(A x) {
#pragma unroll
  for (int step = kTeam / 2; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step, kTeam);
  return x;
}

template <int kTeam, class A>
__device__ __forceinline__ A team_max(A x) {
#pragma unroll
  for (int step = kTeam / 2; step > 0; step /= 2) {
    const A other = __shfl_xor_sync(0xffffffffu, x, step, kTeam);
    x = x > other ? x : other;
  }
  return x;
}

// Taps and fractions of the N points of one query and head, shared out over the team. All threads of a warp call it.
template <class A, int kTeam>
__device__ void locate(const MsdaCuda& p, int64_t image, int64_t query, int64_t head, int member, bool real,
                       Taps<A>* taps, Point<A>* kept) {
  const int n = p.levels * p.points;
  const int64_t at = ((image * p.queries + query) * p.heads + head) * n;
  const A *xy = static_cast<const A*>(p.points_xy) + 2 * at, *weights = static_cast<const A*>(p.weights) + at;
  const A* reference = static_cast<const A*>(p.reference);
  if (reference != nullptr) reference += image * p.reference_step + query * p.levels * 2;
  A peak = 0, inverse = 1;
  if (reference != nullptr) {
    peak = -INFINITY;
    for (int i = member; i < n; i += kTeam) {
      const A logit = real ? weights[i] : A(0);
      peak = logit > peak || logit != logit ? logit : peak;
    }
    peak = team_max<kTeam>(peak);
    A sum = 0;
    for (int i = member; i < n; i += kTeam) sum += exponential((real ? weights[i] : A(0)) - peak);
    inverse = A(1) / team_sum<kTeam>(sum);
  }
  if (!real) return;
  for (int i = member; i < n; i += kTeam) {
    const int level = i / p.points, height = p.height[level], width = p.width[level];
    A x = xy[2 * i], y = xy[2 * i + 1], weight = weights[i];
    if (reference != nullptr) {
      x += reference[2 * level] * width - A(0.5);
      y += reference[2 * level + 1] * height - A(0.5);
      weight = exponential(weight - peak) * inverse;
    } else {
      x = x * width - A(0.5);
      y = y * height - A(0.5);
    }
    const A floor_x = floor(x), floor_y = floor(y), fx = x - floor_x, fy = y - floor_y;
    Taps<A> out;
#pragma unroll
    for (int corner = 0; corner < 4; ++corner) {
      const A column = floor_x + A(corner & 1), row = floor_y + A(corner >> 1);
      // NaN fails the comparisons
      const bool inside = column >= 0 && column < width && row >= 0 && row < height;
      out.offset[corner] =
          inside ? ((p.start[level] + int(row) * width + int(column)) * int(p.heads) + int(head)) * int(p.channels) : -1;
      out.weight[corner] = ((corner & 1) ? fx : 1 - fx) * ((corner >> 1) ? fy : 1 - fy) * weight;
    }
    taps[i] = out;
    if (kept != nullptr) kept[i] = {fx, fy, weight};
  }
}

// Where this thread's team stands.
template <int kTeam>
struct Place {
  int64_t image, query, head;
  int member, team;
  bool real;

  __device__ explicit Place(const MsdaCuda& p) {
    member = int(threadIdx.x) % kTeam;
    team = int(threadIdx.x) / kTeam;
    const int64_t index = int64_t(blockIdx.x) * (kThreads / kTeam) + team;
    real = index < p.batch * p.queries * p.heads;
    head = index % p.heads;
    query = index / p.heads % p.queries;
    image = index / p.heads / p.queries;
    if (!real) head = query = image = 0;
  }
};

template <class T, int kVector, int kTeam>
__global__ void __launch_bounds__(kThreads) forward_kernel(const MsdaCuda p, T* output) {
  using A = typename Math<T>::type;
  extern __shared__ __align__(16) unsigned char shared[];
  const Place<kTeam> place(p);
  const int n = p.levels * p.points;
  Taps<A>* taps = reinterpret_cast<Taps<A>*>(shared) + place.team * n;
  locate<A, kTeam>(p, place.image, place.query, place.head, place.member, place.real, taps, nullptr);
  __syncwarp();
  if (!place.real) return;
  const T* map = static_cast<const T*>(p.value) + place.image * p.tokens * p.heads * p.channels;
  T* target = output + ((place.image * p.queries + place.query) * p.heads + place.head) * p.channels;
  for (int c = place.member * kVector; c < p.channels; c += kTeam * kVector) {
    A sum[kVector] = {};
#pragma unroll 4
    for (int i = 0; i < n; ++i) {
      const Taps<A> tap = taps[i];
#pragma unroll
      for (int corner = 0; corner < 4; ++corner) {
        Pack<T, kVector> row = {};
        if (tap.offset[corner] >= 0)
          row = *reinterpret_cast<const Pack<T, kVector>*>(map + tap.offset[corner] + c);
#pragma unroll
        for (int v = 0; v < kVector; ++v) sum[v] += tap.weight[corner] * widen<A>(row.x[v]);
      }
    }
    Pack<T, kVector> out;
#pragma unroll
    for (int v = 0; v < kVector; ++v) out.x[v] = narrow<T>(sum[v]);
    *reinterpret_cast<Pack<T, kVector>*>(target + c) = out;
  }
}

// Adds kVector numbers to memory that other threads add to.
template <class A, int kVector>
__device__ __forceinline__ void add_floating(A* target, const A* part) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  if constexpr (sizeof(A) == 4 && kVector % 4 == 0) {
#pragma unroll
    for (int v = 0; v < kVector; v += 4)  // one 16-byte reduction instead of four
      atomicAdd(reinterpret_cast<float4*>(target + v), make_float4(part[v], part[v + 1], part[v + 2], part[v + 3]));
    return;
  }
#endif
#pragma unroll
  for (int v = 0; v < kVector; ++v) atomicAdd(target + v, part[v]);
}

template <class A, int kVector>
__device__ __forceinline__ void add_fixed(unsigned long long* target, const A* part, double scale) {
#pragma unroll
  for (int v = 0; v < kVector; ++v)
    atomicAdd(target + v, static_cast<unsigned long long>(__double2ll_rn(double(part[v]) * scale)));
}

template <class T, int kVector, int kTeam, bool kFixed>
__global__ void __launch_bounds__(kThreads)
    backward_kernel(const MsdaCuda p, const T* grad, void* grad_value, void* grad_points, void* grad_weights,
                    const double* fixed_point) {
  using A = typename Math<T>::type;
  extern __shared__ __align__(16) unsigned char shared[];
  const Place<kTeam> place(p);
  const int n = p.levels * p.points;
  constexpr int kTeams = kThreads / kTeam;
  Taps<A>* taps = reinterpret_cast<Taps<A>*>(shared) + place.team * n;
  Point<A>* kept = reinterpret_cast<Point<A>*>(reinterpret_cast<Taps<A>*>(shared) + kTeams * n) + place.team * n;
  locate<A, kTeam>(p, place.image, place.query, place.head, place.member, place.real, taps, kept);
  __syncwarp();
  const int64_t at = (place.image * p.queries + place.query) * p.heads + place.head;
  const int64_t map_start = place.image * p.tokens * p.heads * p.channels;
  const T* map = static_cast<const T*>(p.value) + map_start;
  const double scale = kFixed ? *fixed_point : 1.0;
  const bool fused = p.reference != nullptr;
  A* xy = static_cast<A*>(grad_points) + 2 * at * n;
  A* weights = static_cast<A*>(grad_weights) + at * n;
  A mean = 0;
  // threads without a query take part in the warp's shuffles, with zeros
  for (int i = 0; i < n; ++i) {
    A dot[4] = {};
    if (place.real) {
      const Taps<A> tap = taps[i];
      for (int c = place.member * kVector; c < p.channels; c += kTeam * kVector) {
        const Pack<T, kVector> top = *reinterpret_cast<const Pack<T, kVector>*>(grad + at * p.channels + c);
#pragma unroll
        for (int corner = 0; corner < 4; ++corner) {
          if (tap.offset[corner] < 0) continue;
          const int64_t cell = tap.offset[corner] + c;
          const Pack<T, kVector> row = *reinterpret_cast<const Pack<T, kVector>*>(map + cell);
          A part[kVector];
#pragma unroll
          for (int v = 0; v < kVector; ++v) {
            const A g = widen<A>(top.x[v]);
            dot[corner] += g * widen<A>(row.x[v]);
            part[v] = g * tap.weight[corner];
          }
          if constexpr (kFixed)
            add_fixed<A, kVector>(static_cast<unsigned long long*>(grad_value) + map_start + cell, part, scale);
          else
            add_floating<A, kVector>(static_cast<A*>(grad_value) + map_start + cell, part);
        }
      }
    }
#pragma unroll
    for (int corner = 0; corner < 4; ++corner) dot[corner] = team_sum<kTeam>(dot[corner]);
    if (!place.real) continue;
    const Point<A> point = kept[i];
    const A fx = point.fx, fy = point.fy;
    const A grad_weight = (1 - fy) * ((1 - fx) * dot[0] + fx * dot[1]) + fy * ((1 - fx) * dot[2] + fx * dot[3]);
    mean += point.weight * grad_weight;
    if (place.member == i % kTeam) {
      const int level = i / p.points;
      // pixel offsets have unit slope; normalised locations carry the size of their level
      const A slope_x = fused ? point.weight : point.weight * p.width[level];
      const A slope_y = fused ? point.weight : point.weight * p.height[level];
      xy[2 * i] = slope_x * ((1 - fy) * (dot[1] - dot[0]) + fy * (dot[3] - dot[2]));
      xy[2 * i + 1] = slope_y * ((1 - fx) * (dot[2] - dot[0]) + fx * (dot[3] - dot[1]));
      weights[i] = grad_weight;
    }
  }
  if (!fused || !place.real) return;
  for (int i = place.member; i < n; i += kTeam)  // each thread reads back what it wrote itself
    weights[i] = kept[i].weight * (weights[i] - mean);
}

template <class T>
int64_t shared_bytes(const MsdaCuda& p, int team, bool backward) {
  using A = typename Math<T>::type;
  return int64_t(kThreads / team) * p.levels * p.points *
         int64_t(sizeof(Taps<A>) + (backward ? sizeof(Point<A>) : 0));
}

template <class T, int kVector, int kTeam>
int launch(const MsdaCuda& p, bool backward, const void* grad, void* output, void* grad_points, void* grad_weights,
           const double* fixed_point, cudaStream_t stream) {
  const int64_t teams = p.batch * p.queries * p.heads, per_block = kThreads / kTeam;
  const unsigned blocks = unsigned((teams + per_block - 1) / per_block);
  const size_t bytes = size_t(shared_bytes<T>(p, kTeam, backward));
  const void* kernel = reinterpret_cast<const void*>(&forward_kernel<T, kVector, kTeam>);
  if (backward)
    kernel = fixed_point != nullptr ? reinterpret_cast<const void*>(&backward_kernel<T, kVector, kTeam, true>)
                                    : reinterpret_cast<const void*>(&backward_kernel<T, kVector, kTeam, false>);
  if (bytes > 48 * 1024) {  // more than the default: ask for it
    const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes));
    if (error != cudaSuccess) return int(error);
  }
  if (!backward)
    forward_kernel<T, kVector, kTeam><<<blocks, kThreads, bytes, stream>>>(p, static_cast<T*>(output));
  else if (fixed_point != nullptr)
    backward_kernel<T, kVector, kTeam, true><<<blocks, kThreads, bytes, stream>>>(
        p, static_cast<const T*>(grad), output, grad_points, grad_weights, fixed_point);
  else
    backward_kernel<T, kVector, kTeam, false><<<blocks, kThreads, bytes, stream>>>(
        p, static_cast<const T*>(grad), output, grad_points, grad_weights, nullptr);
  return int(cudaGetLastError());
}

// Vector width and team size: 16 bytes a thread where the channels divide, and a team that covers them once. Four
// threads at least: the points of a block's teams share its memory.
template <class T>
int dispatch(const MsdaCuda& p, bool backward, const void* grad, void* output, void* grad_points, void* grad_weights,
             const double* fixed_point, void* stream_handle) {
  const cudaStream_t stream = static_cast<cudaStream_t>(stream_handle);
  constexpr int kWide = 16 / int(sizeof(T));
#define SEGCORE_LAUNCH(vector, team) \
  return launch<T, vector, team>(p, backward, grad, output, grad_points, grad_weights, fixed_point, stream)
  if (p.channels % kWide == 0) {
    const int64_t threads = p.channels / kWide;
    if (threads <= 4) SEGCORE_LAUNCH(kWide, 4);
    if (threads <= 8) SEGCORE_LAUNCH(kWide, 8);
    SEGCORE_LAUNCH(kWide, 16);
  }
  SEGCORE_LAUNCH(1, 8);
#undef SEGCORE_LAUNCH
}

int dispatch_type(const MsdaCuda& p, bool backward, const void* grad, void* output, void* grad_points,
                  void* grad_weights, const double* fixed_point, void* stream) {
  switch (p.type) {
    case MsdaType::kDouble:
      return dispatch<double>(p, backward, grad, output, grad_points, grad_weights, fixed_point, stream);
    case MsdaType::kHalf:
      return dispatch<__half>(p, backward, grad, output, grad_points, grad_weights, fixed_point, stream);
    case MsdaType::kBFloat16:
      return dispatch<__nv_bfloat16>(p, backward, grad, output, grad_points, grad_weights, fixed_point, stream);
    default:
      return dispatch<float>(p, backward, grad, output, grad_points, grad_weights, fixed_point, stream);
  }
}

}  // namespace

int msda_cuda_forward(const MsdaCuda& p, void* output, void* stream) {
  return dispatch_type(p, false, nullptr, output, nullptr, nullptr, nullptr, stream);
}

int msda_cuda_backward(const MsdaCuda& p, const void* grad, void* grad_value, void* grad_points, void* grad_weights,
                       const double* fixed_point, void* stream) {
  return dispatch_type(p, true, grad, grad_value, grad_points, grad_weights, fixed_point, stream);
}

const char* msda_cuda_error(int code) { return cudaGetErrorString(static_cast<cudaError_t>(code)); }

}  // namespace segcore
