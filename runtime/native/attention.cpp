// Attention of the decoding requests of a step over a paged key-value cache, on a CPU with AVX-512.
//
// Takes one query token a request and reads its keys and values where they lie in the cache: nothing
// is gathered, and all query heads that share a key-value head use one reading of it. Knows nothing
// of torch (see experts.cpp).
//
// A cache is rows of [key-value heads][head size]; `rows` names, request after request, those of its
// keys in order. Head sizes are multiples of 32.

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")

#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include "exponential.h"

namespace {

constexpr int kLanes = 16;
constexpr int kMaxVectors = 16;  // head sizes up to 256

// One element type: loads of 16 features as fp32, and the product of two heads.
struct Bf16 {
  using Element = uint16_t;
  static __m512 load(const Element* p) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
  }
  static void store(Element* p, __m512 x) {
    _mm256_storeu_si256((__m256i*)p, (__m256i)_mm512_cvtneps_pbh(x));
  }
  static float dot(const Element* a, const Element* b, int size) {
    __m512 sum = _mm512_setzero_ps();
    for (int d = 0; d < size; d += 2 * kLanes)
      sum = _mm512_dpbf16_ps(sum, (__m512bh)_mm512_loadu_si512(a + d),
                             (__m512bh)_mm512_loadu_si512(b + d));
    return _mm512_reduce_add_ps(sum);
  }
};

struct Fp32 {
  using Element = float;
  static __m512 load(const Element* p) { return _mm512_loadu_ps(p); }
  static void store(Element* p, __m512 x) { _mm512_storeu_ps(p, x); }
  static float dot(const Element* a, const Element* b, int size) {
    __m512 sum = _mm512_setzero_ps();
    for (int d = 0; d < size; d += kLanes) sum = _mm512_fmadd_ps(load(a + d), load(b + d), sum);
    return _mm512_reduce_add_ps(sum);
  }
};

// In place: e^(score - maximum). Gives the sum.
float exponentials(float* scores, int count) {
  float maximum = -INFINITY;
  for (int i = 0; i < count; ++i) maximum = scores[i] > maximum ? scores[i] : maximum;
  __m512 sum = _mm512_setzero_ps();
  for (int i = 0; i < count; i += kLanes) {
    const __mmask16 live = count - i >= kLanes ? 0xffff : (1u << (count - i)) - 1;
    const __m512 x = _mm512_sub_ps(_mm512_maskz_loadu_ps(live, scores + i), _mm512_set1_ps(maximum));
    const __m512 e = exponential(x);
    _mm512_mask_storeu_ps(scores + i, live, e);
    sum = _mm512_mask_add_ps(sum, live, sum, e);
  }
  return _mm512_reduce_add_ps(sum);
}

struct Shape {
  int heads, kv_heads, head_size;
  float scale;
};

// All query heads of one key-value head, for one request.
template <typename Type>
void attend(const Shape& shape, const typename Type::Element* query,
            const typename Type::Element* keys, const typename Type::Element* values,
            const int64_t* rows, int num_keys, float* scores, typename Type::Element* out) {
  const int size = shape.head_size, group = shape.heads / shape.kv_heads;
  const int64_t stride = (int64_t)shape.kv_heads * size;
  for (int i = 0; i < num_keys; ++i) {
    const auto* key = keys + rows[i] * stride;
    for (int g = 0; g < group; ++g)
      scores[g * num_keys + i] = shape.scale * Type::dot(query + g * size, key, size);
  }
  const int num_vectors = size / kLanes;
  for (int g = 0; g < group; ++g) {
    float* const weights = scores + g * num_keys;
    const __m512 inverse = _mm512_set1_ps(1.f / exponentials(weights, num_keys));
    __m512 sums[kMaxVectors];
    for (int v = 0; v < num_vectors; ++v) sums[v] = _mm512_setzero_ps();
    for (int i = 0; i < num_keys; ++i) {
      const auto* value = values + rows[i] * stride;
      const __m512 weight = _mm512_set1_ps(weights[i]);
      for (int v = 0; v < num_vectors; ++v)
        sums[v] = _mm512_fmadd_ps(weight, Type::load(value + v * kLanes), sums[v]);
    }
    for (int v = 0; v < num_vectors; ++v)
      Type::store(out + g * size + v * kLanes, _mm512_mul_ps(sums[v], inverse));
  }
}

template <typename Type>
void run(const Shape& shape, const void* queries, const void* keys, const void* values,
         const int64_t* rows, const int32_t* key_ranges, const int32_t* tokens, int num_requests,
         void* out, int num_threads) {
  using Element = typename Type::Element;
  const int group = shape.heads / shape.kv_heads, size = shape.head_size;
#pragma omp parallel num_threads(num_threads)
  {
    std::vector<float> scores;
#pragma omp for schedule(dynamic, 1)
    for (int i = 0; i < num_requests * shape.kv_heads; ++i) {
      const int request = i / shape.kv_heads, head = i % shape.kv_heads;
      const int begin = key_ranges[2 * request];
      const int num_keys = key_ranges[2 * request + 1] - begin;
      if (scores.size() < (size_t)group * num_keys) scores.resize((size_t)group * num_keys);
      const int64_t at = ((int64_t)tokens[request] * shape.heads + head * group) * size;
      attend<Type>(shape, (const Element*)queries + at, (const Element*)keys + head * size,
                   (const Element*)values + head * size, rows + begin, num_keys, scores.data(),
                   (Element*)out + at);
    }
  }
}

}  // namespace

// queries, out: [token][heads][head size]. For each request its token and the range of its keys in
// `rows`, two numbers.
extern "C" __attribute__((visibility("default"))) void kprime_attention(
    int bf16, const void* queries, const void* keys, const void* values, const int64_t* rows,
    const int32_t* key_ranges, const int32_t* tokens, int num_requests, int heads, int kv_heads,
    int head_size, float scale, void* out, int num_threads) {
  const Shape shape{heads, kv_heads, head_size, scale};
  (bf16 ? run<Bf16> : run<Fp32>)(shape, queries, keys, values, rows, key_ranges, tokens,
                                 num_requests, out, num_threads);
}
