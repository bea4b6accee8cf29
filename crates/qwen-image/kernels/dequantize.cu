// Weights in blocks of GGUF's formats, and in fp8, to bfloat16 or float32, or to fp8 rows with scales.
//
// Every thread makes 8 neighboring elements; no format's sub-blocks are smaller. Blocks may cross rows.
#include "common.cuh"
#include <cuda_fp16.h>

// Blocks have even sizes and start at even addresses.
__device__ inline float half_at(const uint8_t *at) { return __half2float(*reinterpret_cast<const __half *>(at)); }
__device__ inline uint32_t word_at(const uint8_t *at) {
    const uint16_t *halves = reinterpret_cast<const uint16_t *>(at);
    return halves[0] | (uint32_t)halves[1] << 16;
}

// A format has the elements of a block, its size in bytes, and the values of 8 elements from a multiple of 8.

struct Q4_0 {
    static const int elements = 32, bytes = 18;
    static __device__ void decode(const uint8_t *block, int at, float (&out)[8]) {
        const float d = half_at(block);
        const uint8_t *quants = block + 2 + at % 16;
        const int shift = at < 16 ? 0 : 4;
        for (int i = 0; i < 8; i++) out[i] = d * ((int)(quants[i] >> shift & 15) - 8);
    }
};

struct Q4_1 {
    static const int elements = 32, bytes = 20;
    static __device__ void decode(const uint8_t *block, int at, float (&out)[8]) {
        const float d = half_at(block), m = half_at(block + 2);
        const uint8_t *quants = block + 4 + at % 16;
        const int shift = at < 16 ? 0 : 4;
        for (int i = 0; i < 8; i++) out[i] = d * (quants[i] >> shift & 15) + m;
    }
};

struct Q5_0 {
    static const int elements = 32, bytes = 22;
    static __device__ void decode(const uint8_t *block, int at, float (&out)[8]) {
        const float d = half_at(block);
        const uint32_t high = word_at(block + 2) >> at;
        const uint8_t *quants = block + 6 + at % 16;
        const int shift = at < 16 ? 0 : 4;
        for (int i = 0; i < 8; i++) out[i] = d * ((int)((quants[i] >> shift & 15) | (high >> i & 1) << 4) - 16);
    }
};

struct Q5_1 {
    static const int elements = 32, bytes = 24;
    static __device__ void decode(const uint8_t *block, int at, float (&out)[8]) {
        const float d = half_at(block), m = half_at(block + 2);
        const uint32_t high = word_at(block + 4) >> at;
        const uint8_t *quants = block + 8 + at % 16;
        const int shift = at < 16 ? 0 : 4;
        for (int i = 0; i < 8; i++) out[i] = d * ((quants[i] >> shift & 15) | (high >> i & 1) << 4) + m;
    }
};

struct Q8_0 {
    static const int elements = 32, bytes = 34;
    static __device__ void decode(const uint8_t *block, int at, float (&out)[8]) {
        const float d = half_at(block);
        for (int i = 0; i < 8; i++) out[i] = d * (int8_t)block[2 + at + i];
    }
};

struct Q8_1 {
    static const int elements = 32, bytes = 36;
    static __device__ void decode(const uint8_t *block, int at, float (&out)[8]) {
        const float d = half_at(block);
        for (int i = 0; i < 8; i++) out[i] = d * (int8_t)block[4 + at + i];
    }
};

struct Q2_K {
    static const int elements = 256, bytes = 84;
    static __device__ void decode(const uint8_t *block, int at, float (&out)[8]) {
        const int side = at / 128, plane = at % 128 / 32, place = at % 32;
        const uint8_t scale = block[side * 8 + plane * 2 + place / 16];
        const float d = half_at(block + 80) * (scale & 15), m = half_at(block + 82) * (scale >> 4);
        const uint8_t *quants = block + 16 + side * 32 + place;
        for (int i = 0; i < 8; i++) out[i] = d * (quants[i] >> 2 * plane & 3) - m;
    }
};

struct Q3_K {
    static const int elements = 256, bytes = 110;
    static __device__ void decode(const uint8_t *block, int at, float (&out)[8]) {
        const int side = at / 128, plane = at % 128 / 32, place = at % 32;
        const int index = side * 8 + plane * 2 + place / 16;
        const uint8_t *scales = block + 96;
        const int low = index < 8 ? scales[index] & 15 : scales[index - 8] >> 4;
        const int scale = low | (scales[8 + index % 4] >> 2 * (index / 4) & 3) << 4;
        const float d = half_at(block + 108) * (scale - 32);
        const uint8_t *quants = block + 32 + side * 32 + place;
        for (int i = 0; i < 8; i++) {
            const int high = block[place + i] >> (side * 4 + plane) & 1;
            out[i] = d * ((int)(quants[i] >> 2 * plane & 3) - (high ? 0 : 4));
        }
    }
};

// The 6-bit scale and minimum of one of 8 sub-blocks.
__device__ inline void scale_and_min(const uint8_t *scales, int index, int &scale, int &minimum) {
    if (index < 4) {
        scale = scales[index] & 63;
        minimum = scales[index + 4] & 63;
    } else {
        scale = (scales[index + 4] & 15) | scales[index - 4] >> 6 << 4;
        minimum = scales[index + 4] >> 4 | scales[index] >> 6 << 4;
    }
}

struct Q4_K {
    static const int elements = 256, bytes = 144;
    static __device__ void decode(const uint8_t *block, int at, float (&out)[8]) {
        int scale, minimum;
        scale_and_min(block + 4, at / 32, scale, minimum);
        const float d = half_at(block) * scale, m = half_at(block + 2) * minimum;
        const uint8_t *quants = block + 16 + at / 64 * 32 + at % 32;
        const int shift = at % 64 < 32 ? 0 : 4;
        for (int i = 0; i < 8; i++) out[i] = d * (quants[i] >> shift & 15) - m;
    }
};

struct Q5_K {
    static const int elements = 256, bytes = 176;
    static __device__ void decode(const uint8_t *block, int at, float (&out)[8]) {
        int scale, minimum;
        scale_and_min(block + 4, at / 32, scale, minimum);
        const float d = half_at(block) * scale, m = half_at(block + 2) * minimum;
        const uint8_t *high = block + 16 + at % 32, *quants = block + 48 + at / 64 * 32 + at % 32;
        const int shift = at % 64 < 32 ? 0 : 4;
        for (int i = 0; i < 8; i++)
            out[i] = d * ((quants[i] >> shift & 15) | (high[i] >> at / 32 & 1) << 4) - m;
    }
};

struct Q6_K {
    static const int elements = 256, bytes = 210;
    static __device__ void decode(const uint8_t *block, int at, float (&out)[8]) {
        const int side = at / 128, plane = at % 128 / 32, place = at % 32;
        const int8_t scale = (int8_t)block[192 + side * 8 + plane * 2 + place / 16];
        const float d = half_at(block + 208) * scale;
        const uint8_t *low = block + side * 64 + plane % 2 * 32 + place, *high = block + 128 + side * 32 + place;
        const int shift = plane < 2 ? 0 : 4;
        for (int i = 0; i < 8; i++)
            out[i] = d * ((int)((low[i] >> shift & 15) | (high[i] >> 2 * plane & 3) << 4) - 32);
    }
};

struct Q8_K {
    static const int elements = 256, bytes = 292;
    static __device__ void decode(const uint8_t *block, int at, float (&out)[8]) {
        const float d = __uint_as_float(word_at(block));
        for (int i = 0; i < 8; i++) out[i] = d * (int8_t)block[4 + at + i];
    }
};

template <class Format> __device__ inline void decode_at(const uint8_t *blocks, int64_t at, float (&out)[8]) {
    Format::decode(blocks + at / Format::elements * Format::bytes, (int)(at % Format::elements), out);
}

__device__ inline void store_8(bf16 *to, const float (&from)[8]) { store<bf16, 8>(to, from); }
__device__ inline void store_8(float *to, const float (&from)[8]) {
    const float one[4] = {from[0], from[1], from[2], from[3]}, two[4] = {from[4], from[5], from[6], from[7]};
    store<float, 4>(to, one);
    store<float, 4>(to + 4, two);
}

template <class Format, typename T>
__device__ inline void dequantize(const uint8_t *blocks, T *out, int64_t count) {
    const int64_t at = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * 8;
    if (at >= count) return;
    float values[8];
    decode_at<Format>(blocks, at, values);
    store_8(out + at, values);
}

// The nearest e4m3 number, as the conversion of newer GPUs does it; `x` is at most 448.
__device__ inline uint8_t narrow_e4m3(float x) {
    const float size = fminf(fabsf(x), 448.0f);
    const int exponent = max((int)(__float_as_uint(size) >> 23) - 127, -6);
    // 2 to the power of 3 - exponent
    const float steps = rintf(size * __uint_as_float((uint32_t)(127 + 3 - exponent) << 23));
    const int bits = (exponent + 7) * 8 + (int)steps - 8;
    return (uint8_t)(bits | (x < 0.0f ? 0x80 : 0));
}

__device__ inline float wide_e4m3(uint8_t bits) {
    const int exponent = bits >> 3 & 15, mantissa = bits & 7;
    float size = exponent == 0 ? mantissa * 0.001953125f
                               : __uint_as_float((uint32_t)(exponent + 120) << 23 | (uint32_t)mantissa << 20);
    if ((bits & 0x7f) == 0x7f) size = NAN;
    return bits & 0x80 ? -size : size;
}

// One block per row of at most 32 * 1024 elements; each thread holds four vectors of 8 elements in registers.
template <class Format>
__device__ inline void dequantize_rows(const uint8_t *blocks, uint8_t *out, float *scales, int width) {
    __shared__ float room[32];
    const int64_t row = blockIdx.x;
    float value[4][8];
    float top = 0.0f;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int at = (threadIdx.x + i * blockDim.x) * 8;
        if (at >= width) continue;
        decode_at<Format>(blocks, row * width + at, value[i]);
#pragma unroll
        for (int j = 0; j < 8; j++) top = fmaxf(top, fabsf(value[i][j]));
    }
    top = fmaxf(block_max(top, room), 1e-12f);
    const float factor = 448.0f / top;
    if (threadIdx.x == 0) scales[row] = top / 448.0f;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int at = (threadIdx.x + i * blockDim.x) * 8;
        if (at >= width) continue;
        Vector<uint8_t, 8> packed;
#pragma unroll
        for (int j = 0; j < 8; j++) packed.at[j] = narrow_e4m3(value[i][j] * factor);
        *reinterpret_cast<Vector<uint8_t, 8> *>(out + row * width + at) = packed;
    }
}

#define KERNELS(Format)                                                                                                \
    extern "C" __global__ void dequantize_##Format##_bf16(const uint8_t *blocks, bf16 *out, int64_t count) {           \
        dequantize<Format>(blocks, out, count);                                                                        \
    }                                                                                                                  \
    extern "C" __global__ void dequantize_##Format##_f32(const uint8_t *blocks, float *out, int64_t count) {           \
        dequantize<Format>(blocks, out, count);                                                                        \
    }                                                                                                                  \
    extern "C" __global__ void dequantize_##Format##_fp8(const uint8_t *blocks, uint8_t *out, float *scales,           \
                                                         int width) {                                                  \
        dequantize_rows<Format>(blocks, out, scales, width);                                                           \
    }

KERNELS(Q4_0)
KERNELS(Q4_1)
KERNELS(Q5_0)
KERNELS(Q5_1)
KERNELS(Q8_0)
KERNELS(Q8_1)
KERNELS(Q2_K)
KERNELS(Q3_K)
KERNELS(Q4_K)
KERNELS(Q5_K)
KERNELS(Q6_K)
KERNELS(Q8_K)

// Fp8 rows times their scales; a block per row, 8 elements per access.
template <typename T>
__device__ inline void widen_rows(const uint8_t *rows, const float *scales, T *out, int width) {
    const int64_t row = blockIdx.x;
    const float scale = scales[row];
    for (int at = threadIdx.x * 8; at < width; at += blockDim.x * 8) {
        const Vector<uint8_t, 8> packed = *reinterpret_cast<const Vector<uint8_t, 8> *>(rows + row * width + at);
        float values[8];
#pragma unroll
        for (int i = 0; i < 8; i++) values[i] = wide_e4m3(packed.at[i]) * scale;
        store_8(out + row * width + at, values);
    }
}

extern "C" __global__ void widen_rows_bf16(const uint8_t *rows, const float *scales, bf16 *out, int width) {
    widen_rows(rows, scales, out, width);
}
extern "C" __global__ void widen_rows_f32(const uint8_t *rows, const float *scales, float *out, int width) {
    widen_rows(rows, scales, out, width);
}
