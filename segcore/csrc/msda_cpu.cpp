// PyTorch binding of the CPU deformable attention: checks, layout, threads.
#include "msda_cpu.h"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include "cpu_features.h"

namespace segcore {
namespace {

constexpr int64_t kTile = 128;      // queries per task of the forward pass
constexpr int64_t kMaxShares = 8;   // private gradient maps per image and head of the backward pass

// Inputs checked, contiguous and in the dtype that the kernel computes in.
struct Inputs {
  at::Tensor value, reference, points, weights;
  std::vector<int64_t> shapes;
  int64_t batch, tokens, heads, channels, queries, levels, num_points;

  Inputs(const at::Tensor& value_in, at::IntArrayRef shapes_in, const std::optional<at::Tensor>& reference_in,
         const at::Tensor& points_in, const at::Tensor& weights_in)
      : shapes(shapes_in.vec()) {
    TORCH_CHECK(value_in.dim() == 4 && points_in.dim() == 6 && weights_in.dim() == 5,
                "ms_deform_attn: expected value (B, S, M, D), points (B, Q, M, L, P, 2), weights (B, Q, M, L, P); got ",
                value_in.sizes(), ", ", points_in.sizes(), ", ", weights_in.sizes());
    batch = value_in.size(0), tokens = value_in.size(1), heads = value_in.size(2), channels = value_in.size(3);
    queries = points_in.size(1), levels = points_in.size(3), num_points = points_in.size(4);
    TORCH_CHECK(int64_t(shapes.size()) == 2 * levels, "ms_deform_attn: ", shapes.size(), " sizes for ", levels,
                " levels; expected h, w of each");
    int64_t total = 0;
    for (int64_t level = 0; level < levels; ++level) total += shapes[2 * level] * shapes[2 * level + 1];
    TORCH_CHECK(total == tokens, "ms_deform_attn: sum of level sizes is ", total, " but value has ", tokens, " tokens");
    TORCH_CHECK(points_in.size(0) == batch && points_in.size(2) == heads && points_in.size(5) == 2 &&
                    weights_in.sizes() == points_in.sizes().slice(0, 5),
                "ms_deform_attn: points ", points_in.sizes(), " and weights ", weights_in.sizes(),
                " do not fit value ", value_in.sizes());
    const auto dtype = value_in.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
    value = value_in.to(dtype).contiguous();
    points = points_in.to(dtype).contiguous();
    weights = weights_in.to(dtype).contiguous();
    if (reference_in.has_value()) {
      reference = reference_in->to(dtype).contiguous();
      TORCH_CHECK(reference.dim() == 4 && (reference.size(0) == batch || reference.size(0) == 1) &&
                      reference.size(1) == queries && reference.size(2) == levels && reference.size(3) == 2,
                  "ms_deform_attn: reference points ", reference.sizes(), ", expected (B or 1, Q, L, 2)");
    }
  }

  bool empty() const { return batch == 0 || queries == 0 || heads == 0 || channels == 0; }
};

int64_t padded_channels(int64_t channels, int64_t itemsize) {
  const int64_t lanes = 32 / itemsize;
  return (channels + lanes - 1) / lanes * lanes;
}

// (B, S, M, D) -> (B, M, S + 1, padded): each head's map contiguous, with a zero row at its end.
template <class T>
at::Tensor pack_heads(const Inputs& in, int64_t padded) {
  auto packed = at::empty({in.batch, in.heads, in.tokens + 1, padded}, in.value.options());
  const T* source = in.value.data_ptr<T>();
  T* target = packed.data_ptr<T>();
  const int64_t tokens = in.tokens, heads = in.heads, channels = in.channels;
  at::parallel_for(0, in.batch * (tokens + 1), 256, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t image = i / (tokens + 1), token = i % (tokens + 1);
      for (int64_t head = 0; head < heads; ++head) {
        T* row = target + ((image * heads + head) * (tokens + 1) + token) * padded;
        const bool real = token < tokens;
        if (real) std::memcpy(row, source + ((image * tokens + token) * heads + head) * channels, channels * sizeof(T));
        const int64_t filled = real ? channels : 0;
        std::memset(row + filled, 0, (padded - filled) * sizeof(T));
      }
    }
  });
  return packed;
}

// The sum over shares of (shares, M, S + 1, padded) -> one image of (B, S, M, D).
template <class T>
void unpack_heads(const T* packed, int64_t shares, const Inputs& in, int64_t padded, T* image) {
  const int64_t tokens = in.tokens, heads = in.heads, channels = in.channels;
  at::parallel_for(0, tokens, 256, [&](int64_t begin, int64_t end) {
    for (int64_t token = begin; token < end; ++token) {
      for (int64_t head = 0; head < heads; ++head) {
        T* row = image + (token * heads + head) * channels;
        for (int64_t share = 0; share < shares; ++share) {
          const T* source = packed + ((share * heads + head) * (tokens + 1) + token) * padded;
          if (share == 0)
            std::memcpy(row, source, channels * sizeof(T));
          else
            for (int64_t c = 0; c < channels; ++c) row[c] += source[c];
        }
      }
    }
  });
}

template <class T>
MsdaProblem<T> problem(const Inputs& in, const at::Tensor& packed, int64_t padded) {
  MsdaProblem<T> p;
  p.heads = in.heads, p.tokens = in.tokens, p.queries = in.queries, p.levels = in.levels, p.points = in.num_points;
  p.channels = in.channels, p.padded = padded;
  TORCH_CHECK((in.tokens + 1) * padded < (int64_t(1) << 31), "ms_deform_attn: ", in.tokens, " tokens of ", padded,
              " channels pass 2^31 elements per head; split the channels over more heads");
  p.shapes = in.shapes.data();
  p.value = packed.data_ptr<T>();
  p.points_xy = in.points.data_ptr<T>();
  p.weights = in.weights.data_ptr<T>();
  p.reference = in.reference.defined() ? in.reference.data_ptr<T>() : nullptr;
  p.reference_step = in.reference.defined() && in.reference.size(0) > 1 ? in.queries * in.levels * 2 : 0;
  return p;
}

template <class T>
at::Tensor forward_typed(const Inputs& in) {
  auto output = at::empty({in.batch, in.queries, in.heads * in.channels}, in.value.options());
  if (in.empty()) return output;
  if (in.levels * in.num_points == 0) return output.zero_();
  const int64_t padded = padded_channels(in.channels, sizeof(T));
  const auto packed = pack_heads<T>(in, padded);
  const auto p = problem<T>(in, packed, padded);
  const auto kernel = SEGCORE_BUILD_OF(msda_kernels, <T>)().forward;
  T* target = output.template data_ptr<T>();
  const int64_t tiles = (in.queries + kTile - 1) / kTile;
  // neighbouring tasks share a head, so a thread keeps one head's map in its cache
  at::parallel_for(0, in.batch * in.heads * tiles, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t tile = i % tiles, head = i / tiles % in.heads, image = i / tiles / in.heads;
      kernel(p, image, head, tile * kTile, std::min(in.queries, (tile + 1) * kTile), target);
    }
  });
  return output;
}

template <class T>
void backward_typed(const Inputs& in, const at::Tensor& grad, at::Tensor& grad_value, at::Tensor& grad_points,
                    at::Tensor& grad_weights) {
  const int64_t padded = padded_channels(in.channels, sizeof(T));
  const auto packed = pack_heads<T>(in, padded);
  const auto p = problem<T>(in, packed, padded);
  const auto kernel = SEGCORE_BUILD_OF(msda_kernels, <T>)().backward;
  // Each (head, share of the queries) adds into a map of its own: no atomics, and the same sum every time.
  const int64_t threads = at::get_num_threads();
  int64_t shares = in.heads >= threads ? 1 : (threads + in.heads - 1) / in.heads;
  shares = std::min({shares, kMaxShares, (in.queries + kTile - 1) / kTile});
  const int64_t per_share = (in.queries + shares - 1) / shares, map_size = (in.tokens + 1) * padded;
  auto maps = at::empty({shares, in.heads, in.tokens + 1, padded}, in.value.options());
  for (int64_t image = 0; image < in.batch; ++image) {
    at::parallel_for(0, shares * in.heads, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t share = i / in.heads, head = i % in.heads;
        T* own = maps.template data_ptr<T>() + share * in.heads * map_size;
        std::memset(own + head * map_size, 0, map_size * sizeof(T));
        const MsdaGradients<T> grads{grad.data_ptr<T>(), own, grad_points.data_ptr<T>(), grad_weights.data_ptr<T>()};
        kernel(p, image, head, share * per_share, std::min(in.queries, (share + 1) * per_share), grads);
      }
    });
    unpack_heads<T>(maps.template data_ptr<T>(), shares, in, padded,
                    grad_value.data_ptr<T>() + image * in.tokens * in.heads * in.channels);
  }
}

at::Tensor msda_forward(const at::Tensor& value, at::IntArrayRef shapes, const std::optional<at::Tensor>& reference,
                        const at::Tensor& points, const at::Tensor& weights) {
  const Inputs in(value, shapes, reference, points, weights);
  const auto output = in.value.scalar_type() == at::kDouble ? forward_typed<double>(in) : forward_typed<float>(in);
  return output.to(value.scalar_type());
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> msda_backward(const at::Tensor& grad_in, const at::Tensor& value,
                                                             at::IntArrayRef shapes,
                                                             const std::optional<at::Tensor>& reference,
                                                             const at::Tensor& points, const at::Tensor& weights) {
  const Inputs in(value, shapes, reference, points, weights);
  TORCH_CHECK(grad_in.dim() == 3 && grad_in.size(0) == in.batch && grad_in.size(1) == in.queries &&
                  grad_in.size(2) == in.heads * in.channels,
              "ms_deform_attn: gradient of shape ", grad_in.sizes(), ", expected (B, Q, M * D)");
  const auto grad = grad_in.to(in.value.scalar_type()).contiguous();
  auto grad_value = at::empty_like(in.value), grad_points = at::empty_like(in.points);
  auto grad_weights = at::empty_like(in.weights);
  if (in.empty() || in.levels * in.num_points == 0) {
    grad_value.zero_(), grad_points.zero_(), grad_weights.zero_();
  } else if (in.value.scalar_type() == at::kDouble) {
    backward_typed<double>(in, grad, grad_value, grad_points, grad_weights);
  } else {
    backward_typed<float>(in, grad, grad_value, grad_points, grad_weights);
  }
  return {grad_value.to(value.scalar_type()), grad_points.to(points.scalar_type()),
          grad_weights.to(weights.scalar_type())};
}

}  // namespace

TORCH_LIBRARY_IMPL(segcore_native, CPU, m) {
  m.impl("msda_forward", &msda_forward);
  m.impl("msda_backward", &msda_backward);
}

}  // namespace segcore
