// Attention to the last few keys, added to what attention to all others gave. A warp takes 16 queries of a head.
//
// cuDNN's kernel loses 7 to 14 % where the keys are no multiple of 128, so it is given the multiple, and tells the
// logarithm of the sum that each row was divided by. Both parts are mixed by their sums, as in a split over keys
// (Flash-Decoding). Products are `mma.m16n8k16` of the tensor cores; their layouts are in the PTX manual: a thread
// has rows `g` and `g + 8` of a tile, and of them columns `2 t`, `2 t + 1`.
#include "common.cuh"

#define HEAD 128
#define KEYS 64
#define WARPS 4
// Of a row in shared memory: neighbouring rows begin in other banks.
#define PITCH (HEAD + 8)

__device__ inline uint32_t two(const bf16 *at) { return *reinterpret_cast<const uint32_t *>(at); }

__device__ inline uint32_t packed(float low, float high) {
    const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const uint32_t *>(&both);
}

// out += a b
__device__ inline void multiply(float (&out)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(out[0]), "+f"(out[1]), "+f"(out[2]), "+f"(out[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Four tiles of 8 by 8, turned; each lane names a row of one of them.
__device__ inline void load_turned(uint32_t (&to)[4], const bf16 *row) {
    const uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(at));
}

// `out` is (queries, heads, HEAD), `lse` (heads, queries).
extern "C" __global__ void __launch_bounds__(32 * WARPS)
    attention_tail_bf16(const bf16 *q, int64_t q_token, int64_t q_head, const bf16 *k, int64_t k_token, int64_t k_head,
                        const bf16 *v, int64_t v_token, int64_t v_head, bf16 *out, const float *lse, int queries,
                        int keys, float scale) {
    __shared__ __align__(16) bf16 k_rows[2 * KEYS * PITCH];
    bf16 *v_rows = k_rows + KEYS * PITCH;
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int head = blockIdx.y, heads = gridDim.y;
    const int first = (blockIdx.x * WARPS + threadIdx.x / 32) * 16;
    const int rows[2] = {first + g, first + g + 8};
    k += head * k_head;
    v += head * v_head;

    uint32_t query[HEAD / 16][4];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const bf16 *row = q + min(rows[r], queries - 1) * q_token + head * q_head + 2 * t;
#pragma unroll
        for (int i = 0; i < HEAD / 16; i++) {
            query[i][r] = two(row + 16 * i);
            query[i][r + 2] = two(row + 16 * i + 8);
        }
    }

    float value[HEAD / 8][4] = {};
    float top[2] = {-INFINITY, -INFINITY}, total[2] = {};
    for (int start = 0; start < keys; start += KEYS) {
        __syncthreads();
        for (int i = threadIdx.x; i < KEYS * HEAD / 8; i += 32 * WARPS) {
            const int row = i / (HEAD / 8), at = i % (HEAD / 8) * 8;
            uint4 key = {}, other = {};
            if (start + row < keys) {
                key = *reinterpret_cast<const uint4 *>(k + (start + row) * k_token + at);
                other = *reinterpret_cast<const uint4 *>(v + (start + row) * v_token + at);
            }
            *reinterpret_cast<uint4 *>(k_rows + row * PITCH + at) = key;
            *reinterpret_cast<uint4 *>(v_rows + row * PITCH + at) = other;
        }
        __syncthreads();

        float score[KEYS / 8][4] = {};
        float highest[2] = {top[0], top[1]};
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
            for (int i = 0; i < HEAD / 16; i++) {
                const bf16 *at = k_rows + (8 * n + g) * PITCH + 16 * i + 2 * t;
                multiply(score[n], query[i], two(at), two(at + 8));
            }
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const bool there = start + 8 * n + 2 * t + j % 2 < keys;
                score[n][j] = there ? score[n][j] * scale : -INFINITY;
                highest[j / 2] = fmaxf(highest[j / 2], score[n][j]);
            }
        }
#pragma unroll
        for (int r = 0; r < 2; r++) {
            highest[r] = group_max(highest[r], 4);
            const float shrink = __expf(top[r] - highest[r]);
            top[r] = highest[r];
            total[r] *= shrink;
#pragma unroll
            for (int n = 0; n < HEAD / 8; n++) {
                value[n][2 * r] *= shrink;
                value[n][2 * r + 1] *= shrink;
            }
        }
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
            for (int j = 0; j < 4; j++) {
                score[n][j] = __expf(score[n][j] - top[j / 2]);
                total[j / 2] += score[n][j];
            }
        }
#pragma unroll
        for (int i = 0; i < KEYS / 16; i++) {
            const float(&low)[4] = score[2 * i], (&high)[4] = score[2 * i + 1];
            const uint32_t weight[4] = {packed(low[0], low[1]), packed(low[2], low[3]), packed(high[0], high[1]),
                                        packed(high[2], high[3])};
#pragma unroll
            for (int n = 0; n < HEAD / 8; n += 2) {
                uint32_t tile[4];
                load_turned(tile, v_rows + (16 * i + lane % 16) * PITCH + (n + lane / 16) * 8);
                multiply(value[n], weight, tile[0], tile[1]);
                multiply(value[n + 1], weight, tile[2], tile[3]);
            }
        }
    }

    // Through shared memory, so that the output is read and written 16 bytes at a time: 16 lanes a row.
    static_assert(sizeof(k_rows) >= 16 * WARPS * PITCH * sizeof(float), "room for the rows of all warps");
    __syncthreads();
    float *room = reinterpret_cast<float *>(k_rows) + threadIdx.x / 32 * 16 * PITCH;
    float share[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const float sum = group_sum(total[r], 4);
        const float others = lse[(int64_t)head * queries + min(rows[r], queries - 1)];
        share[r] = 1.0f / (1.0f + __expf(others - top[r] - __logf(sum)));
        const float factor = 1.0f / sum;
#pragma unroll
        for (int n = 0; n < HEAD / 8; n++)
            *reinterpret_cast<float2 *>(room + (g + 8 * r) * PITCH + 8 * n + 2 * t) =
                make_float2(value[n][2 * r] * factor, value[n][2 * r + 1] * factor);
    }
    __syncwarp();
    const int at = lane % 16 * 8;
    float old[8][8];
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const int row = min(first + 2 * i + lane / 16, queries - 1);
        load<bf16, 8>(out + ((int64_t)row * heads + head) * HEAD + at, old[i]);
    }
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const int row = 2 * i + lane / 16;
        // Row `g + 8 r` belongs to the lanes from 4 g on.
        const float part = __shfl_sync(0xffffffffu, i < 4 ? share[0] : share[1], row % 8 * 4);
#pragma unroll
        for (int j = 0; j < 8; j++) old[i][j] += part * (room[row * PITCH + at + j] - old[i][j]);
        if (first + row < queries) store<bf16, 8>(out + ((int64_t)(first + row) * heads + head) * HEAD + at, old[i]);
    }
}
