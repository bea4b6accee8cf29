// What the kernels share: number formats, vectors of 16 bytes, sums over a warp or a block.
//
// Every kernel computes in float32 and rounds once, when it stores. `N` is the number of elements in an access: 16
// bytes of them where rows are aligned so, else 1.
#pragma once
#include <cuda_bf16.h>
#include <stdint.h>

typedef __nv_bfloat16 bf16;

__device__ inline float wide(float x) { return x; }
__device__ inline float wide(bf16 x) { return __bfloat162float(x); }
template <typename T> __device__ inline T narrow(float x);
template <> __device__ inline float narrow<float>(float x) { return x; }
template <> __device__ inline bf16 narrow<bf16>(float x) { return __float2bfloat16_rn(x); }

template <typename T, int N> struct alignas(sizeof(T) * N) Vector {
    T at[N];
};

template <typename T, int N> __device__ inline void load(const T *from, float (&to)[N]) {
    const Vector<T, N> raw = *reinterpret_cast<const Vector<T, N> *>(from);
#pragma unroll
    for (int i = 0; i < N; i++) to[i] = wide(raw.at[i]);
}

template <typename T, int N> __device__ inline void store(T *to, const float (&from)[N]) {
    Vector<T, N> raw;
#pragma unroll
    for (int i = 0; i < N; i++) raw.at[i] = narrow<T>(from[i]);
    *reinterpret_cast<Vector<T, N> *>(to) = raw;
}

// The value as it will be read back.
template <typename T> __device__ inline float rounded(float x) { return wide(narrow<T>(x)); }

// Over groups of `lanes` neighbouring threads, a power of two up to 32.
__device__ inline float group_sum(float x, int lanes) {
    for (int step = lanes / 2; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

__device__ inline float group_max(float x, int lanes) {
    for (int step = lanes / 2; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));
    return x;
}

// Over the block, which is whole warps; every thread gets the sum. `room` is shared memory for 32 floats; the caller
// alternates between two of them, so that one barrier a sum is enough.
__device__ inline float block_sum(float x, float *room) {
    x = group_sum(x, 32);
    if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = x;
    __syncthreads();
    const int warps = blockDim.x / 32;
    return group_sum(threadIdx.x % 32 < warps ? room[threadIdx.x % 32] : 0.0f, 32);
}

__device__ inline float block_max(float x, float *room) {
    x = group_max(x, 32);
    if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = x;
    __syncthreads();
    const int warps = blockDim.x / 32;
    return group_max(threadIdx.x % 32 < warps ? room[threadIdx.x % 32] : -INFINITY, 32);
}

__device__ inline float silu(float x) { return x / (1.0f + __expf(-x)); }
