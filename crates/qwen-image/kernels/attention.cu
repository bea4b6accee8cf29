// The parts of attention that no library does for us.
#include "common.cuh"

// Rows of scores to weights: softmax(scores * scale) over the first `visible` keys, 0 after them. A block a row; rows
// of all heads follow one another, `queries` a head. Row i of a head sees keys 0 ..= first + i when causal.
template <typename T>
__device__ void softmax(const float *scores, T *weights, int keys, int queries, int first, int causal, float scale) {
    __shared__ float room[2][32];
    const int64_t row = blockIdx.x;
    scores += row * keys;
    weights += row * keys;
    const int visible = causal ? min(keys, first + (int)(row % queries) + 1) : keys;
    float top = -INFINITY;
    for (int i = threadIdx.x; i < visible; i += blockDim.x) top = fmaxf(top, scores[i]);
    top = block_max(top, room[0]);
    float total = 0.0f;
    for (int i = threadIdx.x; i < visible; i += blockDim.x) total += __expf((scores[i] - top) * scale);
    const float factor = 1.0f / block_sum(total, room[1]);
    for (int i = threadIdx.x; i < keys; i += blockDim.x)
        weights[i] = narrow<T>(i < visible ? __expf((scores[i] - top) * scale) * factor : 0.0f);
}

extern "C" __global__ void softmax_bf16(const float *scores, bf16 *weights, int keys, int queries, int first,
                                        int causal, float scale) {
    softmax(scores, weights, keys, queries, first, causal, scale);
}
extern "C" __global__ void softmax_f32(const float *scores, float *weights, int keys, int queries, int first,
                                       int causal, float scale) {
    softmax(scores, weights, keys, queries, first, causal, scale);
}

// Attention of one query over few keys: windows of the vision tower, and one token of a caption. A block a query and
// head. `bounds` gives the first key of each query and the key after its last; null: all `keys`. Scores stand in
// shared memory.
template <typename T>
__device__ void row_attention(const T *q, int64_t q_row, int64_t q_head, const T *k, int64_t k_row, int64_t k_head,
                              const T *v, int64_t v_row, int64_t v_head, T *out, const int *bounds, int keys, int heads,
                              int group, int head, float scale) {
    extern __shared__ float shared[];
    __shared__ float room[2][32];
    const int64_t query = blockIdx.x;
    const int index = blockIdx.y, lane = threadIdx.x % 32, warps = blockDim.x / 32;
    const int from = bounds ? bounds[2 * query] : 0, until = bounds ? bounds[2 * query + 1] : keys;
    const int count = until - from;
    // The query in float32, the scores behind it, then a number a thread.
    float *wanted = shared, *scores = shared + head, *sums = scores + count;
    for (int i = threadIdx.x; i < head; i += blockDim.x) wanted[i] = wide(q[query * q_row + index * q_head + i]);
    __syncthreads();
    k += from * k_row + index / group * k_head;
    v += from * v_row + index / group * v_head;
    float top = -INFINITY;
    for (int key = threadIdx.x / 32; key < count; key += warps) {
        float dot = 0.0f;
        for (int i = lane; i < head; i += 32) dot += wanted[i] * wide(k[key * k_row + i]);
        dot = group_sum(dot, 32) * scale;
        if (lane == 0) scores[key] = dot;
        top = fmaxf(top, dot);
    }
    top = block_max(top, room[0]);
    float total = 0.0f;
    for (int key = threadIdx.x; key < count; key += blockDim.x) {
        scores[key] = __expf(scores[key] - top);
        total += scores[key];
    }
    total = block_sum(total, room[1]);
    // Each thread owns channels; keys are split among `parts` threads a channel, which then meet in shared memory.
    const int parts = max(1, (int)blockDim.x / head);
    for (int start = 0; start < head; start += blockDim.x) {
        const int channel = start + threadIdx.x % head, part = threadIdx.x / head;
        float sum = 0.0f;
        if (channel < head && part < parts)
            for (int key = part; key < count; key += parts) sum += scores[key] * wide(v[key * v_row + channel]);
        sums[threadIdx.x] = sum;
        __syncthreads();
        if (threadIdx.x < head && channel < head) {
            for (int other = 1; other < parts; other++) sum += sums[threadIdx.x + other * head];
            out[(query * heads + index) * head + channel] = narrow<T>(sum / total);
        }
        __syncthreads();
    }
}

#define ROW_ATTENTION(name, T)                                                                                        \
    extern "C" __global__ void name(const T *q, int64_t q_row, int64_t q_head, const T *k, int64_t k_row,             \
                                    int64_t k_head, const T *v, int64_t v_row, int64_t v_head, T *out,                \
                                    const int *bounds, int keys, int heads, int group, int head, float scale) {       \
        row_attention(q, q_row, q_head, k, k_row, k_head, v, v_row, v_head, out, bounds, keys, heads, group, head,    \
                      scale);                                                                                         \
    }
ROW_ATTENTION(row_attention_bf16, bf16)
ROW_ATTENTION(row_attention_f32, float)
