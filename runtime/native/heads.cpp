// Queries, keys and values on their way from the projections to attention: norms, rotation by the
// token's position, and the cache. Knows nothing of torch (see experts.cpp).

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "element.h"
#include "kernels.h"

namespace {

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
KPRIME_KERNEL kprime_heads(
    int bf16, const void* qkv, int heads, int kv_heads, int head_size, int norm, float epsilon,
    const void* query_norm, const void* key_norm, const void* cos, const void* sin,
    const int64_t* rows, int num_tokens, void* queries, void* keys, void* values,
    int num_threads) {
  const Heads shape{heads, kv_heads, head_size, (Norm)norm, epsilon};
  (bf16 ? place<Bf16> : place<Fp32>)(shape, qkv, query_norm, key_norm, cos, sin, rows, num_tokens,
                                     queries, keys, values, num_threads);
}
