// Rows times a tile of packed weights: what all matrix products of the kernels are made of.
//
// Weights are packed in tiles of 64 output features, the summed dimension outermost:
//     [tile][unit of the summed dimension][64 features]
// so a tile streams from memory once, front to back, for one row as for a hundred. A unit is 32
// bits, two bf16 or one fp32, and is all that the two types differ in. Include after the target
// pragma.

#pragma once

#include <immintrin.h>

#include <cstdint>
#include <type_traits>

namespace {

using Unit = int32_t;

constexpr int kLanes = 16;
constexpr int kVectors = 4;
constexpr int kTile = kLanes * kVectors;
constexpr int kRows = 6;  // with four vectors of weights: 24 of 32 registers accumulate

template <bool kBf16>
inline int units(int features) {
  return kBf16 ? features / 2 : features;
}

template <bool kBf16>
inline __m512 multiply_add(__m512 sum, __m512i weights, Unit x) {
  if constexpr (kBf16) {
    return _mm512_dpbf16_ps(sum, (__m512bh)weights, (__m512bh)_mm512_set1_epi32(x));
  } else {
    return _mm512_fmadd_ps(_mm512_castsi512_ps(weights),
                           _mm512_castsi512_ps(_mm512_set1_epi32(x)), sum);
  }
}

// kM rows times one tile of kV vectors of features.
template <bool kBf16, int kM, int kV = kVectors>
inline void multiply(const Unit* tile, const Unit* const* rows, int num_units,
                     __m512 (&sums)[kM][kV]) {
  for (int m = 0; m < kM; ++m)
    for (int v = 0; v < kV; ++v) sums[m][v] = _mm512_setzero_ps();
  for (int u = 0; u < num_units; ++u, tile += kV * kLanes) {
    __m512i weights[kV];
    for (int v = 0; v < kV; ++v) weights[v] = _mm512_loadu_si512(tile + v * kLanes);
    for (int m = 0; m < kM; ++m)
      for (int v = 0; v < kV; ++v)
        sums[m][v] = multiply_add<kBf16>(sums[m][v], weights[v], rows[m][u]);
  }
}

// Calls step<M>(first row) for blocks of kRows and the rest.
template <typename Step>
inline void in_blocks(int begin, int end, Step step) {
  for (; begin + kRows <= end; begin += kRows) step(std::integral_constant<int, kRows>{}, begin);
  switch (end - begin) {
    case 5: return step(std::integral_constant<int, 5>{}, begin);
    case 4: return step(std::integral_constant<int, 4>{}, begin);
    case 3: return step(std::integral_constant<int, 3>{}, begin);
    case 2: return step(std::integral_constant<int, 2>{}, begin);
    case 1: return step(std::integral_constant<int, 1>{}, begin);
  }
}

}  // namespace
