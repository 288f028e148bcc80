// PyTorch binding of the CUDA deformable attention: checks, memory, stream. Only c10 headers of CUDA: ATen's need
// cuSPARSE's, which a small toolkit lacks.
#include "msda_cuda.h"

#include <ATen/Context.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

namespace segcore {
namespace {

constexpr int kFixedPointBits = 61;  // of the largest possible sum of a gradient, in the deterministic mode

struct Inputs {
  at::Tensor value, reference, points, weights;
  MsdaCuda problem{};

  Inputs(const at::Tensor& value_in, at::IntArrayRef shapes, const std::optional<at::Tensor>& reference_in,
         const at::Tensor& points_in, const at::Tensor& weights_in) {
    TORCH_CHECK(value_in.dim() == 4 && points_in.dim() == 6 && weights_in.dim() == 5,
                "ms_deform_attn: expected value (B, S, M, D), points (B, Q, M, L, P, 2), weights (B, Q, M, L, P); got ",
                value_in.sizes(), ", ", points_in.sizes(), ", ", weights_in.sizes());
    auto& p = problem;
    p.batch = value_in.size(0), p.tokens = value_in.size(1), p.heads = value_in.size(2), p.channels = value_in.size(3);
    p.queries = points_in.size(1), p.levels = int(points_in.size(3)), p.points = int(points_in.size(4));
    TORCH_CHECK(int64_t(shapes.size()) == 2 * p.levels && p.levels <= MsdaCuda::kMaxLevels, "ms_deform_attn: ",
                shapes.size(), " sizes for ", p.levels, " levels; expected h, w of each and at most ",
                MsdaCuda::kMaxLevels, " levels");
    int64_t total = 0;
    for (int level = 0; level < p.levels; ++level) {
      p.height[level] = int(shapes[2 * level]), p.width[level] = int(shapes[2 * level + 1]);
      p.start[level] = int(total);
      total += shapes[2 * level] * shapes[2 * level + 1];
    }
    TORCH_CHECK(total == p.tokens, "ms_deform_attn: sum of level sizes is ", total, " but value has ", p.tokens,
                " tokens");
    TORCH_CHECK(p.tokens * p.heads * p.channels < (int64_t(1) << 31), "ms_deform_attn: one image's value map has ",
                p.tokens * p.heads * p.channels, " elements; at most 2^31 - 1");
    TORCH_CHECK(points_in.size(0) == p.batch && points_in.size(2) == p.heads && points_in.size(5) == 2 &&
                    weights_in.sizes() == points_in.sizes().slice(0, 5),
                "ms_deform_attn: points ", points_in.sizes(), " and weights ", weights_in.sizes(),
                " do not fit value ", value_in.sizes());
    TORCH_CHECK(points_in.device() == value_in.device() && weights_in.device() == value_in.device(),
                "ms_deform_attn: tensors on different devices");
    const bool wide = value_in.scalar_type() == at::kDouble;
    p.type = wide                                             ? MsdaType::kDouble
             : value_in.scalar_type() == at::kHalf     ? MsdaType::kHalf
             : value_in.scalar_type() == at::kBFloat16 ? MsdaType::kBFloat16
                                                       : MsdaType::kFloat;
    TORCH_CHECK(p.type != MsdaType::kFloat || value_in.scalar_type() == at::kFloat, "ms_deform_attn: dtype ",
                value_in.scalar_type(), " of value; expected float64, float32, float16 or bfloat16");
    const auto dtype = wide ? at::kDouble : at::kFloat;
    value = aligned(value_in.contiguous());
    points = points_in.to(dtype).contiguous();
    weights = weights_in.to(dtype).contiguous();
    p.value = value.data_ptr(), p.points_xy = points.data_ptr(), p.weights = weights.data_ptr();
    if (reference_in.has_value()) {
      reference = reference_in->to(dtype).contiguous();
      TORCH_CHECK(reference.dim() == 4 && (reference.size(0) == p.batch || reference.size(0) == 1) &&
                      reference.size(1) == p.queries && reference.size(2) == p.levels && reference.size(3) == 2,
                  "ms_deform_attn: reference points ", reference.sizes(), ", expected (B or 1, Q, L, 2)");
      p.reference = reference.data_ptr();
      p.reference_step = reference.size(0) > 1 ? p.queries * p.levels * 2 : 0;
    }
  }

  // 16-byte loads need 16-byte addresses, which a slice of a larger tensor may not have.
  static at::Tensor aligned(const at::Tensor& x) {
    return reinterpret_cast<uintptr_t>(x.data_ptr()) % 16 == 0 ? x : x.clone();
  }

  bool empty() const { return value.numel() == 0 || points.numel() == 0; }
};

void check(int error, const MsdaCuda& p) {
  TORCH_CHECK(error == 0, "ms_deform_attn: CUDA launch failed: ", msda_cuda_error(error), " (", p.levels, " levels of ",
              p.points, " points; a query's points must fit into shared memory)");
}

at::Tensor msda_forward(const at::Tensor& value, at::IntArrayRef shapes, const std::optional<at::Tensor>& reference,
                        const at::Tensor& points, const at::Tensor& weights) {
  const c10::cuda::CUDAGuard guard(value.device());
  const Inputs in(value, shapes, reference, points, weights);
  const auto& p = in.problem;
  if (in.empty()) return at::zeros({p.batch, p.queries, p.heads * p.channels}, value.options());
  auto output = at::empty({p.batch, p.queries, p.heads * p.channels}, value.options());
  check(msda_cuda_forward(p, output.data_ptr(), c10::cuda::getCurrentCUDAStream().stream()), p);
  return output;
}

// Factor that turns contributions to the map's gradient into integers whose sum cannot overflow; stays on the device.
at::Tensor fixed_point_scale(const Inputs& in, const at::Tensor& grad) {
  auto largest = grad.abs().amax().to(at::kDouble);
  if (in.problem.reference == nullptr)
    largest = largest.mul(in.weights.abs().amax().to(at::kDouble));
  else  // logits: each softmax is at most 1, but a NaN or +inf must reach the scale, as integers cannot carry it
    largest = largest.add(in.weights.flatten(3).amax(3).sum().to(at::kDouble).mul(0.0));
  int64_t count = in.problem.queries * in.problem.levels * in.problem.points * 4;
  int bits = 1;
  while (count >>= 1) ++bits;
  return largest.clamp_min(1e-250).log2().ceil().neg().add(double(kFixedPointBits - bits)).exp2();
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> msda_backward(const at::Tensor& grad_in, const at::Tensor& value,
                                                             at::IntArrayRef shapes,
                                                             const std::optional<at::Tensor>& reference,
                                                             const at::Tensor& points, const at::Tensor& weights) {
  const c10::cuda::CUDAGuard guard(value.device());
  const Inputs in(value, shapes, reference, points, weights);
  const auto& p = in.problem;
  TORCH_CHECK(grad_in.dim() == 3 && grad_in.size(0) == p.batch && grad_in.size(1) == p.queries &&
                  grad_in.size(2) == p.heads * p.channels,
              "ms_deform_attn: gradient of shape ", grad_in.sizes(), ", expected (B, Q, M * D)");
  const auto grad = Inputs::aligned(grad_in.to(value.scalar_type()).contiguous());
  const bool fixed = at::globalContext().deterministicAlgorithms();
  auto grad_value = at::zeros(in.value.sizes(), in.points.options().dtype(fixed ? at::kLong : in.points.scalar_type()));
  auto grad_points = at::empty_like(in.points), grad_weights = at::empty_like(in.weights);
  if (in.empty()) {
    grad_points.zero_(), grad_weights.zero_();
  } else {
    const auto scale = fixed ? fixed_point_scale(in, grad) : at::Tensor();
    check(msda_cuda_backward(p, grad.data_ptr(), grad_value.data_ptr(), grad_points.data_ptr(), grad_weights.data_ptr(),
                             fixed ? scale.data_ptr<double>() : nullptr, c10::cuda::getCurrentCUDAStream().stream()),
          p);
    if (fixed) grad_value = grad_value.to(at::kDouble).div(scale);
  }
  return {grad_value.to(value.scalar_type()), grad_points.to(points.scalar_type()),
          grad_weights.to(weights.scalar_type())};
}

}  // namespace

TORCH_LIBRARY_IMPL(segcore_native, CUDA, m) {
  m.impl("msda_forward", &msda_forward);
  m.impl("msda_backward", &msda_backward);
}

}  // namespace segcore
