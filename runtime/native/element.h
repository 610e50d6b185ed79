// The element types of activations: how 16 of them are loaded and stored as fp32. Include after the
// target pragma.

#pragma once

#include <immintrin.h>

#include <cmath>
#include <cstdint>

#include "tile.h"

namespace {

inline __mmask16 first_lanes(int count) { return count >= kLanes ? 0xffff : (1u << count) - 1; }

struct Bf16 {
  using Element = uint16_t;
  static __m512 load(const Element* p, __mmask16 live = 0xffff) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(live, p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
  }
  static void store(Element* p, __m512 x, __mmask16 live = 0xffff) {
    _mm256_mask_storeu_epi16(p, live, (__m256i)_mm512_cvtneps_pbh(x));
  }
  // That add up to the dot product, in any order.
  static __m512 products(const Element* a, const Element* b, int size) {
    __m512 sum = _mm512_setzero_ps();
    for (int d = 0; d < size; d += 2 * kLanes)
      sum = _mm512_dpbf16_ps(sum, (__m512bh)_mm512_loadu_si512(a + d),
                             (__m512bh)_mm512_loadu_si512(b + d));
    return sum;
  }
};

struct Fp32 {
  using Element = float;
  static __m512 load(const Element* p, __mmask16 live = 0xffff) {
    return _mm512_maskz_loadu_ps(live, p);
  }
  static void store(Element* p, __m512 x, __mmask16 live = 0xffff) {
    _mm512_mask_storeu_ps(p, live, x);
  }
  static __m512 products(const Element* a, const Element* b, int size) {
    __m512 sum = _mm512_setzero_ps();
    for (int d = 0; d < size; d += kLanes) sum = _mm512_fmadd_ps(load(a + d), load(b + d), sum);
    return sum;
  }
};

template <bool kBf16>
using ElementOf = std::conditional_t<kBf16, Bf16, Fp32>;

template <typename Type>
inline float inverse_rms(const typename Type::Element* x, int width, float epsilon) {
  __m512 sum = _mm512_setzero_ps();
  for (int d = 0; d < width; d += kLanes) {
    const __m512 v = Type::load(x + d);
    sum = _mm512_fmadd_ps(v, v, sum);
  }
  return 1.f / std::sqrt(_mm512_reduce_add_ps(sum) / width + epsilon);
}

}  // namespace
