// Norms along rows, with what stands beside them in the blocks. One block of threads a row.
#include "common.cuh"

// PER vectors of N elements a thread stay in registers, so a row is read once.
//
// GATED: sum = residual + gate * x, else sum = x. NORMED: normed = layer_norm(sum) * (1 + scale) + shift.
// Gate, scale and shift have a row each, or one for all (stride 0).
template <typename T, int N, int PER, bool GATED, bool NORMED>
__device__ void residual_norm(const T *x, int64_t x_stride, const T *residual, int64_t residual_stride, const T *gate,
                              int64_t gate_stride, const T *scale, int64_t scale_stride, const T *shift,
                              int64_t shift_stride, T *sum, T *normed, int width, float eps) {
    __shared__ float room[2][32];
    const int64_t row = blockIdx.x;
    x += row * x_stride;
    residual += row * residual_stride;
    gate += row * gate_stride;
    scale += row * scale_stride;
    shift += row * shift_stride;
    float value[PER][N];
    float total = 0.0f;
#pragma unroll
    for (int i = 0; i < PER; i++) {
        const int at = (threadIdx.x + i * blockDim.x) * N;
#pragma unroll
        for (int j = 0; j < N; j++) value[i][j] = 0.0f;
        if (at >= width) continue;
        load<T, N>(x + at, value[i]);
        if (GATED) {
            float other[N], factor[N];
            load<T, N>(residual + at, other);
            load<T, N>(gate + at, factor);
#pragma unroll
            for (int j = 0; j < N; j++) value[i][j] = rounded<T>(other[j] + factor[j] * value[i][j]);
            store<T, N>(sum + row * width + at, value[i]);
        }
#pragma unroll
        for (int j = 0; j < N; j++) total += value[i][j];
    }
    if (!NORMED) return;
    const float mean = block_sum(total, room[0]) / width;
    float squares = 0.0f;
#pragma unroll
    for (int i = 0; i < PER; i++) {
        if ((threadIdx.x + i * blockDim.x) * N >= width) continue;
#pragma unroll
        for (int j = 0; j < N; j++) squares += (value[i][j] - mean) * (value[i][j] - mean);
    }
    const float factor = rsqrtf(block_sum(squares, room[1]) / width + eps);
#pragma unroll
    for (int i = 0; i < PER; i++) {
        const int at = (threadIdx.x + i * blockDim.x) * N;
        if (at >= width) continue;
        float grow[N], move[N];
        load<T, N>(scale + at, grow);
        load<T, N>(shift + at, move);
#pragma unroll
        for (int j = 0; j < N; j++) value[i][j] = (value[i][j] - mean) * factor * (1.0f + grow[j]) + move[j];
        store<T, N>(normed + row * width + at, value[i]);
    }
}

#define RESIDUAL_NORM(name, T, N, PER, GATED, NORMED)                                                                 \
    extern "C" __global__ void name(const T *x, int64_t x_stride, const T *residual, int64_t residual_stride,         \
                                    const T *gate, int64_t gate_stride, const T *scale, int64_t scale_stride,         \
                                    const T *shift, int64_t shift_stride, T *sum, T *normed, int width, float eps) {  \
        residual_norm<T, N, PER, GATED, NORMED>(x, x_stride, residual, residual_stride, gate, gate_stride, scale,     \
                                                scale_stride, shift, shift_stride, sum, normed, width, eps);          \
    }
#define EACH_FORMAT(name, GATED, NORMED)                                                                              \
    RESIDUAL_NORM(name##_bf16_v, bf16, 8, 1, GATED, NORMED)                                                           \
    RESIDUAL_NORM(name##_bf16, bf16, 1, 8, GATED, NORMED)                                                             \
    RESIDUAL_NORM(name##_f32_v, float, 4, 2, GATED, NORMED)                                                           \
    RESIDUAL_NORM(name##_f32, float, 1, 8, GATED, NORMED)
EACH_FORMAT(norm_modulate, false, true)
EACH_FORMAT(gated_add, true, false)
EACH_FORMAT(gated_norm, true, true)

// x / sqrt(mean(x^2) + eps) * weight
template <typename T, int N, int PER>
__device__ void rms_norm(const T *x, int64_t x_stride, const T *weight, T *out, int width, float eps) {
    __shared__ float room[32];
    const int64_t row = blockIdx.x;
    x += row * x_stride;
    float value[PER][N];
    float squares = 0.0f;
#pragma unroll
    for (int i = 0; i < PER; i++) {
        const int at = (threadIdx.x + i * blockDim.x) * N;
        if (at >= width) continue;
        load<T, N>(x + at, value[i]);
#pragma unroll
        for (int j = 0; j < N; j++) squares += value[i][j] * value[i][j];
    }
    const float factor = rsqrtf(block_sum(squares, room) / width + eps);
#pragma unroll
    for (int i = 0; i < PER; i++) {
        const int at = (threadIdx.x + i * blockDim.x) * N;
        if (at >= width) continue;
        float w[N];
        load<T, N>(weight + at, w);
#pragma unroll
        for (int j = 0; j < N; j++) value[i][j] *= factor * w[j];
        store<T, N>(out + row * width + at, value[i]);
    }
}

#define RMS_NORM(name, T, N, PER)                                                                                     \
    extern "C" __global__ void name(const T *x, int64_t x_stride, const T *weight, T *out, int width, float eps) {    \
        rms_norm<T, N, PER>(x, x_stride, weight, out, width, eps);                                                    \
    }
RMS_NORM(rms_norm_bf16_v, bf16, 8, 1)
RMS_NORM(rms_norm_bf16, bf16, 1, 8)
RMS_NORM(rms_norm_f32_v, float, 4, 2)
RMS_NORM(rms_norm_f32, float, 1, 8)

// The VAE's: x / max(|x|, 1e-12) * sqrt(width) * gamma, then SiLU if asked for. A group of `lanes` threads a row,
// because rows are short and there are a million of them.
template <typename T, int N, int PER>
__device__ void rms_normalize(const T *x, int64_t x_stride, const T *gamma, T *out, int64_t rows, int width,
                              int activate, int lanes) {
    const int64_t row = (blockIdx.x * (int64_t)blockDim.x + threadIdx.x) / lanes;
    const int lane = threadIdx.x % lanes;
    float value[PER][N];
    float squares = 0.0f;
#pragma unroll
    for (int i = 0; i < PER; i++) {
        const int at = (lane + i * lanes) * N;
        if (row >= rows || at >= width) continue;
        load<T, N>(x + row * x_stride + at, value[i]);
#pragma unroll
        for (int j = 0; j < N; j++) squares += value[i][j] * value[i][j];
    }
    const float length = fmaxf(sqrtf(group_sum(squares, lanes)), 1e-12f);
    const float factor = sqrtf((float)width) / length;
#pragma unroll
    for (int i = 0; i < PER; i++) {
        const int at = (lane + i * lanes) * N;
        if (row >= rows || at >= width) continue;
        float g[N];
        load<T, N>(gamma + at, g);
#pragma unroll
        for (int j = 0; j < N; j++) {
            const float normed = value[i][j] * factor * g[j];
            value[i][j] = activate ? silu(normed) : normed;
        }
        store<T, N>(out + row * width + at, value[i]);
    }
}

#define RMS_NORMALIZE(name, T, N, PER)                                                                                \
    extern "C" __global__ void name(const T *x, int64_t x_stride, const T *gamma, T *out, int64_t rows, int width,    \
                                    int activate, int lanes) {                                                        \
        rms_normalize<T, N, PER>(x, x_stride, gamma, out, rows, width, activate, lanes);                              \
    }
RMS_NORMALIZE(rms_normalize_bf16_v, bf16, 8, 4)
RMS_NORMALIZE(rms_normalize_bf16, bf16, 1, 32)
RMS_NORMALIZE(rms_normalize_f32_v, float, 4, 8)
RMS_NORMALIZE(rms_normalize_f32, float, 1, 32)
