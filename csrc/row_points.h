// Where rows of MCUs begin in the coded data of a JPEG.
//
// Huffman codes have no fixed length, so a decoder that has not read what comes before cannot know
// where a row begins. If it once has, it can keep the places and jump there the next time.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace pretexture {

// The state of a decoder at the beginning of a row.
struct RowPoint {
  static constexpr uint32_t kMostBytes = uint32_t{1} << 29;  // a place fits in 32 bits

  uint32_t byte = 0;  // of the coded data, in which the row's first bit is; less than kMostBytes
  uint32_t bit = 0;   // number of that bit in the byte, the highest one first
  std::array<int16_t, 4> predicted{};  // DC coefficient that each component was left with

  bool operator==(const RowPoint& o) const {
    return byte == o.byte && bit == o.bit && predicted == o.predicted;
  }
};

// The known points of one image: those of rows `every`, 2 x `every`, and so on. The row after the
// last one counts, too: its point is where the image ends.
struct RowPoints {
  // Bytes that a point takes in a file.
  static constexpr size_t PointBytes(int components) {
    return 4 + 2 * static_cast<size_t>(components);
  }

  size_t bytes = 0;  // that all points may take in a file
  int components = 0;
  uint32_t every = 0;  // 0 if not even one point fits
  std::vector<RowPoint> points;
  bool changed = false;  // since they were read from the file

  // Prepares for an image of so many rows. Drops the points if they cannot be those of this image.
  void Fit(uint32_t rows, int image_components) {
    const auto room = static_cast<uint32_t>(bytes / PointBytes(image_components));
    const uint32_t wanted = room == 0 ? 0 : (rows + room - 1) / room;
    if (components == image_components && every == wanted && points.size() <= room) return;
    components = image_components;
    every = wanted;
    points.clear();
  }

  // Whether the coded data are known to be sound up to the beginning of a row.
  bool Reach(uint32_t row) const { return uint64_t{every} * points.size() >= row; }
};

}  // namespace pretexture
