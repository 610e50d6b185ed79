// Attention of the requests that prefill: many query tokens of a prompt, each to the keys before it
// and its own, over a paged cache. Keys and values of a prompt are packed into tiles (tile.h) once
// for all its queries, so that scores and sums run at the speed of the multipliers; what a token may
// not see is not computed, but for the rest of a tile. Knows nothing of torch (see experts.cpp).
//
// Scores of kRows query rows and all their keys stand in memory at once: a megabyte at 40,000 keys.

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")

#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "element.h"
#include "exponential.h"
#include "kernels.h"
#include "tile.h"

namespace {

constexpr int kValueVectors = 2;  // of features in a tile of values: heads are multiples of 32
constexpr int kValueTile = kValueVectors * kLanes;

struct Shape {
  int heads, kv_heads, head_size, window;
  float scale;

  // The first key that the one at `key` sees.
  int first_seen(int key) const { return window ? std::max(0, key + 1 - window) : 0; }
};

struct Prompt {
  const int64_t* pages;
  int page_tokens, num_keys, first_query, num_queries;

  int64_t row(int key) const { return pages[key / page_tokens] + key % page_tokens; }
  int tiles() const { return (num_keys + kTile - 1) / kTile; }
};

template <bool kBf16>
class Attention {
  using Type = ElementOf<kBf16>;
  using Element = typename Type::Element;

 public:
  Attention(const Shape& shape, const Prompt& prompt, const void* queries, const void* keys,
            const void* values, void* out)
      : shape_(shape), prompt_(prompt), queries_((const Element*)queries),
        keys_((const Element*)keys), values_((const Element*)values), out_((Element*)out),
        head_units_(units<kBf16>(shape.head_size)) {}

  // Keys as [tile][unit of the head][64 keys], values as [tile of features][unit of keys][32].
  void run(int num_threads) {
    static thread_local std::vector<Unit> packed_keys, packed_values;
    const int64_t keys_size = (int64_t)prompt_.tiles() * kTile * head_units_;
    const int64_t values_size = (int64_t)prompt_.tiles() * units<kBf16>(kTile) * shape_.head_size;
    packed_keys.resize(keys_size * shape_.kv_heads);
    packed_values.resize(values_size * shape_.kv_heads);
    Unit *const all_keys = packed_keys.data(), *const all_values = packed_values.data();
    const int blocks = (prompt_.num_queries + kRows - 1) / kRows;
#pragma omp parallel num_threads(num_threads)
    {
#pragma omp for schedule(static)
      for (int i = 0; i < shape_.kv_heads * prompt_.tiles(); ++i) {
        const int head = i / prompt_.tiles(), tile = i % prompt_.tiles();
        pack_keys(head, tile, all_keys + head * keys_size);
        pack_values(head, tile, all_values + head * values_size);
      }
      // The last queries see most keys: they begin.
#pragma omp for schedule(dynamic, 1)
      for (int i = 0; i < blocks * shape_.heads; ++i) {
        const int begin = (blocks - 1 - i / shape_.heads) * kRows, head = i % shape_.heads;
        const int kv_head = head / (shape_.heads / shape_.kv_heads);
        in_blocks(begin, std::min(begin + kRows, prompt_.num_queries), [&](auto m, int query) {
          attend<m>(head, query, all_keys + kv_head * keys_size,
                    all_values + kv_head * values_size);
        });
      }
    }
  }

 private:
  const Element* row(const Element* cache, int head, int key) const {
    return cache + (prompt_.row(key) * shape_.kv_heads + head) * shape_.head_size;
  }

  void pack_keys(int head, int tile, Unit* packed) const {
    packed += (int64_t)tile * kTile * head_units_;
    for (int j = 0; j < kTile; ++j) {
      const int key = tile * kTile + j;
      const Unit* from = key < prompt_.num_keys ? (const Unit*)row(keys_, head, key) : nullptr;
      for (int u = 0; u < head_units_; ++u) packed[u * kTile + j] = from ? from[u] : 0;
    }
  }

  void pack_values(int head, int tile, Unit* packed) const {
    const int tile_units = units<kBf16>(kTile), all_units = prompt_.tiles() * tile_units;
    const int keys_of_unit = kTile / tile_units;
    for (int u = 0; u < tile_units; ++u)
      for (int f = 0; f < shape_.head_size; f += kLanes) {
        __m512i unit = _mm512_setzero_si512();
        for (int j = 0; j < keys_of_unit; ++j) {
          const int key = tile * kTile + u * keys_of_unit + j;
          if (key >= prompt_.num_keys) break;
          const __m512i value = _mm512_castps_si512(Type::load(row(values_, head, key) + f));
          // A bf16 is the upper half of the fp32 that it is loaded as.
          const bool is_lower = kBf16 && j == 0;
          unit = _mm512_or_si512(unit, is_lower ? _mm512_srli_epi32(value, 16) : value);
        }
        const int64_t at = (int64_t)(f / kValueTile) * all_units + tile * tile_units + u;
        _mm512_storeu_si512(packed + at * kValueTile + f % kValueTile, unit);
      }
  }

  // kM queries in a row, of one head.
  template <int kM>
  void attend(int head, int query, const Unit* keys, const Unit* values) const {
    static thread_local std::vector<float> score_buffer;
    static thread_local std::vector<Element> share_buffer;
    const int own = prompt_.num_keys - prompt_.num_queries + query;  // key of the first query
    const int first_tile = shape_.first_seen(own) / kTile;
    const int tiles = (own + kM + kTile - 1) / kTile - first_tile, width = tiles * kTile;
    if (score_buffer.size() < (size_t)kM * width) {
      score_buffer.resize((size_t)kM * width);
      share_buffer.resize((size_t)kM * width);
    }
    float* const scores = score_buffer.data();
    Element* const shares = share_buffer.data();
    const int64_t first = (int64_t)(prompt_.first_query + query) * shape_.heads + head;
    const Unit* rows[kM];
    for (int m = 0; m < kM; ++m)
      rows[m] = (const Unit*)(queries_ + (first + m * shape_.heads) * shape_.head_size);
    for (int t = 0; t < tiles; ++t) {
      __m512 sums[kM][kVectors];
      multiply<kBf16, kM>(keys + (int64_t)(first_tile + t) * kTile * head_units_, rows,
                          head_units_, sums);
      for (int m = 0; m < kM; ++m)
        for (int v = 0; v < kVectors; ++v)
          _mm512_storeu_ps(scores + m * width + t * kTile + v * kLanes,
                           _mm512_mul_ps(sums[m][v], _mm512_set1_ps(shape_.scale)));
    }
    float inverse[kM];
    for (int m = 0; m < kM; ++m) {
      const int begin = shape_.first_seen(own + m) - first_tile * kTile;
      const int end = own + m + 1 - first_tile * kTile;
      float* const score = scores + m * width;
      inverse[m] = 1.f / exponentials(score + begin, end - begin);
      std::fill(score, score + begin, 0.f);
      std::fill(score + end, score + width, 0.f);
      for (int i = 0; i < width; i += kLanes)
        Type::store(shares + m * width + i, _mm512_loadu_ps(score + i));
      rows[m] = (const Unit*)(shares + m * width);
    }
    const int tile_units = units<kBf16>(kTile), all_units = prompt_.tiles() * tile_units;
    const Unit* const first_values = values + (int64_t)first_tile * tile_units * kValueTile;
    for (int f = 0; f < shape_.head_size; f += kValueTile) {
      __m512 sums[kM][kValueVectors];
      multiply<kBf16, kM, kValueVectors>(first_values + (int64_t)f * all_units, rows,
                                         tiles * tile_units, sums);
      for (int m = 0; m < kM; ++m)
        for (int v = 0; v < kValueVectors; ++v)
          Type::store(out_ + (first + m * shape_.heads) * shape_.head_size + f + v * kLanes,
                      _mm512_mul_ps(sums[m][v], _mm512_set1_ps(inverse[m])));
    }
  }

  const Shape& shape_;
  const Prompt& prompt_;
  const Element *queries_, *keys_, *values_;
  Element* out_;
  int head_units_;
};

}  // namespace

// queries, out: [token][heads][head size]. For each request its first token, the number of its
// tokens and of its keys, which end with those of its tokens, and the first rows of its pages,
// `max_pages` numbers. A token sees `window` keys at most (0: all before it and its own).
KPRIME_KERNEL kprime_prompts(int bf16, const void* queries, const void* keys, const void* values,
                             const int64_t* pages, int page_tokens, int max_pages,
                             const int32_t* num_keys, const int32_t* tokens,
                             const int32_t* num_queries, int num_requests, int heads,
                             int kv_heads, int head_size, int window, float scale,
                             void* out, int num_threads) {
  const Shape shape{heads, kv_heads, head_size, window, scale};
  for (int i = 0; i < num_requests; ++i) {
    const Prompt prompt{pages + (int64_t)i * max_pages, page_tokens, num_keys[i], tokens[i],
                        num_queries[i]};
    if (bf16) Attention<true>(shape, prompt, queries, keys, values, out).run(num_threads);
    else Attention<false>(shape, prompt, queries, keys, values, out).run(num_threads);
  }
}
