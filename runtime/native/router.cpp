// The router of an MoE layer: logits, their softmax, the k best and their weights, in one pass over
// the tokens. Knows nothing of torch (see experts.cpp).

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")

#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

#include "element.h"
#include "exponential.h"
#include "kernels.h"
#include "tile.h"

namespace {

struct Router {
  const Unit* packed;
  int hidden, num_experts, k;
  bool renormalises;
};

// The k largest of the logits, the first of equals, as shares of e^logit over all. `order`: a
// number for every expert, in any order.
void select(const Router& router, float* logits, int* order, float* weights, int64_t* index) {
  std::partial_sort(order, order + router.k, order + router.num_experts, [&](int a, int b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  });
  const float all = exponentials(logits, router.num_experts);
  float kept = 0.f;
  for (int i = 0; i < router.k; ++i) {
    index[i] = order[i];
    kept += weights[i] = logits[order[i]] / all;
  }
  if (router.renormalises)
    for (int i = 0; i < router.k; ++i) weights[i] /= kept;
}

template <bool kBf16>
void route(const Router& router, const Unit* x, int rows, void* logits, float* weights,
           int64_t* index, int num_threads) {
  using Type = ElementOf<kBf16>;
  using Element = typename Type::Element;
  const int num_units = units<kBf16>(router.hidden);
  const int tiles = (router.num_experts + kTile - 1) / kTile, blocks = (rows + kRows - 1) / kRows;
#pragma omp parallel for num_threads(num_threads) schedule(dynamic, 1) if (blocks > 1)
  for (int block = 0; block < blocks; ++block) {
    std::vector<float> rounded(tiles * kTile);
    std::vector<int> order(router.num_experts);
    std::iota(order.begin(), order.end(), 0);
    const int begin = block * kRows, end = std::min(rows, begin + kRows);
    in_blocks(begin, end, [&](auto m, int row) {
      const Unit* row_of[m];
      for (int r = 0; r < m; ++r) row_of[r] = x + (int64_t)(row + r) * num_units;
      for (int t = 0; t < tiles; ++t) {
        __m512 sums[m][kVectors];
        multiply<kBf16, m>(router.packed + (int64_t)t * num_units * kTile, row_of, num_units, sums);
        for (int r = 0; r < m; ++r)
          for (int v = 0; v < kVectors; ++v) {
            const int expert = t * kTile + v * kLanes;
            if (expert >= router.num_experts) break;
            Element* const out = (Element*)logits + (int64_t)(row + r) * router.num_experts;
            Type::store(out + expert, sums[r][v], first_lanes(router.num_experts - expert));
          }
      }
    });
    // Selected by the logits as they are given out, rounded: so does the model's own router.
    for (int row = begin; row < end; ++row) {
      const Element* const out = (const Element*)logits + (int64_t)row * router.num_experts;
      for (int e = 0; e < router.num_experts; e += kLanes) {
        const __mmask16 live = first_lanes(router.num_experts - e);
        _mm512_mask_storeu_ps(rounded.data() + e, live, Type::load(out + e, live));
      }
      select(router, rounded.data(), order.data(), weights + (int64_t)row * router.k,
             index + (int64_t)row * router.k);
    }
  }
}

}  // namespace

// logits: [rows][experts]; weights (fp32), index: [rows][k], the best first.
KPRIME_KERNEL kprime_route(
    int bf16, const void* packed, const void* x, int rows, int hidden, int num_experts, int k,
    int renormalises, void* logits, float* weights, int64_t* index, int num_threads) {
  const Router router{(const Unit*)packed, hidden, num_experts, k, renormalises != 0};
  (bf16 ? route<true> : route<false>)(router, (const Unit*)x, rows, logits, weights, index,
                                      num_threads);
}
