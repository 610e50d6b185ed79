// The gated SiLU experts of one MoE layer, on a CPU with AVX-512 (and its BF16 for bf16).
//
// Takes the tokens of a step, the experts chosen for each and their weights; gives
//     out[t] = sum_k weight[t, k] * down[e] (silu(gate[e] x[t]) * (up[e] x[t])),  e = index[t, k].
// An index outside 0..experts-1 means no expert and costs nothing. Knows nothing of torch: memory
// comes and goes as pointers (runtime/packed.py), and the threads are those of the OpenMP library
// that torch has loaded: a second one would compete with it for the cores.
//
// Weights are packed in tiles of 64 output features, the summed dimension outermost:
//     [expert][tile][unit of the summed dimension][64 features]
// so a tile streams from memory once, front to back, whether one token uses its expert or a
// hundred: decode runs at the speed of memory, prefill near that of the multipliers. A unit is 32
// bits, two bf16 or one fp32, and is all that the two types differ in. A tile of gate and up holds
// 32 features of either, so that one pass gives both factors of the inner activations.

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")

#include <immintrin.h>

#include <cstdint>
#include <type_traits>
#include <vector>

#include "exponential.h"

namespace {

using Unit = int32_t;

constexpr int kLanes = 16;
constexpr int kVectors = 4;
constexpr int kTile = kLanes * kVectors;
constexpr int kRows = 6;  // with four vectors of weights: 24 of 32 registers accumulate

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

// kM rows times one tile.
template <bool kBf16, int kM>
inline void multiply(const Unit* tile, const Unit* const* rows, int num_units,
                     __m512 (&sums)[kM][kVectors]) {
  for (int m = 0; m < kM; ++m)
    for (int v = 0; v < kVectors; ++v) sums[m][v] = _mm512_setzero_ps();
  for (int u = 0; u < num_units; ++u, tile += kTile) {
    __m512i weights[kVectors];
    for (int v = 0; v < kVectors; ++v) weights[v] = _mm512_loadu_si512(tile + v * kLanes);
    for (int m = 0; m < kM; ++m)
      for (int v = 0; v < kVectors; ++v)
        sums[m][v] = multiply_add<kBf16>(sums[m][v], weights[v], rows[m][u]);
  }
}

inline __m512 silu(__m512 x) {
  const __m512 one = _mm512_set1_ps(1.f);
  const __m512 negative = _mm512_sub_ps(_mm512_setzero_ps(), x);
  return _mm512_div_ps(x, _mm512_add_ps(one, exponential(negative)));
}

template <bool kBf16>
inline void store(Unit* row, int feature, __m512 values) {
  if constexpr (kBf16) {
    _mm256_storeu_si256((__m256i*)((uint16_t*)row + feature),
                        (__m256i)_mm512_cvtneps_pbh(values));
  } else {
    _mm512_storeu_ps((float*)row + feature, values);
  }
}

// The inner activations of kM slots, 32 features of one tile.
template <bool kBf16, int kM>
void gate_and_up(const Unit* tile, const Unit* const* rows, int num_units, Unit* inner,
                 int inner_units, int feature) {
  __m512 sums[kM][kVectors];
  multiply<kBf16, kM>(tile, rows, num_units, sums);
  for (int m = 0; m < kM; ++m)
    for (int v = 0; v < 2; ++v)
      store<kBf16>(inner + (int64_t)m * inner_units, feature + v * kLanes,
                   _mm512_mul_ps(silu(sums[m][v]), sums[m][v + 2]));
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

inline int padded(int features) { return (features + kTile - 1) / kTile * kTile; }

template <bool kBf16>
void run(const Layer& layer, const void* x, const int64_t* index, const float* weight,
         void* out, int num_tokens, int k, int num_threads, int32_t* load) {
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
  static thread_local std::vector<Unit> inner_buffer;
  static thread_local std::vector<float> out_buffer;
  if (inner_buffer.size() < (size_t)live * inner_units) inner_buffer.resize((size_t)live * inner_units);
  if (out_buffer.size() < (size_t)live * out_width) out_buffer.resize((size_t)live * out_width);
  Unit* const inner = inner_buffer.data();
  float* const weighed = out_buffer.data();
  std::vector<const Unit*> row_of(live);
  std::vector<const Unit*> inner_of(live);
  std::vector<float> weight_of(live);
  for (int p = 0; p < live; ++p) {
    row_of[p] = (const Unit*)x + (int64_t)(slot_of[p] / k) * in_units;
    inner_of[p] = inner + (int64_t)p * inner_units;
    weight_of[p] = weight[slot_of[p]];
  }
  const int num_groups = groups.size();

#pragma omp parallel num_threads(num_threads)
  {
#pragma omp for schedule(dynamic, 1)
    for (int i = 0; i < num_groups * gate_tiles; ++i) {
      const Group& group = groups[i / gate_tiles];
      const int t = i % gate_tiles;
      const Unit* tile = layer.gate_up + ((int64_t)group.expert * gate_tiles + t) * in_units * kTile;
      in_blocks(group.begin, group.end, [&](auto m, int p) {
        gate_and_up<kBf16, m>(tile, &row_of[p], in_units, inner + (int64_t)p * inner_units,
                              inner_units, t * 32);
      });
    }
#pragma omp for schedule(dynamic, 1)
    for (int i = 0; i < num_groups * down_tiles; ++i) {
      const Group& group = groups[i / down_tiles];
      const int t = i % down_tiles;
      const Unit* tile = layer.down + ((int64_t)group.expert * down_tiles + t) * inner_units * kTile;
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
          if (place_of[s] >= 0)
            sum = _mm512_add_ps(sum, _mm512_loadu_ps(weighed + (int64_t)place_of[s] * out_width + d));
        store<kBf16>((Unit*)out + (int64_t)t * in_units, d, sum);
      }
  }
}

}  // namespace

extern "C" __attribute__((visibility("default"))) void kprime_experts(int bf16, const void* gate_up, const void* down, int num_experts,
                               int hidden, int inner, const void* x, const int64_t* index,
                               const float* weight, void* out, int num_tokens, int k,
                               int num_threads, int32_t* load) {
  const Layer layer{(const Unit*)gate_up, (const Unit*)down, num_experts, hidden, inner};
  (bf16 ? run<true> : run<false>)(layer, x, index, weight, out, num_tokens, k, num_threads, load);
}
