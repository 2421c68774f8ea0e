#include "geometry.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "test.h"

namespace pretexture {
namespace {

using test::Random;

const Sampling kSamplings[] = {
    {Method::kBilinear, Coords::kHalfPixel, false}, {Method::kBilinear, Coords::kTf1, false},
    {Method::kBilinear, Coords::kHalfPixel, true},  {Method::kNearest, Coords::kHalfPixel, false},
    {Method::kNearest, Coords::kTf1, false},        {Method::kBicubic, Coords::kHalfPixel, false},
    {Method::kBicubic, Coords::kTf1, false},        {Method::kArea, Coords::kHalfPixel, false}};

// The weights of each output over the source pixels 0..size-1.
std::vector<std::vector<float>> Dense(const Axis& axis, const Sampling& sampling, int size) {
  Taps taps;
  taps.Build(axis, sampling);
  std::vector<std::vector<float>> dense(static_cast<size_t>(taps.count),
                                        std::vector<float>(static_cast<size_t>(size)));
  CHECK(0 <= taps.begin && taps.begin < taps.end && taps.end <= size);
  CHECK_EQ(taps.start.size(), static_cast<size_t>(taps.count));
  CHECK_EQ(taps.weight.size(), static_cast<size_t>(taps.count * taps.width));
  for (int i = 0; i < taps.count; ++i) {
    const int start = taps.start[static_cast<size_t>(i)];
    CHECK(start >= 0);
    CHECK(taps.begin + start + taps.width <= taps.end);
    for (int k = 0; k < taps.width; ++k) {
      dense[static_cast<size_t>(i)][static_cast<size_t>(taps.begin + start + k)] +=
          taps.weight[static_cast<size_t>(k * taps.count + i)];
    }
  }
  return dense;
}

Axis Drawn(Random* random, int size) {
  Axis axis = Axis::Whole(size);
  for (int steps = random->Between(0, 4); steps > 0; --steps) {
    const int kind = random->Between(0, 2);
    if (kind == 0) axis.Flip();
    if (kind == 1) {
      const int length = random->Between(1, axis.count);
      axis.Crop(random->Between(0, axis.count - length), length);
    }
    if (kind == 2 && !axis.resampled) axis.Resize(random->Between(1, 60));
  }
  return axis;
}

TEST(weights_sum_to_1_and_lie_within_the_image) {
  Random random(1);
  for (int round = 0; round < 1500; ++round) {
    const int size = random.Between(1, 50);
    const Axis axis = Drawn(&random, size);
    for (const Sampling& sampling : kSamplings) {
      for (const std::vector<float>& weights : Dense(axis, sampling, size)) {
        float sum = 0;
        for (const float weight : weights) sum += weight;
        CHECK(std::abs(sum - 1) < 1e-5f);
      }
    }
  }
}

TEST(a_crop_of_the_result_is_a_part_of_the_whole_result) {
  Random random(2);
  for (int round = 0; round < 2000; ++round) {
    const int size = random.Between(1, 50);
    const Axis whole = Drawn(&random, size);
    Axis part = whole;
    const int length = random.Between(1, whole.count);
    const int offset = random.Between(0, whole.count - length);
    part.Crop(offset, length);
    for (const Sampling& sampling : kSamplings) {
      const auto all = Dense(whole, sampling, size);
      const auto some = Dense(part, sampling, size);
      CHECK(std::equal(some.begin(), some.end(), all.begin() + offset));
    }
  }
}

TEST(a_flip_of_the_result_is_its_mirror_image) {
  Random random(3);
  for (int round = 0; round < 2000; ++round) {
    const int size = random.Between(1, 50);
    const Axis axis = Drawn(&random, size);
    Axis flipped = axis;
    flipped.Flip();
    CHECK(flipped.SamePixels(axis));
    for (const Sampling& sampling : kSamplings) {
      auto mirrored = Dense(axis, sampling, size);
      std::reverse(mirrored.begin(), mirrored.end());
      CHECK(Dense(flipped, sampling, size) == mirrored);
    }
  }
}

TEST(a_flip_of_the_source_mirrors_the_weights) {
  Random random(4);
  for (int round = 0; round < 2000; ++round) {
    const int size = random.Between(1, 50), length = random.Between(1, 60);
    Axis plain = Axis::Whole(size), flipped = plain;
    flipped.Flip();
    plain.Resize(length);
    flipped.Resize(length);
    for (const Sampling& sampling : kSamplings) {
      auto mirrored = Dense(plain, sampling, size);
      for (auto& weights : mirrored) std::reverse(weights.begin(), weights.end());
      CHECK(Dense(flipped, sampling, size) == mirrored);
    }
  }
}

TEST(without_a_resize_each_output_is_one_pixel) {
  Axis axis = Axis::Whole(20);
  axis.Flip();
  axis.Crop(3, 5);
  const auto dense = Dense(axis, {}, 20);
  for (size_t i = 0; i < 5; ++i) {
    for (size_t k = 0; k < 20; ++k) CHECK_EQ(dense[i][k], k == 19 - 3 - i ? 1.0f : 0.0f);
  }
}

TEST(a_resize_to_the_same_size_changes_nothing) {
  for (const int size : {1, 2, 7, 300}) {
    Axis axis = Axis::Whole(size);
    axis.Resize(size);
    for (const Sampling& sampling : kSamplings) {
      const auto dense = Dense(axis, sampling, size);
      for (size_t i = 0; i < dense.size(); ++i) {
        for (size_t k = 0; k < dense.size(); ++k) {
          CHECK(std::abs(dense[i][k] - (i == k ? 1.0f : 0.0f)) < 1e-6f);
        }
      }
    }
  }
}

// Each output of a reduction by a whole factor is the mean of that many pixels.
TEST(area_averages_whole_cells) {
  Axis axis = Axis::Whole(60);
  axis.Resize(20);
  const auto dense = Dense(axis, {Method::kArea, Coords::kHalfPixel, false}, 60);
  for (size_t i = 0; i < 20; ++i) {
    for (size_t k = 0; k < 60; ++k) {
      CHECK(std::abs(dense[i][k] - (k / 3 == i ? 1 / 3.f : 0.f)) < 1e-6f);
    }
  }
}

TEST(extreme_sizes_neither_overflow_nor_lose_their_weights) {
  for (const auto& sizes : {std::pair<int, int>{65535, 1},
                            {1, 65535},
                            {65535, 7},
                            {3, 65535},
                            {65535, 65535},
                            {2, 1 << 24}}) {
    Axis axis = Axis::Whole(sizes.first);
    axis.Resize(sizes.second);
    const int count = std::min(axis.count, 9);
    axis.Crop(axis.count - count, count);
    for (const Sampling& sampling : kSamplings) {
      for (const std::vector<float>& weights : Dense(axis, sampling, sizes.first)) {
        double sum = 0;
        for (const float weight : weights) sum += double(weight);
        CHECK(std::abs(sum - 1) < 1e-4);
      }
    }
  }
}

}  // namespace
}  // namespace pretexture
