// The kernels, as the world and each other see them. What each takes stands beside its definition.

#pragma once

#include <cstdint>

#define KPRIME_KERNEL extern "C" __attribute__((visibility("default"))) void

KPRIME_KERNEL kprime_rms_norm(int bf16, const void* x, const void* weight, float epsilon, int rows,
                              int width, void* y, int num_threads);
KPRIME_KERNEL kprime_linear(int bf16, const void* packed, const float* bias, const void* x,
                            int rows, int in, int out, void* y, int num_threads);
KPRIME_KERNEL kprime_heads(int bf16, const void* qkv, int heads, int kv_heads, int head_size,
                           int norm, float epsilon, const void* query_norm, const void* key_norm,
                           const void* cos, const void* sin, const int64_t* rows, int num_tokens,
                           void* queries, void* keys, void* values, int num_threads);
KPRIME_KERNEL kprime_attention(int bf16, const void* queries, const void* keys, const void* values,
                               const int64_t* pages, int page_tokens, int max_pages,
                               const int32_t* num_keys, const int32_t* tokens, int num_requests,
                               int heads, int kv_heads, int head_size, float scale, void* out,
                               int num_threads);
KPRIME_KERNEL kprime_prompts(int bf16, const void* queries, const void* keys, const void* values,
                             const int64_t* pages, int page_tokens, int max_pages,
                             const int32_t* num_keys, const int32_t* tokens,
                             const int32_t* num_queries, int num_requests, int heads,
                             int kv_heads, int head_size, int window, float scale, void* out,
                             int num_threads);
KPRIME_KERNEL kprime_route(int bf16, const void* packed, const void* x, int rows, int hidden,
                           int num_experts, int k, int renormalises, void* logits, float* weights,
                           int64_t* index, int num_threads);
KPRIME_KERNEL kprime_narrow(int64_t* index, float* weights, int num_tokens, int k,
                            const int64_t* budgets, int cap, int num_experts, int renormalises,
                            int anchor_k);
KPRIME_KERNEL kprime_experts(int bf16, const void* gate_up, const void* down, int num_experts,
                             int hidden, int inner, const void* x, const int64_t* index,
                             const float* weight, void* out, int num_tokens, int k,
                             int num_threads, int32_t* load);
