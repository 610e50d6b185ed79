// Which of its router's choices each token runs, and with what weights: what
// runtime/selection.py does, without the price of a dozen torch operations a layer.

#include <algorithm>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

#include "kernels.h"

namespace {

// The experts of most use to the batch, and each token's best (runtime/selection.py, keep_shared).
std::vector<bool> shared(const int64_t* index, const float* weights, int num_tokens, int k,
                         const int64_t* budgets, int cap, int num_experts) {
  std::vector<float> use(num_experts, 0.f);
  for (int t = 0; t < num_tokens; ++t)
    for (int s = t * k; s < t * k + std::min<int64_t>(k, budgets[t]); ++s)
      use[index[s]] += weights[s];
  std::vector<int> by_use(num_experts);
  std::iota(by_use.begin(), by_use.end(), 0);
  std::stable_sort(by_use.begin(), by_use.end(), [&](int a, int b) { return use[a] > use[b]; });
  std::vector<bool> is_shared(num_experts, false);
  for (int i = 0; i < std::min(cap, num_experts); ++i) is_shared[by_use[i]] = true;
  for (int t = 0; t < num_tokens; ++t) is_shared[index[t * k]] = true;
  return is_shared;
}

}  // namespace

// index, weights: [tokens][k], the best first, changed in place: a slot that is not kept holds no
// expert (the index `num_experts`) and no weight. Budgets may be null, and are not with a cap (0:
// none). Where the router renormalises, what is kept adds up to what all of it did; the first
// `anchor_k` (0: all) alone do.
KPRIME_KERNEL kprime_narrow(int64_t* index, float* weights, int num_tokens, int k,
                            const int64_t* budgets, int cap, int num_experts, int renormalises,
                            int anchor_k) {
  const int counted_k = anchor_k ? anchor_k : k;
  if (!budgets && counted_k >= k) return;
  std::vector<bool> is_shared;
  if (cap) is_shared = shared(index, weights, num_tokens, k, budgets, cap, num_experts);
  for (int t = 0; t < num_tokens; ++t, index += k, weights += k) {
    const int budget = budgets ? (int)budgets[t] : k;
    float whole = 0.f, counted = 0.f;
    int kept = 0;
    for (int s = 0; s < k; ++s) {
      whole += weights[s];
      if (kept < budget && (!cap || is_shared[index[s]])) {
        if (kept++ < counted_k) counted += weights[s];
      } else {
        index[s] = num_experts;
        weights[s] = 0.f;
      }
    }
    if (!renormalises) continue;
    const float scale = whole / std::max(counted, std::numeric_limits<float>::min());
    for (int s = 0; s < k; ++s) weights[s] *= scale;
  }
}
