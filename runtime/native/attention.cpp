// Attention over a paged key-value cache, on a CPU with AVX-512: queries, keys and values of a step
// are put in place, then the requests that decode attend, one query token each, to keys and values
// where they lie in the cache. Nothing is gathered, and all query heads that share a key-value head
// use one reading of it. Knows nothing of torch (see experts.cpp).
//
// A cache is rows of [key-value heads][head size]; `rows` names, request after request, those of
// its keys in order. Head sizes are multiples of 32.

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "element.h"
#include "exponential.h"

namespace {

constexpr int kTasksPerThread = 2;

// In place: e^(score - maximum). Gives the sum.
float exponentials(float* scores, int count) {
  float maximum = -INFINITY;
  for (int i = 0; i < count; ++i) maximum = scores[i] > maximum ? scores[i] : maximum;
  __m512 sum = _mm512_setzero_ps();
  for (int i = 0; i < count; i += kLanes) {
    const __mmask16 live = first_lanes(count - i);
    const __m512 score = _mm512_maskz_loadu_ps(live, scores + i);
    const __m512 e = exponential(_mm512_sub_ps(score, _mm512_set1_ps(maximum)));
    _mm512_mask_storeu_ps(scores + i, live, e);
    sum = _mm512_mask_add_ps(sum, live, sum, e);
  }
  return _mm512_reduce_add_ps(sum);
}

struct Shape {
  int heads, kv_heads, head_size;
  float scale;
};

// Query heads that share the key-value heads begin..end of one request. Its rows are read whole,
// one after the other, since that is how they lie in memory.
template <typename Type>
void attend(const Shape& shape, const typename Type::Element* query,
            const typename Type::Element* keys, const typename Type::Element* values,
            const int64_t* rows, int num_keys, int begin, int end, std::vector<float>& buffer,
            typename Type::Element* out) {
  const int size = shape.head_size, group = shape.heads / shape.kv_heads;
  const int64_t stride = (int64_t)shape.kv_heads * size;
  const int num_heads = (end - begin) * group;
  buffer.assign((size_t)num_heads * (num_keys + size), 0.f);
  float* const scores = buffer.data();
  float* const sums = scores + (size_t)num_heads * num_keys;
  for (int i = 0; i < num_keys; ++i) {
    const auto* key = keys + rows[i] * stride + begin * size;
    for (int h = 0; h < num_heads; key += size)
      for (int g = 0; g < group; ++g, ++h)
        scores[h * num_keys + i] =
            shape.scale * Type::dot(query + (begin * group + h) * size, key, size);
  }
  for (int h = 0; h < num_heads; ++h) {
    const float inverse = 1.f / exponentials(scores + h * num_keys, num_keys);
    for (int i = 0; i < num_keys; ++i) scores[h * num_keys + i] *= inverse;
  }
  for (int i = 0; i < num_keys; ++i) {
    const auto* value = values + rows[i] * stride + begin * size;
    for (int h = 0; h < num_heads; value += size)
      for (int g = 0; g < group; ++g, ++h) {
        const __m512 weight = _mm512_set1_ps(scores[h * num_keys + i]);
        for (int d = 0; d < size; d += kLanes) {
          float* const sum = sums + h * size + d;
          _mm512_storeu_ps(
              sum, _mm512_fmadd_ps(weight, Type::load(value + d), _mm512_loadu_ps(sum)));
        }
      }
  }
  for (int d = 0; d < num_heads * size; d += kLanes)
    Type::store(out + begin * group * size + d, _mm512_loadu_ps(sums + d));
}

template <typename Type>
void run(const Shape& shape, const void* queries, const void* keys, const void* values,
         const int64_t* rows, const int32_t* key_ranges, const int32_t* tokens, int num_requests,
         void* out, int num_threads) {
  using Element = typename Type::Element;
  // Few requests are divided among the threads by heads.
  const int wanted = (kTasksPerThread * num_threads + num_requests - 1) / num_requests;
  const int parts = std::max(1, std::min(shape.kv_heads, num_threads > 1 ? wanted : 1));
#pragma omp parallel num_threads(num_threads)
  {
    std::vector<float> buffer;
#pragma omp for schedule(dynamic, 1)
    for (int i = 0; i < num_requests * parts; ++i) {
      const int request = i / parts, part = i % parts;
      const int begin = key_ranges[2 * request];
      const int64_t at = (int64_t)tokens[request] * shape.heads * shape.head_size;
      attend<Type>(shape, (const Element*)queries + at, (const Element*)keys,
                   (const Element*)values, rows + begin, key_ranges[2 * request + 1] - begin,
                   part * shape.kv_heads / parts, (part + 1) * shape.kv_heads / parts, buffer,
                   (Element*)out + at);
    }
  }
}

// The norms of queries and keys, if any: of each head, or of all heads of a token together.
enum Norm { kNone, kByHead, kByToken };

struct Heads {
  int heads, kv_heads, head_size;
  Norm norm;
  float epsilon;
};

// `count` heads of one token: norm, then rotation by the token's position.
template <typename Type>
void turn(const Heads& shape, const typename Type::Element* x, int count, const void* norm_weight,
          const typename Type::Element* cos, const typename Type::Element* sin,
          typename Type::Element* out) {
  using Element = typename Type::Element;
  const int size = shape.head_size, half = size / 2;
  const Element* weight = (const Element*)norm_weight;
  float scale = shape.norm == kByToken ? inverse_rms<Type>(x, count * size, shape.epsilon) : 1.f;
  for (int h = 0; h < count; ++h, x += size, out += size) {
    if (shape.norm == kByHead) scale = inverse_rms<Type>(x, size, shape.epsilon);
    const Element* w = shape.norm == kByToken ? weight + h * size : weight;
    const auto normed = [&](int d) {
      const __m512 value = _mm512_mul_ps(Type::load(x + d), _mm512_set1_ps(scale));
      return shape.norm == kNone ? value : _mm512_mul_ps(value, Type::load(w + d));
    };
    for (int d = 0; d < half; d += kLanes) {
      const __m512 low = normed(d), high = normed(d + half);
      const __m512 low_sin = _mm512_mul_ps(high, Type::load(sin + d));
      const __m512 high_sin = _mm512_mul_ps(low, Type::load(sin + d + half));
      Type::store(out + d, _mm512_fmsub_ps(low, Type::load(cos + d), low_sin));
      Type::store(out + d + half, _mm512_fmadd_ps(high, Type::load(cos + d + half), high_sin));
    }
  }
}

template <typename Type>
void place(const Heads& shape, const void* qkv, const void* query_norm, const void* key_norm,
           const void* cos, const void* sin, const int64_t* rows, int num_tokens, void* queries,
           void* keys, void* values, int num_threads) {
  using Element = typename Type::Element;
  const int size = shape.head_size;
  const int query_width = shape.heads * size, kv_width = shape.kv_heads * size;
#pragma omp parallel for num_threads(num_threads) if (num_tokens > 4)
  for (int t = 0; t < num_tokens; ++t) {
    const Element* query = (const Element*)qkv + (int64_t)t * (query_width + 2 * kv_width);
    const Element* key = query + query_width;
    const Element* const cos_t = (const Element*)cos + (int64_t)t * size;
    const Element* const sin_t = (const Element*)sin + (int64_t)t * size;
    turn<Type>(shape, query, shape.heads, query_norm, cos_t, sin_t,
               (Element*)queries + (int64_t)t * query_width);
    turn<Type>(shape, key, shape.kv_heads, key_norm, cos_t, sin_t,
               (Element*)keys + rows[t] * kv_width);
    std::memcpy((Element*)values + rows[t] * kv_width, key + kv_width, kv_width * sizeof(Element));
  }
}

}  // namespace

// qkv: [token][queries, keys, values of all heads], as the projections give them. Normed and
// turned, queries go to `queries`, keys to row `rows[token]` of the cache; values go there as they
// are.
extern "C" __attribute__((visibility("default"))) void kprime_heads(
    int bf16, const void* qkv, int heads, int kv_heads, int head_size, int norm, float epsilon,
    const void* query_norm, const void* key_norm, const void* cos, const void* sin,
    const int64_t* rows, int num_tokens, void* queries, void* keys, void* values,
    int num_threads) {
  const Heads shape{heads, kv_heads, head_size, (Norm)norm, epsilon};
  (bf16 ? place<Bf16> : place<Fp32>)(shape, qkv, query_norm, key_norm, cos, sin, rows, num_tokens,
                                     queries, keys, values, num_threads);
}

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
