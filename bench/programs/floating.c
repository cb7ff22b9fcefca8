/* Floating point and SIMD programs. */
#include "suite.h"

#include <immintrin.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

static uint64_t bits_of(double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* Matrix product, the textbook's order. */

enum { matrix_size = 80 };
static double left[matrix_size][matrix_size];
static double right[matrix_size][matrix_size];
static double product[matrix_size][matrix_size];

static void matrix_prepare(void)
{
    uint64_t random = 3;
    for (int i = 0; i < matrix_size; ++i) {
        for (int j = 0; j < matrix_size; ++j) {
            left[i][j] = (double)(next_random(&random) >> 40) / 65536;
            right[i][j] = (double)(next_random(&random) >> 40) / 65536;
        }
    }
}

static uint64_t matrix_unit(void)
{
    uint64_t result = 1;
    for (int i = 0; i < matrix_size; ++i) {
        for (int j = 0; j < matrix_size; ++j) {
            double sum = 0;
            for (int k = 0; k < matrix_size; ++k) sum += left[i][k] * right[k][j];
            product[i][j] = sum;
            result = join(result, bits_of(sum));
        }
    }
    return result;
}

/* The C library's functions. It picks variants by processor features, whose last bits may
 * differ, so the result is rounded. */

enum { libm_count = 4096 };

static uint64_t libm_unit(void)
{
    double sum = 0;
    for (int i = 1; i <= libm_count; ++i) {
        double x = (double)i / 512;
        sum += sin(x) + exp(-x) + pow(x, 1.37) + log(x);
    }
    return (uint64_t)llround(sum * 1024);
}

/* What the vector programs work on. */

enum { vector_bytes = 1 << 15, vector_floats = vector_bytes / sizeof(float) };
static _Alignas(64) uint8_t first_bytes[vector_bytes];
static _Alignas(64) uint8_t second_bytes[vector_bytes];
static _Alignas(64) float first_floats[vector_floats];
static _Alignas(64) float second_floats[vector_floats];

static void vector_prepare(void)
{
    uint64_t random = 11;
    for (int i = 0; i < vector_bytes; ++i) {
        first_bytes[i] = (uint8_t)next_random(&random);
        second_bytes[i] = (uint8_t)next_random(&random);
    }
    for (int i = 0; i < (int)vector_floats; ++i) {
        first_floats[i] = (float)(next_random(&random) >> 48) / 256;
        second_floats[i] = (float)(next_random(&random) >> 48) / 65536;
    }
}

/* SSE2, which every machine has: differences of bytes, saturating sums, shuffles. */
static uint64_t sse2_unit(void)
{
    __m128i differences = _mm_setzero_si128();
    __m128i mixed = _mm_setzero_si128();
    for (int i = 0; i < vector_bytes; i += 16) {
        __m128i a = _mm_load_si128((const __m128i *)(first_bytes + i));
        __m128i b = _mm_load_si128((const __m128i *)(second_bytes + i));
        differences = _mm_add_epi64(differences, _mm_sad_epu8(a, b));
        mixed = _mm_xor_si128(_mm_shuffle_epi32(mixed, 0x39), _mm_adds_epu8(a, b));
        mixed = _mm_add_epi16(mixed, _mm_unpacklo_epi8(a, b));
    }
    __m128i sum = _mm_add_epi64(differences, mixed);
    uint64_t halves[2];
    _mm_storeu_si128((__m128i *)halves, sum);
    return join(halves[0], halves[1]);
}

static const char *avx2_lacking(void)
{
    return __builtin_cpu_supports("avx2") ? NULL : "no AVX2 in CPUID or XCR0";
}

__attribute__((target("avx2"))) static uint64_t fold256(__m256i sum)
{
    uint64_t words[4];
    _mm256_storeu_si256((__m256i *)words, sum);
    return join(join(join(words[0], words[1]), words[2]), words[3]);
}

__attribute__((target("avx2"))) static uint64_t avx2_integer_unit(void)
{
    const __m256i reversed = _mm256_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15,
                                             0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    __m256i differences = _mm256_setzero_si256();
    __m256i mixed = _mm256_setzero_si256();
    for (int i = 0; i < vector_bytes; i += 32) {
        __m256i a = _mm256_load_si256((const __m256i *)(first_bytes + i));
        __m256i b = _mm256_load_si256((const __m256i *)(second_bytes + i));
        differences = _mm256_add_epi64(differences, _mm256_sad_epu8(a, b));
        __m256i products = _mm256_maddubs_epi16(a, _mm256_shuffle_epi8(b, reversed));
        mixed = _mm256_add_epi32(_mm256_permute4x64_epi64(mixed, 0x39),
                                 _mm256_mullo_epi32(products, b));
    }
    return fold256(_mm256_add_epi64(differences, mixed));
}

__attribute__((target("avx2"))) static uint64_t avx2_float_unit(void)
{
    __m256 sums = _mm256_setzero_ps();
    __m256 largest = _mm256_setzero_ps();
    for (int i = 0; i < (int)vector_floats; i += 8) {
        __m256 a = _mm256_load_ps(first_floats + i);
        __m256 b = _mm256_load_ps(second_floats + i);
        __m256 value = _mm256_sub_ps(_mm256_mul_ps(a, b), _mm256_sqrt_ps(a));
        sums = _mm256_add_ps(sums, value);
        largest = _mm256_max_ps(largest, _mm256_permute_ps(value, 0x1b));
    }
    return join(fold256(_mm256_castps_si256(sums)), fold256(_mm256_castps_si256(largest)));
}

const struct program floating_programs[] = {
    {.name = "matrix", .group = "float", .unit = matrix_unit, .prepare = matrix_prepare,
     .operations = matrix_size * matrix_size * matrix_size},
    {.name = "libm", .group = "float", .operations = 4 * libm_count, .unit = libm_unit},
    {.name = "sse2", .group = "float", .operations = vector_bytes, .unit = sse2_unit,
     .prepare = vector_prepare},
    {.name = "avx2-integer", .group = "float", .operations = vector_bytes,
     .unit = avx2_integer_unit, .prepare = vector_prepare, .lacking = avx2_lacking},
    {.name = "avx2-float", .group = "float", .operations = vector_floats,
     .unit = avx2_float_unit, .prepare = vector_prepare, .lacking = avx2_lacking},
    {0},
};
