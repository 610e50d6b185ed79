// Linear layers and RMS norms for the few rows of a decode step, where torch's own cost more in
// calling than in computing. Knows nothing of torch (see experts.cpp).

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "element.h"
#include "kernels.h"
#include "tile.h"

namespace {

constexpr int kChunk = 96;  // rows of one task
constexpr int kSerialRows = 32;

template <bool kBf16>
void linear(const Unit* packed, const float* bias, const Unit* x, int rows, int in, int out,
            void* y, int num_threads) {
  using Type = ElementOf<kBf16>;
  using Element = typename Type::Element;
  const int in_units = units<kBf16>(in), tiles = (out + kTile - 1) / kTile;
  const int chunks = (rows + kChunk - 1) / kChunk;
  const __m512 zero = _mm512_setzero_ps();
#pragma omp parallel for num_threads(num_threads) schedule(dynamic, 1)
  for (int i = 0; i < tiles * chunks; ++i) {
    const int t = i / chunks, begin = i % chunks * kChunk, end = std::min(rows, begin + kChunk);
    const Unit* tile = packed + (int64_t)t * in_units * kTile;
    in_blocks(begin, end, [&](auto m, int row) {
      const Unit* row_of[m];
      for (int r = 0; r < m; ++r) row_of[r] = x + (int64_t)(row + r) * in_units;
      __m512 sums[m][kVectors];
      multiply<kBf16, m>(tile, row_of, in_units, sums);
      for (int r = 0; r < m; ++r)
        for (int v = 0; v < kVectors; ++v) {
          const int feature = t * kTile + v * kLanes;
          if (feature >= out) break;
          const __mmask16 live = first_lanes(out - feature);
          const __m512 added = bias ? _mm512_maskz_loadu_ps(live, bias + feature) : zero;
          Type::store((Element*)y + (int64_t)(row + r) * out + feature,
                      _mm512_add_ps(sums[r][v], added), live);
        }
    });
  }
}

template <typename Type>
void rms_norm(const void* x, const void* weight, float epsilon, int rows, int width, void* y,
              int num_threads) {
  using Element = typename Type::Element;
#pragma omp parallel for num_threads(num_threads) if (rows > kSerialRows)
  for (int row = 0; row < rows; ++row) {
    const Element* in = (const Element*)x + (int64_t)row * width;
    Element* out = (Element*)y + (int64_t)row * width;
    const __m512 scale = _mm512_set1_ps(inverse_rms<Type>(in, width, epsilon));
    for (int d = 0; d < width; d += kLanes)
      Type::store(out + d, _mm512_mul_ps(_mm512_mul_ps(Type::load(in + d), scale),
                                         Type::load((const Element*)weight + d)));
  }
}

}  // namespace

// y[rows][out] = x[rows][in] W' + bias; the bias is fp32 and may be null.
KPRIME_KERNEL kprime_linear(
    int bf16, const void* packed, const float* bias, const void* x, int rows, int in, int out,
    void* y, int num_threads) {
  (bf16 ? linear<true> : linear<false>)((const Unit*)packed, bias, (const Unit*)x, rows, in, out, y,
                                        num_threads);
}

// y = x / sqrt(mean(x^2) + epsilon) * weight, row by row; the width is a multiple of 16.
KPRIME_KERNEL kprime_rms_norm(
    int bf16, const void* x, const void* weight, float epsilon, int rows, int width, void* y,
    int num_threads) {
  (bf16 ? rms_norm<Bf16> : rms_norm<Fp32>)(x, weight, epsilon, rows, width, y, num_threads);
}
