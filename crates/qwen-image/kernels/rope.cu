// Rotary embeddings, where attention will read them.
#include "common.cuh"

// Queries and keys of a token lie `part` elements apart; both are normed a head at a time and turned in adjacent
// pairs, in place. A warp a head, heads of any even size.
template <typename T>
__device__ void qk_norm_rope(T *x, int64_t stride, const T *weight_q, const T *weight_k, const float *cos,
                             const float *sin, int heads, int head, int64_t part, float eps) {
    const int64_t token = blockIdx.x;
    const int lane = threadIdx.x % 32;
    for (int job = threadIdx.x / 32; job < 2 * heads; job += blockDim.x / 32) {
        T *values = x + token * stride + (job < heads ? 0 : part) + (int64_t)(job % heads) * head;
        const T *weight = job < heads ? weight_q : weight_k;
        float squares = 0.0f;
        for (int i = lane; i < head; i += 32) squares += wide(values[i]) * wide(values[i]);
        const float factor = rsqrtf(group_sum(squares, 32) / head + eps);
        for (int pair = lane; pair < head / 2; pair += 32) {
            const float re = wide(values[2 * pair]) * factor * wide(weight[2 * pair]);
            const float im = wide(values[2 * pair + 1]) * factor * wide(weight[2 * pair + 1]);
            const float c = cos[token * (head / 2) + pair], s = sin[token * (head / 2) + pair];
            values[2 * pair] = narrow<T>(re * c - im * s);
            values[2 * pair + 1] = narrow<T>(re * s + im * c);
        }
    }
}

extern "C" __global__ void qk_norm_rope_bf16(bf16 *x, int64_t stride, const bf16 *weight_q, const bf16 *weight_k,
                                             const float *cos, const float *sin, int heads, int head, int64_t part,
                                             float eps) {
    qk_norm_rope(x, stride, weight_q, weight_k, cos, sin, heads, head, part, eps);
}
extern "C" __global__ void qk_norm_rope_f32(float *x, int64_t stride, const float *weight_q, const float *weight_k,
                                            const float *cos, const float *sin, int heads, int head, int64_t part,
                                            float eps) {
    qk_norm_rope(x, stride, weight_q, weight_k, cos, sin, heads, head, part, eps);
}

// The same for heads of 128: sixteen threads a head, 16 bytes each, query and key together so that two loads are
// under way, and registers few enough that three blocks share a multiprocessor.
extern "C" __global__ void __launch_bounds__(384, 3) qk_norm_rope_bf16_v(bf16 *x, int64_t stride, const bf16 *weight_q, const bf16 *weight_k,
                                               const float *cos, const float *sin, int heads, int head, int64_t part,
                                               float eps) {
    const int64_t token = blockIdx.x;
    const int lane = threadIdx.x % 16;
    float c[4], s[4], wq[8], wk[8];
    load<float, 4>(cos + token * 64 + lane * 4, c);
    load<float, 4>(sin + token * 64 + lane * 4, s);
    load<bf16, 8>(weight_q + lane * 8, wq);
    load<bf16, 8>(weight_k + lane * 8, wk);
    // Whole warps go round together, for the sums over their lanes.
    for (int first = 0; first < heads; first += blockDim.x / 16) {
        const int index = first + threadIdx.x / 16;
        bf16 *at = x + token * stride + (int64_t)index * 128 + lane * 8;
        float q[8] = {}, k[8] = {};
        if (index < heads) {
            load<bf16, 8>(at, q);
            load<bf16, 8>(at + part, k);
        }
        float q_squares = 0.0f, k_squares = 0.0f;
#pragma unroll
        for (int i = 0; i < 8; i++) {
            q_squares += q[i] * q[i];
            k_squares += k[i] * k[i];
        }
        const float q_factor = rsqrtf(group_sum(q_squares, 16) / 128 + eps);
        const float k_factor = rsqrtf(group_sum(k_squares, 16) / 128 + eps);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float re = q[2 * i] * q_factor * wq[2 * i], im = q[2 * i + 1] * q_factor * wq[2 * i + 1];
            q[2 * i] = re * c[i] - im * s[i];
            q[2 * i + 1] = re * s[i] + im * c[i];
            re = k[2 * i] * k_factor * wk[2 * i], im = k[2 * i + 1] * k_factor * wk[2 * i + 1];
            k[2 * i] = re * c[i] - im * s[i];
            k[2 * i + 1] = re * s[i] + im * c[i];
        }
        if (index < heads) {
            store<bf16, 8>(at, q);
            store<bf16, 8>(at + part, k);
        }
    }
}

// The first half of a head against its second half, as Qwen2.5-VL does. A block a token.
template <typename T>
__device__ void rotate_half(const T *x, int64_t stride, const float *cos, const float *sin, T *out, int heads,
                            int head) {
    const int64_t token = blockIdx.x;
    const int half = head / 2;
    x += token * stride;
    out += token * heads * head;
    cos += token * head;
    sin += token * head;
    for (int job = threadIdx.x; job < heads * half; job += blockDim.x) {
        const int i = job % half, at = job / half * head + i;
        const float low = wide(x[at]), high = wide(x[at + half]);
        out[at] = narrow<T>(low * cos[i] - high * sin[i]);
        out[at + half] = narrow<T>(high * cos[i + half] + low * sin[i + half]);
    }
}

extern "C" __global__ void rotate_half_bf16(const bf16 *x, int64_t stride, const float *cos, const float *sin,
                                            bf16 *out, int heads, int head) {
    rotate_half(x, stride, cos, sin, out, heads, head);
}
extern "C" __global__ void rotate_half_f32(const float *x, int64_t stride, const float *cos, const float *sin,
                                           float *out, int heads, int head) {
    rotate_half(x, stride, cos, sin, out, heads, head);
}
