// Attention of the requests that decode, one query token each, to keys and values where they lie in
// a paged cache. Nothing is gathered, and all query heads that share a key-value head
// use one reading of it. Knows nothing of torch (see experts.cpp).
//
// A cache is rows of [key-value heads][head size], in pages; a request's keys lie in its pages, in
// order. Head sizes are multiples of 32.

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")

#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "element.h"
#include "exponential.h"
#include "kernels.h"

namespace {

constexpr int kTasksPerThread = 2;
constexpr int kBlock = kLanes;  // keys that are scored together

struct Shape {
  int heads, kv_heads, head_size;
  float scale;
  int page_tokens, max_pages;
};

// The sums of 16 vectors, each in its own lane.
inline __m512 sums_of(const __m512 (&x)[kBlock]) {
  __m512 pairs[8], fours[4], eights[2];
  for (int i = 0; i < 8; ++i)
    pairs[i] = _mm512_add_ps(_mm512_unpacklo_ps(x[2 * i], x[2 * i + 1]),
                             _mm512_unpackhi_ps(x[2 * i], x[2 * i + 1]));
  for (int i = 0; i < 4; ++i) {
    const __m512d a = _mm512_castps_pd(pairs[2 * i]), b = _mm512_castps_pd(pairs[2 * i + 1]);
    fours[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)),
                             _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
  }
  for (int i = 0; i < 2; ++i)
    eights[i] = _mm512_add_ps(_mm512_shuffle_f32x4(fours[2 * i], fours[2 * i + 1], 0x88),
                              _mm512_shuffle_f32x4(fours[2 * i], fours[2 * i + 1], 0xdd));
  return _mm512_add_ps(_mm512_shuffle_f32x4(eights[0], eights[1], 0x88),
                       _mm512_shuffle_f32x4(eights[0], eights[1], 0xdd));
}

// The rows of a block that head h of `num_heads` fetches ahead: all at once they would hold up the
// work, and the processor's own prefetching loses its way between heads.
template <typename Element>
inline void fetch_share(const Element* row, int64_t stride, int width, int h, int num_heads) {
  for (int j = h * kBlock / num_heads; j < (h + 1) * kBlock / num_heads; ++j)
    for (int d = 0; d < width; d += 64 / sizeof(Element))
      _mm_prefetch((const char*)(row + j * stride + d), _MM_HINT_T0);
}

// Query heads that share the key-value heads begin..end of one request. Blocks of rows are read
// whole, one after the other, since that is how they lie in memory.
template <typename Type>
void attend(const Shape& shape, const typename Type::Element* query,
            const typename Type::Element* keys, const typename Type::Element* values,
            const int64_t* pages, int num_keys, int begin, int end, std::vector<float>& buffer,
            typename Type::Element* out) {
  const int size = shape.head_size, group = shape.heads / shape.kv_heads;
  const int64_t stride = (int64_t)shape.kv_heads * size;
  const int num_heads = (end - begin) * group;
  const int padded = (num_keys + kBlock - 1) / kBlock * kBlock;
  buffer.resize((size_t)num_heads * (padded + size));
  float* const scores = buffer.data();
  float* const sums = scores + (size_t)num_heads * padded;
  const auto offset = [&](int i) {
    return (pages[i / shape.page_tokens] + i % shape.page_tokens) * stride + begin * size;
  };
  for (int i = 0; i < padded; i += kBlock) {
    const auto* key = keys + offset(i);
    const int last = std::min(kBlock, num_keys - i) - 1;
    const auto* next = i + kBlock < padded ? keys + offset(i + kBlock) : values + offset(0);
    for (int h = 0; h < num_heads; key += size)
      for (int g = 0; g < group; ++g, ++h) {
        fetch_share(next, stride, (end - begin) * size, h, num_heads);
        __m512 products[kBlock];
        for (int j = 0; j < kBlock; ++j)
          products[j] = Type::products(query + (begin * group + h) * size,
                                       key + std::min(j, last) * stride, size);
        _mm512_storeu_ps(scores + h * padded + i,
                         _mm512_mul_ps(sums_of(products), _mm512_set1_ps(shape.scale)));
      }
  }
  for (int h = 0; h < num_heads; ++h) {
    float* const score = scores + h * padded;
    const float inverse = 1.f / exponentials(score, num_keys);
    for (int i = 0; i < num_keys; ++i) score[i] *= inverse;
    for (int i = num_keys; i < padded; ++i) score[i] = 0.f;
  }
  std::fill(sums, sums + num_heads * size, 0.f);
  for (int i = 0; i < padded; i += kBlock) {
    const auto* value = values + offset(i);
    const int last = std::min(kBlock, num_keys - i) - 1;
    const auto* next = i + kBlock < padded ? values + offset(i + kBlock) : value;
    for (int h = 0; h < num_heads; h += group, value += size) {
      for (int g = 0; g < group; ++g)
        fetch_share(next, stride, (end - begin) * size, h + g, num_heads);
      for (int d = 0; d < size; d += kLanes) {
        __m512 loaded[kBlock];
        for (int j = 0; j < kBlock; ++j)
          loaded[j] = Type::load(value + std::min(j, last) * stride + d);
        for (int g = h; g < h + group; ++g) {
          float* const sum = sums + g * size + d;
          const float* const score = scores + g * padded + i;
          __m512 even = _mm512_loadu_ps(sum), odd = _mm512_setzero_ps();
          for (int j = 0; j < kBlock; j += 2) {
            even = _mm512_fmadd_ps(_mm512_set1_ps(score[j]), loaded[j], even);
            odd = _mm512_fmadd_ps(_mm512_set1_ps(score[j + 1]), loaded[j + 1], odd);
          }
          _mm512_storeu_ps(sum, _mm512_add_ps(even, odd));
        }
      }
    }
  }
  for (int d = 0; d < num_heads * size; d += kLanes)
    Type::store(out + begin * group * size + d, _mm512_loadu_ps(sums + d));
}

template <typename Type>
void run(const Shape& shape, const void* queries, const void* keys, const void* values,
         const int64_t* pages, const int32_t* num_keys, const int32_t* tokens, int num_requests,
         void* out, int num_threads) {
  using Element = typename Type::Element;
  // Few requests are divided among the threads by heads.
  const int wanted = (kTasksPerThread * num_threads + num_requests - 1) / num_requests;
  const int parts = std::max(1, std::min(shape.kv_heads, num_threads > 1 ? wanted : 1));
#pragma omp parallel num_threads(num_threads)
  {
    static thread_local std::vector<float> buffer;
#pragma omp for schedule(dynamic, 1)
    for (int i = 0; i < num_requests * parts; ++i) {
      const int request = i / parts, part = i % parts;
      const int64_t at = (int64_t)tokens[request] * shape.heads * shape.head_size;
      attend<Type>(shape, (const Element*)queries + at, (const Element*)keys,
                   (const Element*)values, pages + (int64_t)request * shape.max_pages,
                   num_keys[request], part * shape.kv_heads / parts,
                   (part + 1) * shape.kv_heads / parts, buffer, (Element*)out + at);
    }
  }
}

}  // namespace

// queries, out: [token][heads][head size]. For each request its token, the number of its keys and
// the first rows of its pages, `max_pages` numbers; a page holds a multiple of 16 rows, or what is
// left.
KPRIME_KERNEL kprime_attention(
    int bf16, const void* queries, const void* keys, const void* values, const int64_t* pages,
    int page_tokens, int max_pages, const int32_t* num_keys, const int32_t* tokens,
    int num_requests, int heads, int kv_heads, int head_size, float scale, void* out,
    int num_threads) {
  const Shape shape{heads, kv_heads, head_size, scale, page_tokens, max_pages};
  (bf16 ? run<Bf16> : run<Fp32>)(shape, queries, keys, values, pages, num_keys, tokens,
                                 num_requests, out, num_threads);
}
