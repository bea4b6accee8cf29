// Pointwise work that would otherwise be several passes.
#include "common.cuh"

// silu(gate) * up, rows of `width`. A block a row.
template <typename T, int N>
__device__ void swiglu(const T *gate, int64_t gate_stride, const T *up, int64_t up_stride, T *out, int width) {
    const int64_t row = blockIdx.x;
    for (int at = threadIdx.x * N; at < width; at += blockDim.x * N) {
        float g[N], u[N];
        load<T, N>(gate + row * gate_stride + at, g);
        load<T, N>(up + row * up_stride + at, u);
#pragma unroll
        for (int i = 0; i < N; i++) g[i] = silu(g[i]) * u[i];
        store<T, N>(out + row * width + at, g);
    }
}

#define SWIGLU(name, T, N)                                                                                            \
    extern "C" __global__ void name(const T *gate, int64_t gate_stride, const T *up, int64_t up_stride, T *out,       \
                                    int width) {                                                                      \
        swiglu<T, N>(gate, gate_stride, up, up_stride, out, width);                                                   \
    }
SWIGLU(swiglu_bf16_v, bf16, 8)
SWIGLU(swiglu_bf16, bf16, 1)
SWIGLU(swiglu_f32_v, float, 4)
SWIGLU(swiglu_f32, float, 1)

// x + bias, + residual where there is one; bias has `width` elements, the rest `total`. In place is fine.
template <typename T, int N>
__device__ void add_bias(const T *x, const T *bias, const T *residual, T *out, int64_t total, int width) {
    const int64_t at = (blockIdx.x * (int64_t)blockDim.x + threadIdx.x) * N;
    if (at >= total) return;
    float value[N], b[N];
    load<T, N>(x + at, value);
    load<T, N>(bias + at % width, b);
#pragma unroll
    for (int i = 0; i < N; i++) value[i] += b[i];
    if (residual) {
        float other[N];
        load<T, N>(residual + at, other);
#pragma unroll
        for (int i = 0; i < N; i++) value[i] += other[i];
    }
    store<T, N>(out + at, value);
}

#define ADD_BIAS(name, T, N)                                                                                          \
    extern "C" __global__ void name(const T *x, const T *bias, const T *residual, T *out, int64_t total, int width) { \
        add_bias<T, N>(x, bias, residual, out, total, width);                                                         \
    }
ADD_BIAS(add_bias_bf16_v, bf16, 8)
ADD_BIAS(add_bias_bf16, bf16, 1)
ADD_BIAS(add_bias_f32_v, float, 4)
ADD_BIAS(add_bias_f32, float, 1)

// Every pixel four times, channels last: (n, h, w, c) to (n, 2h, 2w, c). A thread an access of the output.
template <typename T, int N>
__device__ void upsample(const T *x, T *out, int64_t pixels, int h, int w, int c) {
    const int64_t at = (blockIdx.x * (int64_t)blockDim.x + threadIdx.x) * N;
    if (at >= pixels * c) return;
    const int64_t pixel = at / c;
    const int64_t column = pixel % (2 * w), row = pixel / (2 * w) % (2 * h), image = pixel / (4LL * h * w);
    float value[N];
    load<T, N>(x + ((image * h + row / 2) * w + column / 2) * c + at % c, value);
    store<T, N>(out + at, value);
}

#define UPSAMPLE(name, T, N)                                                                                          \
    extern "C" __global__ void name(const T *x, T *out, int64_t pixels, int h, int w, int c) {                        \
        upsample<T, N>(x, out, pixels, h, w, c);                                                                      \
    }
UPSAMPLE(upsample_bf16_v, bf16, 8)
UPSAMPLE(upsample_bf16, bf16, 1)
UPSAMPLE(upsample_f32_v, float, 4)
UPSAMPLE(upsample_f32, float, 1)
