// Shared by the kernels; each includes it after its target pragma.

#pragma once

#include <immintrin.h>

#include <cmath>

#include "element.h"

namespace {

// e^x by 2^n times a polynomial of the rest; relative error below 2e-7.
inline __m512 exponential(__m512 x) {
  x = _mm512_max_ps(_mm512_min_ps(x, _mm512_set1_ps(100.f)), _mm512_set1_ps(-100.f));
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 0);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
  __m512 p = _mm512_set1_ps(1.3981999507e-3f);
  for (float c : {8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f, 1.f, 1.f})
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c));
  return _mm512_scalef_ps(p, n);
}

// In place: e^(score - maximum). Gives the sum.
inline float exponentials(float* scores, int count) {
  __m512 maximum = _mm512_set1_ps(-INFINITY), sum = _mm512_setzero_ps();
  for (int i = 0; i < count; i += kLanes) {
    const __mmask16 live = first_lanes(count - i);
    maximum = _mm512_mask_max_ps(maximum, live, maximum, _mm512_maskz_loadu_ps(live, scores + i));
  }
  maximum = _mm512_set1_ps(_mm512_reduce_max_ps(maximum));
  for (int i = 0; i < count; i += kLanes) {
    const __mmask16 live = first_lanes(count - i);
    const __m512 score = _mm512_maskz_loadu_ps(live, scores + i);
    const __m512 e = exponential(_mm512_sub_ps(score, maximum));
    _mm512_mask_storeu_ps(scores + i, live, e);
    sum = _mm512_mask_add_ps(sum, live, sum, e);
  }
  return _mm512_reduce_add_ps(sum);
}

}  // namespace
