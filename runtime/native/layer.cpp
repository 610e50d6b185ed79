// A decoder layer in one call: the kernels that its modules run one by one, in their order, without
// what Python and torch take between them, which in a decode step was most of the layer's time.
// Knows nothing of torch (see experts.cpp).

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")

#include <immintrin.h>

#include <chrono>
#include <cstdint>
#include <vector>

#include "element.h"
#include "kernels.h"

namespace {

// As runtime/fusion/layer.py has it, field by field.
struct Layer {
  int32_t bf16, hidden;
  const void *input_norm, *post_norm;
  float input_epsilon, post_epsilon;
  const void* qkv;
  const float* qkv_bias;
  const void* output;
  const float* output_bias;
  int32_t heads, kv_heads, head_size, head_norm;
  const void *query_norm, *key_norm;
  float head_epsilon, scale;  // of the scores
  int32_t num_experts;
  const void* router;
  int32_t router_renormalises, rounds_weights;  // to bf16
  const void *gate_up, *down;
  int32_t inner, anchor_k, rule_renormalises;
  // These change from step to step.
  int32_t k, cap;
  int64_t experts_ns;  // that the experts took
  const int64_t* budgets;
  int32_t* load;
  void *keys, *values;
};

// As runtime/fusion/steps.py has them.
struct Requests {
  int32_t count, page_tokens, max_pages;
  const int32_t *tokens, *num_tokens, *num_keys;
  const int64_t* pages;
};

struct Step {
  int32_t num_tokens, num_threads;
  const void *cos, *sin;
  const int64_t* rows;  // of the cache, where keys and values go
  Requests decodes, prompts;
};

// Memory that grows with the largest step and stays: a step allocates nothing.
class Scratch {
 public:
  template <typename Element>
  Element* of(size_t count) {
    const size_t bytes = count * sizeof(Element);
    if (memory_.size() < bytes) memory_.resize(bytes);
    return (Element*)memory_.data();
  }

 private:
  std::vector<char> memory_;
};

template <typename Type>
void add(const void* a, const void* b, void* sum, int64_t count) {
  using Element = typename Type::Element;
  for (int64_t i = 0; i < count; i += kLanes)
    Type::store((Element*)sum + i, _mm512_add_ps(Type::load((const Element*)a + i),
                                                 Type::load((const Element*)b + i)));
}

void add(const Layer& layer, const Step& step, const void* a, const void* b, void* sum) {
  (layer.bf16 ? add<Bf16> : add<Fp32>)(a, b, sum, (int64_t)step.num_tokens * layer.hidden);
}

void round_to_bf16(float* x, int count) {
  for (int i = 0; i < count; i += kLanes) {
    const __mmask16 live = first_lanes(count - i);
    uint16_t rounded[kLanes];
    Bf16::store(rounded, _mm512_maskz_loadu_ps(live, x + i));
    _mm512_mask_storeu_ps(x + i, live, Bf16::load(rounded));
  }
}

size_t bytes(const Layer& layer, int64_t count) { return count * (layer.bf16 ? 2 : 4); }

// Queries, and what they attended to: [tokens][heads][head size].
void attend(const Layer& layer, const Step& step, const void* queries, void* attended) {
  const Requests &few = step.decodes, &many = step.prompts;
  if (few.count)
    kprime_attention(layer.bf16, queries, layer.keys, layer.values, few.pages, few.page_tokens,
                     few.max_pages, few.num_keys, few.tokens, few.count, layer.heads,
                     layer.kv_heads, layer.head_size, layer.scale, attended, step.num_threads);
  if (many.count)
    kprime_prompts(layer.bf16, queries, layer.keys, layer.values, many.pages, many.page_tokens,
                   many.max_pages, many.num_keys, many.tokens, many.num_tokens, many.count,
                   layer.heads, layer.kv_heads, layer.head_size, 0, layer.scale, attended,
                   step.num_threads);
}

}  // namespace

// hidden, out: [tokens][hidden features], what comes into the layer and what leaves it.
KPRIME_KERNEL kprime_layer(Layer* layer, const Step* step, const void* hidden, void* out) {
  static thread_local Scratch for_normed, for_qkv, for_queries, for_attended, for_between,
      for_added, for_logits, for_weights, for_index;
  const int tokens = step->num_tokens, threads = step->num_threads, k = layer->k;
  const int query_width = layer->heads * layer->head_size;
  const int qkv_width = query_width + 2 * layer->kv_heads * layer->head_size;
  const auto rows = [&](Scratch& memory, int width) {
    return memory.of<char>(bytes(*layer, (int64_t)tokens * width));
  };
  void *const normed = rows(for_normed, layer->hidden), *const qkv = rows(for_qkv, qkv_width);
  void *const queries = rows(for_queries, query_width);
  void *const attended = rows(for_attended, query_width);
  void *const between = rows(for_between, layer->hidden);
  void *const added = rows(for_added, layer->hidden);
  kprime_rms_norm(layer->bf16, hidden, layer->input_norm, layer->input_epsilon, tokens,
                  layer->hidden, normed, threads);
  kprime_linear(layer->bf16, layer->qkv, layer->qkv_bias, normed, tokens, layer->hidden, qkv_width,
                qkv, threads);
  kprime_heads(layer->bf16, qkv, layer->heads, layer->kv_heads, layer->head_size, layer->head_norm,
               layer->head_epsilon, layer->query_norm, layer->key_norm, step->cos, step->sin,
               step->rows, tokens, queries, layer->keys, layer->values, threads);
  attend(*layer, *step, queries, attended);
  kprime_linear(layer->bf16, layer->output, layer->output_bias, attended, tokens, query_width,
                layer->hidden, added, threads);
  add(*layer, *step, hidden, added, between);
  kprime_rms_norm(layer->bf16, between, layer->post_norm, layer->post_epsilon, tokens,
                  layer->hidden, normed, threads);
  float* const weights = for_weights.of<float>((size_t)tokens * k);
  int64_t* const index = for_index.of<int64_t>((size_t)tokens * k);
  kprime_route(layer->bf16, layer->router, normed, tokens, layer->hidden, layer->num_experts, k,
               layer->router_renormalises, rows(for_logits, layer->num_experts), weights, index,
               threads);
  if (layer->rounds_weights) round_to_bf16(weights, tokens * k);
  kprime_narrow(index, weights, tokens, k, layer->budgets, layer->cap, layer->num_experts,
                layer->rule_renormalises, layer->anchor_k);
  if (layer->rounds_weights) round_to_bf16(weights, tokens * k);
  const auto started = std::chrono::steady_clock::now();
  kprime_experts(layer->bf16, layer->gate_up, layer->down, layer->num_experts, layer->hidden,
                 layer->inner, normed, index, weights, added, tokens, k, threads, layer->load);
  layer->experts_ns = (std::chrono::steady_clock::now() - started) / std::chrono::nanoseconds(1);
  add(*layer, *step, between, added, out);
}
