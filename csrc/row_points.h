// Where rows of MCUs, and parts of them, begin in the coded data of a JPEG.
//
// Huffman codes have no fixed length, so a decoder that has not read what comes before cannot know
// where a row begins. If it once has, it can keep the places and jump there the next time.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace pretexture {

// The state of a decoder before an MCU.
struct RowPoint {
  uint64_t place = 0;                  // of the next bit: number of its byte, times 8, plus its own
  std::array<int16_t, 4> predicted{};  // DC coefficient that each component was left with

  bool operator==(const RowPoint& o) const { return place == o.place && predicted == o.predicted; }
};

// The known points of one image, from the first one on, without gaps. They lie at equal distances:
// `per_row` of them in each row, or, if there is little room, one at the beginning of every few
// rows. Number 0 would be the beginning of the image and is left out. The last one is the end of
// the image.
class RowPoints {
 public:
  std::vector<RowPoint> points;  // number 1 and so on
  bool changed = false;          // since they were read from a file

  // No points, and so many bytes of a file for those to come.
  void Clear(size_t bytes) {
    bytes_ = bytes;
    per_row_ = every_ = components_ = 0;
    Drop();
    changed = false;
  }

  // Prepares for an image of so many MCUs. Returns false if there is no room for a point.
  bool Fit(uint32_t rows, uint32_t columns, uint32_t components) {
    // A point usually takes a little less.
    const auto room = static_cast<uint32_t>(bytes_ / (2 + 2 * components));
    const uint32_t per_row = std::min({room / rows, std::max(1u, columns / 4), uint32_t{255}});
    const uint32_t every = per_row > 0 ? 1 : room > 0 ? (rows + room - 1) / room : 0;
    const uint32_t most = per_row > 0 ? per_row * rows : every > 0 ? rows / every : 0;
    if (per_row != per_row_ || every != every_ || components != components_ ||
        points.size() > most) {
      Drop();  // They cannot be those of this image.
    }
    per_row_ = per_row;
    every_ = every;
    components_ = components;
    columns_ = columns;
    return every > 0;
  }

  // The MCU before which a point lies.
  uint32_t Mcu(uint32_t number) const {
    if (per_row_ == 0) return number * every_ * columns_;
    return number / per_row_ * columns_ + number % per_row_ * columns_ / per_row_;
  }

  // The number of the last point that is not behind an MCU, whether it is known or not.
  uint32_t Before(uint32_t mcu) const {
    const uint32_t row = mcu / columns_, column = mcu % columns_;
    if (per_row_ == 0) return row / every_;
    return row * per_row_ + ((column + 1) * per_row_ - 1) / columns_;
  }

  // Whether the coded data are known to be sound up to an MCU.
  bool Reach(uint32_t mcu) const { return Mcu(static_cast<uint32_t>(points.size())) >= mcu; }

  // Adds point `number`, if it is the next one and there is room for it. If it is known and another
  // one, those from it on are replaced.
  void Add(uint32_t number, const RowPoint& point);

  // The points in a file: at most the bytes that Clear was given. Returns false if `data` cannot be
  // points; then there are none.
  std::vector<uint8_t> Encode() const;
  bool Decode(const uint8_t* data, size_t size);

 private:
  void Drop() {
    points.clear();
    used_ = kHeader;
  }

  static constexpr size_t kHeader = 6;
  size_t bytes_ = 0, used_ = kHeader;  // in a file
  uint32_t per_row_ = 0, every_ = 0, components_ = 0, columns_ = 0;
};

}  // namespace pretexture
