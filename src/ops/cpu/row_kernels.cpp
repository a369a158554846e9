// The source of row_kernels.h, compiled once an instruction set with MERISTEM_CPU_LEVEL naming the set. No standard library templates here:
// an inline function compiled for AVX-512 could replace the baseline's copy at link time.
// Loops keep kLanes independent accumulators, so that the compiler vectorises sums without re-associating them by itself.
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "ops/cpu/row_kernels.h"

namespace meristem::ops::cpu {
namespace {

constexpr std::int64_t kLanes = 32;

inline float load(const float* p) { return *p; }
inline void store(float* p, float x) { *p = x; }
inline float load(const std::uint16_t* p) {
  const std::uint32_t bits = static_cast<std::uint32_t>(*p) << 16;
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}
inline void store(std::uint16_t* p, float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, 4);
  const std::uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  const std::uint32_t quiet = (bits >> 16) | 0x40u;  // a NaN must stay one
  *p = static_cast<std::uint16_t>((bits & 0x7FFFFFFFu) > 0x7F800000u ? quiet : rounded);
}

// exp to about 1 ulp in [-87, 88]: 2^n p(r), |r| <= ln2/2. Below, 0; above, infinity.
inline float fast_exp(float x) {
  const float clamped = x < -87.3f ? -87.3f : (x > 88.3762626f ? 88.3762626f : x);
  const float scaled = clamped * 1.44269504f;
  const float n = __builtin_floorf(scaled + 0.5f);
  float r = clamped - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  // n reaches 128 at the upper clamp, one more than a float's exponent holds: scale in two steps.
  const std::int32_t whole = static_cast<std::int32_t>(n);
  const std::int32_t half = whole >> 1;
  const std::uint32_t bits_a = static_cast<std::uint32_t>(half + 127) << 23;
  const std::uint32_t bits_b = static_cast<std::uint32_t>(whole - half + 127) << 23;
  float scale_a, scale_b;
  std::memcpy(&scale_a, &bits_a, 4);
  std::memcpy(&scale_b, &bits_b, 4);
  const float result = p * scale_a * scale_b;
  const float low = x < -87.3f ? 0.0f : result;
  const float high = x > 88.3762626f ? __builtin_inff() : low;
  return x != x ? x : high;
}

inline float sum_lanes(const float* lane) {
  float total = 0;
  for (std::int64_t i = 0; i < kLanes; ++i) total += lane[i];
  return total;
}

// sum = a + b, rounded as the two operators would; the row is in the cache when it is read again.
template <class X>
void add_row(const X* a, const X* b, X* sum, std::int64_t width) {
  for (std::int64_t i = 0; i < width; ++i) store(sum + i, load(a + i) + load(b + i));
}

template <class X>
void rms_norm(const X* x, const X* update, const float* w, X* h, X* y, float* rstd, std::int64_t rows, std::int64_t width, float eps) {
  for (std::int64_t r = 0; r < rows; ++r, y += width) {
    const X* row = x + r * width;
    if (update != nullptr) {
      add_row(row, update + r * width, h + r * width, width);
      row = h + r * width;
    }
    float lane[kLanes] = {};
    std::int64_t i = 0;
    for (; i + kLanes <= width; i += kLanes) {
      for (std::int64_t l = 0; l < kLanes; ++l) {
        const float value = load(row + i + l);
        lane[l] += value * value;
      }
    }
    float squares = sum_lanes(lane);
    for (; i < width; ++i) squares += load(row + i) * load(row + i);
    const float scale = 1.0f / __builtin_sqrtf(squares / static_cast<float>(width) + eps);
    rstd[r] = scale;
    for (std::int64_t j = 0; j < width; ++j) store(y + j, load(row + j) * scale * w[j]);
  }
}

template <class X>
void rms_norm_backward(const X* dy, const X* h, const float* w, const float* rstd, const X* dh, X* dx, float* dw, std::int64_t rows,
                       std::int64_t width) {
  for (std::int64_t r = 0; r < rows; ++r, dy += width, h += width, dx += width) {
    const float scale = rstd[r];
    float lane[kLanes] = {};
    std::int64_t i = 0;
    for (; i + kLanes <= width; i += kLanes) {
      for (std::int64_t l = 0; l < kLanes; ++l) {
        const float value = load(h + i + l), grad = load(dy + i + l);
        lane[l] += value * grad * w[i + l];
        dw[i + l] += grad * value * scale;
      }
    }
    float dot = sum_lanes(lane);
    for (; i < width; ++i) {
      const float value = load(h + i), grad = load(dy + i);
      dot += value * grad * w[i];
      dw[i] += grad * value * scale;
    }
    const float mean = dot * scale * scale / static_cast<float>(width);
    for (std::int64_t j = 0; j < width; ++j) store(dx + j, scale * (load(dy + j) * w[j] - load(h + j) * mean));
    if (dh != nullptr) add_row(dx, dh + r * width, dx, width);
  }
}

template <class X>
void rope(X* x, std::int64_t row_stride, const std::int32_t* positions, const float* cos, const float* sin, std::int64_t rows,
          std::int64_t heads, std::int64_t head_dim, float sign) {
  const std::int64_t half = head_dim / 2;
  for (std::int64_t r = 0; r < rows; ++r) {
    const float* c = cos + positions[r] * half;
    const float* s = sin + positions[r] * half;
    for (std::int64_t h = 0; h < heads; ++h) {
      X* first = x + r * row_stride + h * head_dim;
      X* second = first + half;
      for (std::int64_t i = 0; i < half; ++i) {
        const float a = load(first + i), b = load(second + i);
        store(first + i, a * c[i] - b * (sign * s[i]));
        store(second + i, b * c[i] + a * (sign * s[i]));
      }
    }
  }
}

template <class X>
void swiglu(const X* gate_up, X* y, std::int64_t rows, std::int64_t inner) {
  for (std::int64_t r = 0; r < rows; ++r, gate_up += 2 * inner, y += inner) {
    const X* up = gate_up + inner;
    for (std::int64_t i = 0; i < inner; ++i) {
      const float g = load(gate_up + i);
      store(y + i, g / (1.0f + fast_exp(-g)) * load(up + i));
    }
  }
}

template <class X>
void swiglu_backward(const X* dy, const X* gate_up, X* d_gate_up, std::int64_t rows, std::int64_t inner) {
  for (std::int64_t r = 0; r < rows; ++r, dy += inner, gate_up += 2 * inner, d_gate_up += 2 * inner) {
    const X* up = gate_up + inner;
    X* d_up = d_gate_up + inner;
    for (std::int64_t i = 0; i < inner; ++i) {
      const float g = load(gate_up + i), grad = load(dy + i);
      const float sigmoid = 1.0f / (1.0f + fast_exp(-g));
      const float silu = g * sigmoid;
      store(d_up + i, grad * silu);
      store(d_gate_up + i, grad * load(up + i) * (sigmoid + silu * (1.0f - sigmoid)));
    }
  }
}

template <class X>
float row_max(const X* x, std::int64_t count) {
  float lane[kLanes];
  for (std::int64_t l = 0; l < kLanes; ++l) lane[l] = -__builtin_inff();
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (std::int64_t l = 0; l < kLanes; ++l) {
      const float value = load(x + i + l);
      lane[l] = value > lane[l] ? value : lane[l];
    }
  }
  float best = lane[0];
  for (std::int64_t l = 1; l < kLanes; ++l) best = lane[l] > best ? lane[l] : best;
  for (; i < count; ++i) best = load(x + i) > best ? load(x + i) : best;
  return best;
}

template <class X>
float row_sum_exp(const X* x, std::int64_t count, float shift) {
  float lane[kLanes] = {};
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (std::int64_t l = 0; l < kLanes; ++l) lane[l] += fast_exp(load(x + i + l) - shift);
  }
  float sum = sum_lanes(lane);
  for (; i < count; ++i) sum += fast_exp(load(x + i) - shift);
  return sum;
}

template <class X>
void cross_entropy(X* logits, const std::int32_t* targets, float* losses, std::int64_t rows, std::int64_t vocab, bool grad) {
  for (std::int64_t r = 0; r < rows; ++r, logits += vocab) {
    if (targets[r] < 0) {
      losses[r] = 0;
      if (grad) std::memset(static_cast<void*>(logits), 0, static_cast<std::size_t>(vocab) * sizeof(X));
      continue;
    }
    const float shift = row_max(logits, vocab);
    // Always after the shift: beside a large maximum the logarithm of the sum would lose its digits.
    const float log_sum = static_cast<float>(__builtin_log(static_cast<double>(row_sum_exp(logits, vocab, shift))));
    const float target = load(logits + targets[r]) - shift;
    losses[r] = log_sum - target;
    if (!grad) continue;
    for (std::int64_t i = 0; i < vocab; ++i) store(logits + i, fast_exp(load(logits + i) - shift - log_sum));
    store(logits + targets[r], fast_exp(target - log_sum) - 1.0f);
  }
}

void adamw(float* p, const float* g, float* m, float* v, std::uint16_t* half, std::int64_t count, const AdamwScalars& s) {
  const float keep = 1.0f - s.lr * s.weight_decay, step = s.lr / s.bias1, inverse_bias2 = 1.0f / s.bias2_sqrt;
  const float b1 = s.beta1, b2 = s.beta2, scale = s.grad_scale, eps = s.eps;
  for (std::int64_t i = 0; i < count; ++i) {
    const float grad = g[i] * scale;
    const float first = b1 * m[i] + (1.0f - b1) * grad;
    const float second = b2 * v[i] + (1.0f - b2) * grad * grad;
    m[i] = first;
    v[i] = second;
    p[i] = p[i] * keep - step * first / (__builtin_sqrtf(second) * inverse_bias2 + eps);
  }
  if (half != nullptr) {
    for (std::int64_t i = 0; i < count; ++i) store(half + i, p[i]);
  }
}

double sum_of_squares(const float* x, std::int64_t count) {
  double lane[kLanes] = {};
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (std::int64_t l = 0; l < kLanes; ++l) lane[l] += static_cast<double>(x[i + l]) * static_cast<double>(x[i + l]);
  }
  double sum = 0;
  for (std::int64_t l = 0; l < kLanes; ++l) sum += lane[l];
  for (; i < count; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return sum;
}

template <class X>
void accumulate(float* sum, const X* x, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) sum[i] += load(x + i);
}

#include "ops/cpu/depth_attention.inc"

template <class X>
void combine_rows(const X* rows, const std::int32_t* place, const float* weights, X* y, std::int64_t begin, std::int64_t end,
                  std::int64_t k, std::int64_t width) {
  for (std::int64_t n = begin; n < end; ++n) {
    const auto weight = [&](std::int64_t j) { return weights == nullptr ? 1.0f : weights[n * k + j]; };
    const auto row = [&](std::int64_t j) { return rows + place[n * k + j] * width; };
    std::int64_t i = 0;
    for (; i + kWide <= width; i += kWide) {
      Wide sum = weight(0) * load_wide(row(0) + i);
      for (std::int64_t j = 1; j < k; ++j) sum += weight(j) * load_wide(row(j) + i);
      store_wide(y + n * width + i, sum);
    }
    for (; i < width; ++i) {
      float sum = weight(0) * load(row(0) + i);
      for (std::int64_t j = 1; j < k; ++j) sum += weight(j) * load(row(j) + i);
      store(y + n * width + i, sum);
    }
  }
}

template <class X>
void combine_rows_backward(const X* dy, const X* rows, const std::int32_t* place, const float* weights, X* d_rows, float* d_weights,
                           std::int64_t begin, std::int64_t end, std::int64_t k, std::int64_t width) {
  for (std::int64_t m = begin * k; m < end * k; ++m) {
    const X* grad = dy + m / k * width;
    X* to = d_rows + place[m] * width;
    d_weights[m] = dot(grad, rows + place[m] * width, width);
    std::int64_t i = 0;
    for (; i + kWide <= width; i += kWide) store_wide(to + i, weights[m] * load_wide(grad + i));
    for (; i < width; ++i) store(to + i, weights[m] * load(grad + i));
  }
}

#include "ops/cpu/products.inc"

#include "ops/cpu/attention.inc"

#include "ops/cpu/few_rows.inc"
#include "ops/cpu/matrices.inc"

template <class X>
constexpr TypedKernels<X> typed() {
  return {rms_norm<X>,
          rms_norm_backward<X>,
          rope<X>,
          swiglu<X>,
          swiglu_backward<X>,
          cross_entropy<X>,
          depth_attention<X>,
          depth_attention_backward<X>,
          attention<X>,
          attention_backward<X>,
          attention_scratch<X>,
          combine_rows<X>,
          combine_rows_backward<X>,
          accumulate<X>,
          packed_bytes<X>,
          pack_left<X>,
          pack_right<X>,
          multiply_matrices<X>,
          kMatrixScratch,
          few_rows<X>,
          attention_row<X>};
}

}  // namespace

#define MERISTEM_JOIN_(a, b) a##b
#define MERISTEM_JOIN(a, b) MERISTEM_JOIN_(a, b)
#define MERISTEM_TEXT_(a) #a
#define MERISTEM_TEXT(a) MERISTEM_TEXT_(a)
extern const RowKernels MERISTEM_JOIN(kRowKernels_, MERISTEM_CPU_LEVEL);
const RowKernels MERISTEM_JOIN(kRowKernels_, MERISTEM_CPU_LEVEL){MERISTEM_TEXT(MERISTEM_CPU_LEVEL), typed<float>(), typed<std::uint16_t>(),
                                                                 adamw, sum_of_squares};

}  // namespace meristem::ops::cpu
