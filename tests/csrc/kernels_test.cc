#include "kernels.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>
#include <tuple>
#include <vector>

#include "test.h"

namespace pretexture {
namespace {

using test::Random;

const size_t kSizes[] = {0,  1,  2,  3,  4,  5,  7,  8,  9,   15,  16,  17,  23,  31,   32,
                         33, 47, 48, 63, 64, 65, 95, 97, 127, 128, 129, 255, 257, 1000, 2049};

// Values with guard values before and after them. A kernel that writes there is wrong.
template <typename T>
class Guarded {
 public:
  Guarded(size_t size, size_t shift) : shift_(kRoom + shift), values_(size + 2 * kRoom + shift) {
    std::memset(static_cast<void*>(values_.data()), 0x55, values_.size() * sizeof(T));
  }
  T* data() { return values_.data() + shift_; }
  bool operator==(const Guarded& o) const {
    return std::memcmp(values_.data(), o.values_.data(), values_.size() * sizeof(T)) == 0;
  }

 private:
  static constexpr size_t kRoom = 64;
  size_t shift_;
  std::vector<T> values_;
};

using Floats = Guarded<float>;

Floats Drawn(Random* random, size_t size, size_t shift, float low = -40, float high = 300) {
  Floats values(size, shift);
  for (size_t i = 0; i < size; ++i) {
    values.data()[i] = random->Between(0, 3) == 0 ? static_cast<float>(random->Between(0, 255))
                                                  : random->Float(low, high);
  }
  return values;
}

std::vector<const Kernels*> Fast() {
  std::vector<const Kernels*> found = AvailableKernels();
  found.pop_back();  // baseline
  return found;
}

const Kernels& Baseline() { return KernelsByName("baseline"); }

// Calls `run(kernels, random, size, shift)`, which returns what it wrote, for the baseline kernels
// and each faster set, with the same random numbers. All must write the same bits.
template <typename Run>
void CompareAll(Run run) {
  for (const Kernels* kernels : Fast()) {
    for (const size_t size : kSizes) {
      for (const size_t shift : {0, 1, 3}) {
        Random a(size * 8 + shift + 1), b = a;
        if (run(Baseline(), &a, size, shift) == run(*kernels, &b, size, shift)) continue;
        test::Fail(__FILE__, __LINE__,
                   std::string(kernels->name) + " differs from baseline at " +
                       std::to_string(size) + " values");
      }
    }
  }
}

using Planes = std::vector<Floats>;

Planes DrawnPlanes(Random* random, size_t size, size_t shift) {
  Planes planes;
  for (int c = 0; c < 3; ++c) planes.push_back(Drawn(random, size, shift));
  for (size_t i = 0; i + 1 < size; i += 5) planes[1].data()[i] = planes[0].data()[i];  // grey pairs
  for (size_t i = 0; i + 1 < size; i += 10) planes[2].data()[i] = planes[0].data()[i];
  return planes;
}

TEST(kernels_are_found_by_name_and_unknown_names_are_refused) {
  CHECK_EQ(std::string(Baseline().name), "baseline");
  for (const Kernels* kernels : AvailableKernels()) CHECK(&KernelsByName(kernels->name) == kernels);
  CHECK_THROWS(KernelsByName("sse9"),
               "'sse9' is not an instruction set: known are avx512, avx2, baseline");
  CHECK_THROWS(KernelsByName(""), "'' is not an instruction set");
  CHECK_THROWS(KernelsByName("avx"), "'avx' is not an instruction set");
  const std::vector<const Kernels*> fast = Fast();
  for (const std::string name : {"avx512", "avx2"}) {
    const auto has_name = [&](const Kernels* kernels) { return kernels->name == name; };
    if (std::any_of(fast.begin(), fast.end(), has_name)) continue;
    CHECK_THROWS(KernelsByName(name), "the instruction set " + name + " is not available");
    CHECK_THROWS(KernelsByName(name), "baseline");
  }
}

TEST(the_environment_chooses_the_kernels) {
  const char* const before = std::getenv("PRETEXTURE_ISA");
  const std::string restored = before == nullptr ? "" : before;
  for (const Kernels* kernels : AvailableKernels()) {
    setenv("PRETEXTURE_ISA", kernels->name, 1);
    CHECK(&BestKernels() == kernels);
  }
  setenv("PRETEXTURE_ISA", "AVX2", 1);
  CHECK_THROWS(BestKernels(), "PRETEXTURE_ISA: 'AVX2' is not an instruction set: known are");
  setenv("PRETEXTURE_ISA", "", 1);
  CHECK(&BestKernels() == AvailableKernels().front());
  unsetenv("PRETEXTURE_ISA");
  CHECK(&BestKernels() == AvailableKernels().front());
  if (!restored.empty()) setenv("PRETEXTURE_ISA", restored.c_str(), 1);
}

TEST(every_kernel_is_filled) {
  for (const Kernels* kernels : AvailableKernels()) {
    void* fields[sizeof(Kernels) / sizeof(void*)];
    std::memcpy(fields, kernels, sizeof(fields));
    for (const void* field : fields) CHECK(field != nullptr);
  }
}

TEST(blended_rows_are_the_same_on_every_instruction_set_and_for_bytes_and_floats) {
  for (int taps = 1; taps <= 9; ++taps) {
    CompareAll([taps](const Kernels& kernels, Random* random, size_t size, size_t shift) {
      std::vector<std::vector<uint8_t>> rows(static_cast<size_t>(taps));
      std::vector<const uint8_t*> starts;
      std::vector<float> weights;
      for (std::vector<uint8_t>& row : rows) {
        for (size_t i = 0; i < size + shift; ++i)
          row.push_back(static_cast<uint8_t>(random->Next()));
        starts.push_back(row.data() + shift);
        weights.push_back(taps == 1 && size % 2 == 0 ? 1.0f : random->Float(-0.2f, 1));
      }
      Floats out(size, shift);
      kernels.blend_rows(starts.data(), weights.data(), taps, size, out.data());
      std::vector<std::vector<float>> planes;
      std::vector<const float*> values;
      for (const std::vector<uint8_t>& row : rows) planes.emplace_back(row.begin(), row.end());
      for (const std::vector<float>& plane : planes) values.push_back(plane.data() + shift);
      Floats same(size, shift);
      kernels.blend_planes(values.data(), weights.data(), taps, size, same.data());
      CHECK(std::equal(out.data(), out.data() + size, same.data()));
      return out;
    });
  }
}

TEST(sampled_rows_are_the_same_on_every_instruction_set) {
  for (int taps = 1; taps <= 7; ++taps) {
    for (const int channels : {3, 1}) {
      CompareAll([&](const Kernels& kernels, Random* random, size_t size, size_t shift) {
        const int pixels = random->Between(taps, 90);
        std::vector<float> line(static_cast<size_t>(channels * pixels + (channels == 3 ? 1 : 0)));
        for (float& value : line) value = random->Float(0, 255);
        std::vector<int32_t> start(size);
        std::vector<float> weights(size * static_cast<size_t>(taps));
        for (int32_t& s : start) s = random->Between(0, pixels - taps);
        for (float& weight : weights) weight = random->Float(-0.2f, 1);
        Planes out(3, Floats(size, shift));
        if (channels == 3) {
          kernels.sample_row(line.data(), start.data(), weights.data(), taps, size, out[0].data(),
                             out[1].data(), out[2].data());
        } else {
          kernels.sample_plane(line.data(), start.data(), weights.data(), taps, size,
                               out[0].data());
        }
        return out;
      });
    }
  }
}

TEST(sampling_weighs_the_pixels_that_it_names) {
  const std::vector<float> line = {1, 2, 3, 10, 20, 30, 100, 200, 300, 0};
  const std::vector<int32_t> start = {0, 1};
  const std::vector<float> weights = {0.5f, 0.25f, 0.5f, 0.75f};
  float r[2], g[2], b[2];
  Baseline().sample_row(line.data(), start.data(), weights.data(), 2, 2, r, g, b);
  CHECK_EQ(r[0], 5.5f);
  CHECK_EQ(g[0], 11.0f);
  CHECK_EQ(b[0], 16.5f);
  CHECK_EQ(r[1], 77.5f);
  CHECK_EQ(g[1], 155.0f);
  CHECK_EQ(b[1], 232.5f);
}

TEST(mean_rows_are_the_same_on_every_instruction_set) {
  CompareAll([](const Kernels& kernels, Random* random, size_t size, size_t shift) {
    std::vector<float> line(3 * size + shift);
    for (float& value : line) value = random->Float(0, 255);
    Floats out(size, shift);
    kernels.mean_row(line.data() + shift, size, out.data());
    Floats luma(size, shift);
    kernels.luma_row(line.data() + shift, size, luma.data());
    return std::make_pair(out, luma);
  });
}

TEST(colours_are_the_same_on_every_instruction_set) {
  for (int kind = 0; kind < 11; ++kind) {
    CompareAll([kind](const Kernels& kernels, Random* random, size_t size, size_t shift) {
      Planes planes = DrawnPlanes(random, size, shift);
      float *r = planes[0].data(), *g = planes[1].data(), *b = planes[2].data();
      const float factor = random->Float(0.5f, 1.5f), delta = random->Float(-32, 32);
      if (kind == 0) kernels.mean(r, g, b, size);
      if (kind == 1) kernels.saturation(r, g, b, size, factor);
      if (kind == 2) kernels.hue(r, g, b, size, random->Float(-0.2f, 0.2f));
      if (kind == 3) kernels.distort(r, g, b, size, delta, factor, true);
      if (kind == 4) kernels.distort(r, g, b, size, delta, factor, false);
      if (kind == 5) kernels.brightness(r, size, delta);
      if (kind == 6) kernels.contrast(r, size, random->Float(0, 255), factor);
      if (kind == 7) kernels.luma(r, g, b, size);
      if (kind == 8) kernels.blend_luma(r, g, b, size, factor);
      if (kind == 9) kernels.scale(r, size, factor, delta);
      if (kind == 10) kernels.solarize(r, size, 128 + delta);
      kernels.clip(g, size);
      return planes;
    });
  }
}

// Brightness and saturation give the same values in one pass as step by step.
TEST(the_fast_distortion_is_its_steps) {
  Random random(4);
  for (const bool brightness_first : {true, false}) {
    Planes a = DrawnPlanes(&random, 999, 0), b = a;
    const Kernels& k = Baseline();
    k.distort(a[0].data(), a[1].data(), a[2].data(), 999, 12.5f, 1.3f, brightness_first);
    const auto brighten = [&] {
      for (Floats& plane : b) k.brightness(plane.data(), 999, 12.5f);
    };
    if (brightness_first) brighten();
    k.saturation(b[0].data(), b[1].data(), b[2].data(), 999, 1.3f);
    if (!brightness_first) brighten();
    for (Floats& plane : b) k.clip(plane.data(), 999);
    CHECK(a == b);
  }
}

TEST(filters_and_sums_are_the_same_on_every_instruction_set_and_near_the_exact_ones) {
  for (const int radius : {0, 1, 4, 11}) {
    CompareAll([radius](const Kernels& kernels, Random* random, size_t size, size_t shift) {
      Floats line = Drawn(random, size + 2 * static_cast<size_t>(radius), shift, 0, 255);
      std::vector<const float*> taps;
      for (int k = 0; k <= 2 * radius; ++k) taps.push_back(line.data() + k);
      std::vector<float> weights;
      for (int k = 0; k <= radius; ++k) weights.push_back(random->Float(0, 1));
      Floats out(size, shift);
      kernels.filter(taps.data(), weights.data(), radius, size, out.data());
      double exact = 0;
      for (size_t i = 0; i < size; ++i) {
        double value = 0;
        for (int k = -radius; k <= radius; ++k) {
          value += double(weights[static_cast<size_t>(std::abs(k))]) * double(taps[radius + k][i]);
        }
        CHECK(std::abs(value - double(out.data()[i])) < 1e-2);
        exact += double(out.data()[i]);
      }
      const double sum = kernels.sum(out.data(), size);
      CHECK(std::abs(sum - exact) <= 1e-6 * exact);
      return std::make_pair(out, sum);
    });
  }
}

TEST(moments_are_the_same_on_every_instruction_set_and_near_the_exact_ones) {
  CompareAll([](const Kernels& kernels, Random* random, size_t size, size_t shift) {
    Floats plane = Drawn(random, size, shift, 0, 255);
    double sums[2] = {3, 4}, exact[2] = {3, 4};
    kernels.moments(plane.data(), size, 100, sums);
    for (size_t i = 0; i < size; ++i) {
      const double d = double(plane.data()[i]) - 100;
      exact[0] += d;
      exact[1] += d * d;
    }
    CHECK(std::abs(sums[0] - exact[0]) <= 1e-5 * (1 + std::sqrt(exact[1] * double(size))));
    CHECK(std::abs(sums[1] - exact[1]) <= 1e-6 * exact[1]);
    return std::vector<double>{sums[0], sums[1]};
  });
}

const Normalization kBy = {{1, 2, 3}, {0.017f, 0.018f, -0.019f}, {-2, 0.5f, 1}};

TEST(what_is_written_is_the_same_on_every_instruction_set) {
  for (const bool grey : {false, true}) {
    for (const Normalization& by : {kBy, Normalization()}) {
      CompareAll([&](const Kernels& kernels, Random* random, size_t size, size_t shift) {
        Planes planes = DrawnPlanes(random, size, shift);
        const float* starts[3] = {planes[0].data(), planes[grey ? 0 : 1].data(),
                                  planes[grey ? 0 : 2].data()};
        Guarded<float> floats(3 * size, shift), float_plane(size, shift);
        Guarded<uint16_t> halves(3 * size, shift), half_plane(size, shift);
        Guarded<uint8_t> bytes(3 * size, shift), byte_plane(size, shift);
        kernels.write_float(starts, size, by, floats.data());
        kernels.write_half(starts, size, by, halves.data());
        kernels.write_byte(starts, size, by, bytes.data());
        kernels.plane_float(starts[2], size, by, 2, float_plane.data());
        kernels.plane_half(starts[2], size, by, 2, half_plane.data());
        kernels.plane_byte(starts[2], size, by, 2, byte_plane.data());
        for (size_t i = 0; i < size; ++i) {
          CHECK_EQ(floats.data()[3 * i + 2], float_plane.data()[i]);
          CHECK_EQ(halves.data()[3 * i + 2], half_plane.data()[i]);
          CHECK_EQ(bytes.data()[3 * i + 2], byte_plane.data()[i]);
        }
        return std::make_tuple(floats, halves, bytes, float_plane, half_plane, byte_plane);
      });
    }
  }
}

float FromHalf(uint16_t half) {
  const int exponent = half >> 10 & 31, fraction = half & 1023;
  const float sign = half & 0x8000 ? -1.0f : 1.0f;
  if (exponent == 31) return sign * std::numeric_limits<float>::infinity();
  if (exponent == 0) return sign * std::ldexp(float(fraction), -24);
  return sign * std::ldexp(float(1024 + fraction), exponent - 25);
}

uint16_t ToHalf(const Kernels& kernels, float value) {
  uint16_t half = 0;
  kernels.plane_half(&value, 1, Normalization(), 0, &half);
  return half;
}

// A value between two neighbouring halves becomes the nearer one, and in the middle the even one.
TEST(float16_is_the_nearest_and_of_two_the_even_one) {
  std::vector<const Kernels*> all = Fast();
  all.push_back(&Baseline());
  for (const Kernels* kernels : all) {
    for (uint32_t h = 0; h < 0x7c00; ++h) {
      const auto low = static_cast<uint16_t>(h), high = static_cast<uint16_t>(h + 1);
      const float a = FromHalf(low);
      const float b = h == 0x7bff ? 65536.0f : FromHalf(high);
      const float middle = (a + b) / 2;
      CHECK_EQ(ToHalf(*kernels, a), low);
      CHECK_EQ(ToHalf(*kernels, -b), high | 0x8000);
      CHECK_EQ(ToHalf(*kernels, middle), h % 2 == 0 ? low : high);
      CHECK_EQ(ToHalf(*kernels, std::nextafter(middle, a)), low);
      CHECK_EQ(ToHalf(*kernels, std::nextafter(middle, b)), high);
    }
    CHECK_EQ(ToHalf(*kernels, 1e30f), 0x7c00);
    CHECK_EQ(ToHalf(*kernels, -std::numeric_limits<float>::infinity()), 0xfc00);
    const uint16_t nan = ToHalf(*kernels, std::numeric_limits<float>::quiet_NaN());
    CHECK((nan & 0x7c00) == 0x7c00 && (nan & 0x3ff) != 0);
  }
}

TEST(uint8_is_clamped_and_rounded_half_to_even) {
  for (int tenths = -5000; tenths <= 5000; ++tenths) {
    const float value = static_cast<float>(tenths) / 10;
    uint8_t byte = 1;
    Baseline().plane_byte(&value, 1, Normalization(), 0, &byte);
    CHECK_EQ(int{byte}, static_cast<int>(std::nearbyint(std::fmin(255, std::fmax(0, value)))));
  }
}

TEST(copies_past_the_cache_copy_all_bytes_and_no_others) {
  for (const Kernels* kernels : AvailableKernels()) {
    for (size_t size = 0; size < 400; ++size) {
      for (const size_t shift : {0, 1, 17, 63}) {
        Guarded<uint8_t> from(size, 5), to(size, shift), expected(size, shift);
        for (size_t i = 0; i < size; ++i) {
          from.data()[i] = expected.data()[i] = static_cast<uint8_t>(i * 31 + 7);
        }
        kernels->copy_past_cache(from.data(), size, to.data());
        kernels->fence();
        CHECK(to == expected);
      }
    }
  }
}

}  // namespace
}  // namespace pretexture
