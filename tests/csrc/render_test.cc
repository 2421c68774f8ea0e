#include "render.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "jpegs.h"
#include "test.h"

namespace pretexture {
namespace {

using namespace test;

Format MakeFormat(DType dtype, bool channels_first, int views, int height, int width) {
  Format format;
  format.dtype = dtype;
  format.channels_first = channels_first;
  format.views = views;
  format.height = height;
  format.width = width;
  return format;
}

Bytes Render(const std::vector<Op>& ops, const Format& format, const Bytes& data,
             uint32_t record = 0, const Kernels& kernels = BestKernels(), bool past_cache = false) {
  const std::vector<Branch> branches = {{Plan(ops), format}};
  Renderer renderer(branches, kernels, past_cache);
  Bytes out(format.RecordBytes(), 0x77);
  uint8_t* const to = out.data();
  std::vector<int32_t> labels;
  renderer.Render(ToSpan(data), {1, 2, record}, &to, &labels);
  return out;
}

// Pixels of a full decode.
struct Image {
  explicit Image(const Bytes& data) {
    JpegDecoder decoder;
    const ImageSize size = decoder.Open(ToSpan(data));
    const Region region = decoder.Decode({0, 0, size.width, size.height});
    width = size.width;
    height = size.height;
    for (int y = 0; y < height; ++y) {
      pixels.insert(pixels.end(), region.Row(y), region.Row(y) + 3 * width);
    }
  }
  uint8_t At(int y, int x, int c) const {
    return pixels[(static_cast<size_t>(y) * width + x) * 3 + c];
  }
  int width, height;
  Bytes pixels;
};

TEST(a_centre_crop_is_the_images_own_pixels) {
  const Bytes data = EncodeJpeg(61, 47);
  const Image image(data);
  const Bytes view =
      Render({op::Crop{0, 20, 31, false}}, MakeFormat(DType::kUint8, false, 1, 20, 31), data);
  for (int y = 0; y < 20; ++y) {
    for (int x = 0; x < 31; ++x) {
      for (int c = 0; c < 3; ++c) {
        CHECK_EQ(int{view[static_cast<size_t>((y * 31 + x) * 3 + c)]},
                 int{image.At(y + 13, x + 15, c)});
      }
    }
  }
}

TEST(rotations_turn_counter_clockwise_in_every_dtype_and_layout) {
  constexpr int kSide = 37;
  const Bytes data = EncodeJpeg(kSide, kSide);
  const Image image(data);
  const std::vector<Op> ops = {op::Crop{0, kSide, kSide, false}, op::Rotate{16}};
  for (const DType dtype : {DType::kUint8, DType::kFloat16, DType::kFloat32}) {
    for (const bool first : {false, true}) {
      const Format format = MakeFormat(dtype, first, 4, kSide, kSide);
      const Bytes views = Render(ops, format, data);
      const auto value = [&](int turn, int y, int x, int c) {
        const int place = first ? (c * kSide + y) * kSide + x : (y * kSide + x) * 3 + c;
        const size_t i = static_cast<size_t>(turn * kSide * kSide * 3 + place);
        if (dtype == DType::kUint8) return static_cast<float>(views[i]);
        if (dtype == DType::kFloat32) {
          float f;
          std::memcpy(&f, views.data() + 4 * i, 4);
          return f;
        }
        // Whole numbers below 2048 are exact.
        const int half = views[2 * i] | views[2 * i + 1] << 8;
        if (half == 0) return 0.0f;
        const int exponent = (half >> 10) - 25;
        return exponent < 0 ? static_cast<float>(1024 + (half & 1023)) / float(1 << -exponent)
                            : static_cast<float>((1024 + (half & 1023)) << exponent);
      };
      for (int y = 0; y < kSide; ++y) {
        for (int x = 0; x < kSide; ++x) {
          for (int c = 0; c < 3; ++c) {
            const float pixel = image.At(y, x, c);
            CHECK_EQ(value(0, y, x, c), pixel);
            CHECK_EQ(value(1, kSide - 1 - x, y, c), pixel);
            CHECK_EQ(value(2, kSide - 1 - y, kSide - 1 - x, c), pixel);
            CHECK_EQ(value(3, x, kSide - 1 - y, c), pixel);
          }
        }
      }
    }
  }
}

const std::vector<std::vector<Op>>& Pipelines() {
  const op::InceptionCrop crop = {16, {0.05, 1}, {3. / 4, 4. / 3}, true};
  const op::Normalize range = {96, {2 / 255.f, 2 / 255.f, 2 / 255.f}, {-1, -1, -1}};
  const op::RandomResizedCrop random_resized = {
      0, 24, 24, {0.1, 1}, {0.75, 1.5}, {-0.3, 0.4}, Method::kBilinear, true};
  const op::CentralResizedCrop cubic = {16, 24, 24, 27, Method::kBicubic, true};
  const op::ColorJitter jitter = {32, {0.2, 1.8}, {0.2, 1.8}, {0.2, 1.8}, {-0.2, 0.2}, 0.8};
  const op::Normalize by_channel = {96, {0.017f, 0.018f, 0.019f}, {-2, -1, 0}};
  const op::Resize any = {32, 24, 24, Method::kBilinear, Coords::kHalfPixel, false, true};
  static const std::vector<std::vector<Op>> pipelines = {
      {crop, any, op::Flip{48}, op::Distort{64, true}, range},
      {crop, any, op::Flip{48}, op::Distort{64, false}, range},
      {op::Gray{0, 0.5, false}, crop, any, op::Distort{64, true}, range, op::Standardize{80}},
      {op::Gray{0, 1, false}, crop, any, op::Distort{64, false}, op::Standardize{80}},
      {any, op::Gray{0, 0.5, false}, op::Standardize{80}},
      {op::Gray{0, 0.5, false}, crop, any, op::Distort{64, true}, by_channel},
      {op::ResizeSmall{0, 24}, op::Crop{16, 24, 24, true}, by_channel},
      {random_resized, jitter, op::Gray{48, 0.3, false, true}, op::Blur{64, {0.1, 2}, 0.7, 9},
       range},
      {random_resized, op::Blur{32, {1, 3}, 1, 23}, jitter, op::Blur{64, {1, 1}, 1, 5},
       op::Solarize{80, 128, 0.5}, by_channel},
      {op::Gray{0, 0.5, false}, cubic, op::Blur{32, {1, 1}, 1, 3},
       op::Erase{48, {0.1, 0.5}, {-1, 1}, {9, 9, 200}, 0.8}, op::Standardize{80}}};
  return pipelines;
}

TEST(views_are_the_same_on_every_instruction_set_past_the_cache_or_not) {
  for (const std::vector<Op>& ops : Pipelines()) {
    for (const DType dtype : {DType::kUint8, DType::kFloat16, DType::kFloat32}) {
      for (const bool first : {false, true}) {
        const Format format = MakeFormat(dtype, first, 1, 24, 24);
        for (uint32_t record = 0; record < 6; ++record) {
          const Bytes data = EncodeJpeg(40 + static_cast<int>(record) * 7, 35);
          const Bytes plain = Render(ops, format, data, record, KernelsByName("baseline"));
          for (const Kernels* kernels : AvailableKernels()) {
            CHECK(Render(ops, format, data, record, *kernels, false) == plain);
            CHECK(Render(ops, format, data, record, *kernels, true) == plain);
          }
        }
      }
    }
  }
}

TEST(a_renderer_gives_the_same_whatever_it_rendered_before) {
  for (const std::vector<Op>& ops : Pipelines()) {
    const Format format = MakeFormat(DType::kFloat32, false, 1, 24, 24);
    const std::vector<Branch> branches = {{Plan(ops), format}};
    Renderer renderer(branches, BestKernels(), false);
    Bytes out(format.RecordBytes());
    std::vector<int32_t> labels;
    for (const int side : {90, 24, 300, 31, 1, 64}) {
      const Bytes data = EncodeJpeg(side, side + 24);
      const bool fits = Thrown([&] { Render(ops, format, data); }).empty();
      const std::string thrown = Thrown([&] {
        uint8_t* const to = out.data();
        renderer.Render(ToSpan(data), {1, 2, 0}, &to, &labels);
      });
      CHECK_EQ(thrown.empty(), fits);
      if (fits) CHECK(out == Render(ops, format, data));
    }
  }
}

TEST(damaged_images_never_crash_and_never_write_beyond_their_place) {
  Random random(8);
  const Bytes good = EncodeJpeg(48, 40);
  for (const std::vector<Op>& ops : Pipelines()) {
    const Format format = MakeFormat(DType::kFloat32, false, 1, 24, 24);
    const std::vector<Branch> branches = {{Plan(ops), format}};
    Renderer renderer(branches, BestKernels(), true);
    Bytes out(format.RecordBytes() + 128);
    std::vector<int32_t> labels;
    for (uint32_t round = 0; round < 400; ++round) {
      Bytes damaged = good;
      Mutate(&random, &damaged);
      // A damaged size can need much memory and time.
      JpegDecoder decoder;
      ImageSize size = {0, 0};
      Thrown([&] { size = decoder.Open(ToSpan(damaged)); });
      if (int64_t{size.width} * size.height > 1000000) continue;
      std::fill(out.begin(), out.end(), 0x77);
      Thrown([&] {
        uint8_t* const to = out.data() + 64;
        renderer.Render(ToSpan(damaged), {1, 2, round}, &to, &labels);
      });
      for (size_t i = 0; i < 64; ++i) CHECK(out[i] == 0x77 && out[out.size() - 1 - i] == 0x77);
    }
  }
}

}  // namespace
}  // namespace pretexture
