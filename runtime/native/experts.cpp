// The gated SiLU experts of one MoE layer, on a CPU with AVX-512 (and its BF16 for bf16).
//
// Takes the tokens of a step, the experts chosen for each and their weights; gives
//     out[t] = sum_k weight[t, k] * down[e] (silu(gate[e] x[t]) * (up[e] x[t])),  e = index[t, k].
// An index outside 0..experts-1 means no expert and costs nothing. Knows nothing of torch: memory
// comes and goes as pointers (runtime/packed.py), and the threads are those of the OpenMP library
// that torch has loaded: a second one would compete with it for the cores.
//
// Weights are packed in tiles (tile.h), expert after expert: decode runs at the speed of memory,
// prefill near that of the multipliers. A tile of gate and up holds 32 features of either, so that
// one pass gives both factors of the inner activations.

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")

#include <immintrin.h>

#include <cstdint>
#include <vector>

#include "element.h"
#include "exponential.h"
#include "kernels.h"
#include "tile.h"

namespace {

struct Layer {
  const Unit* gate_up;
  const Unit* down;
  int num_experts;
  int hidden;  // features
  int inner;   // features of an expert, a multiple of 32
};

// One expert's tokens, as a range of the slots sorted by expert.
struct Group {
  int expert;
  int begin;
  int end;
};

inline __m512 silu(__m512 x) {
  const __m512 one = _mm512_set1_ps(1.f);
  const __m512 negative = _mm512_sub_ps(_mm512_setzero_ps(), x);
  return _mm512_div_ps(x, _mm512_add_ps(one, exponential(negative)));
}

// The inner activations of kM slots, 32 features of one tile.
template <bool kBf16, int kM>
void gate_and_up(const Unit* tile, const Unit* const* rows, int num_units,
                 typename ElementOf<kBf16>::Element* inner, int width) {
  __m512 sums[kM][kVectors];
  multiply<kBf16, kM>(tile, rows, num_units, sums);
  for (int m = 0; m < kM; ++m, inner += width)
    for (int v = 0; v < 2; ++v)
      ElementOf<kBf16>::store(inner + v * kLanes, _mm512_mul_ps(silu(sums[m][v]), sums[m][v + 2]));
}

// The weighed outputs of kM slots, 64 features of one tile.
template <bool kBf16, int kM>
void down(const Unit* tile, const Unit* const* rows, int num_units, const float* weights,
          float* out, int out_width) {
  __m512 sums[kM][kVectors];
  multiply<kBf16, kM>(tile, rows, num_units, sums);
  for (int m = 0; m < kM; ++m)
    for (int v = 0; v < kVectors; ++v)
      _mm512_storeu_ps(out + (int64_t)m * out_width + v * kLanes,
                       _mm512_mul_ps(sums[m][v], _mm512_set1_ps(weights[m])));
}

inline int padded(int features) { return (features + kTile - 1) / kTile * kTile; }

template <bool kBf16>
void run(const Layer& layer, const void* x, const int64_t* index, const float* weight,
         void* out, int num_tokens, int k, int num_threads, int32_t* load) {
  using Type = ElementOf<kBf16>;
  using Element = typename Type::Element;
  const int slots = num_tokens * k;
  std::vector<int> ends(layer.num_experts + 1, 0), slot_of(slots), place_of(slots, -1);
  for (int s = 0; s < slots; ++s)
    if (index[s] >= 0 && index[s] < layer.num_experts) ++ends[index[s] + 1];
  std::vector<Group> groups;
  for (int e = 0; e < layer.num_experts; ++e) {
    if (load) load[e] += ends[e + 1];
    if (ends[e + 1]) groups.push_back({e, ends[e], ends[e] + ends[e + 1]});
    ends[e + 1] += ends[e];
  }
  for (int s = 0; s < slots; ++s)
    if (index[s] >= 0 && index[s] < layer.num_experts) {
      place_of[s] = ends[index[s]]++;
      slot_of[place_of[s]] = s;
    }
  const int live = groups.empty() ? 0 : groups.back().end;

  const int in_units = units<kBf16>(layer.hidden), inner_units = units<kBf16>(layer.inner);
  const int out_width = padded(layer.hidden);
  const int gate_tiles = layer.inner / 32, down_tiles = out_width / kTile;
  static thread_local std::vector<Element> inner_buffer;
  static thread_local std::vector<float> out_buffer;
  const size_t inner_size = (size_t)live * layer.inner, out_size = (size_t)live * out_width;
  if (inner_buffer.size() < inner_size) inner_buffer.resize(inner_size);
  if (out_buffer.size() < out_size) out_buffer.resize(out_size);
  Element* const inner = inner_buffer.data();
  float* const weighed = out_buffer.data();
  std::vector<const Unit*> row_of(live);
  std::vector<const Unit*> inner_of(live);
  std::vector<float> weight_of(live);
  for (int p = 0; p < live; ++p) {
    row_of[p] = (const Unit*)x + (int64_t)(slot_of[p] / k) * in_units;
    inner_of[p] = (const Unit*)(inner + (int64_t)p * layer.inner);
    weight_of[p] = weight[slot_of[p]];
  }
  const int num_groups = groups.size();

#pragma omp parallel num_threads(num_threads)
  {
#pragma omp for schedule(dynamic, 1)
    for (int i = 0; i < num_groups * gate_tiles; ++i) {
      const Group& group = groups[i / gate_tiles];
      const int t = i % gate_tiles;
      const int64_t number = (int64_t)group.expert * gate_tiles + t;
      const Unit* tile = layer.gate_up + number * in_units * kTile;
      in_blocks(group.begin, group.end, [&](auto m, int p) {
        gate_and_up<kBf16, m>(tile, &row_of[p], in_units, inner + (int64_t)p * layer.inner + t * 32,
                              layer.inner);
      });
    }
#pragma omp for schedule(dynamic, 1)
    for (int i = 0; i < num_groups * down_tiles; ++i) {
      const Group& group = groups[i / down_tiles];
      const int t = i % down_tiles;
      const int64_t number = (int64_t)group.expert * down_tiles + t;
      const Unit* tile = layer.down + number * inner_units * kTile;
      in_blocks(group.begin, group.end, [&](auto m, int p) {
        down<kBf16, m>(tile, &inner_of[p], inner_units, &weight_of[p],
                       weighed + (int64_t)p * out_width + t * kTile, out_width);
      });
    }
#pragma omp for schedule(static)
    for (int t = 0; t < num_tokens; ++t)
      for (int d = 0; d < layer.hidden; d += kLanes) {
        __m512 sum = _mm512_setzero_ps();
        for (int s = t * k; s < (t + 1) * k; ++s)
          if (place_of[s] >= 0) {
            const float* const one = weighed + (int64_t)place_of[s] * out_width + d;
            sum = _mm512_add_ps(sum, _mm512_loadu_ps(one));
          }
        Type::store((Element*)out + (int64_t)t * layer.hidden + d, sum);
      }
  }
}

}  // namespace

KPRIME_KERNEL kprime_experts(
    int bf16, const void* gate_up, const void* down, int num_experts, int hidden, int inner,
    const void* x, const int64_t* index, const float* weight, void* out, int num_tokens, int k,
    int num_threads, int32_t* load) {
  const Layer layer{(const Unit*)gate_up, (const Unit*)down, num_experts, hidden, inner};
  (bf16 ? run<true> : run<false>)(layer, x, index, weight, out, num_tokens, k, num_threads, load);
}
