// Rows in eight bits (e4m3), each with its own scale: x is about out * scale. Needs compute capability 8.9.
#include "common.cuh"
#include <cuda_fp8.h>

// The largest number of the format.
#define LARGEST 448.0f

// A block a row, four vectors of 8 elements a thread, held in registers so that a row is read once.
extern "C" __global__ void quantize_rows_bf16(const bf16 *x, int64_t stride, uint8_t *out, float *scales, int width) {
    __shared__ float room[32];
    const int64_t row = blockIdx.x;
    x += row * stride;
    out += row * width;
    float value[4][8];
    float top = 0.0f;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int at = (threadIdx.x + i * blockDim.x) * 8;
        if (at >= width) continue;
        load<bf16, 8>(x + at, value[i]);
#pragma unroll
        for (int j = 0; j < 8; j++) top = fmaxf(top, fabsf(value[i][j]));
    }
    top = fmaxf(block_max(top, room), 1e-12f);
    const float factor = LARGEST / top;
    if (threadIdx.x == 0) scales[row] = top / LARGEST;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int at = (threadIdx.x + i * blockDim.x) * 8;
        if (at >= width) continue;
        Vector<uint16_t, 4> packed;
#pragma unroll
        for (int j = 0; j < 4; j++)
            packed.at[j] = __nv_cvt_float2_to_fp8x2(make_float2(value[i][2 * j] * factor, value[i][2 * j + 1] * factor),
                                                    __NV_SATFINITE, __NV_E4M3);
        *reinterpret_cast<Vector<uint16_t, 4> *>(out + at) = packed;
    }
}

// What a product of such rows still needs: both scales, the bias (null: none), and GELU with the tanh approximation.
extern "C" __global__ void scale_rows_bf16(const float *x, const float *row_scales, const float *column_scales,
                                           const bf16 *bias, bf16 *out, int64_t out_stride, int width, int gelu) {
    const int64_t row = blockIdx.x;
    const float scale = row_scales[row];
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        float value = x[row * width + i] * scale * column_scales[i];
        if (bias) value += wide(bias[i]);
        if (gelu) {
            const float u = 0.7978845608f * (value + 0.044715f * value * value * value);
            value = 0.5f * value * (1.0f + tanhf(u));
        }
        out[row * out_stride + i] = narrow<bf16>(value);
    }
}
