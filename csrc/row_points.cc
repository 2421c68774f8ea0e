#include "row_points.h"

namespace pretexture {
namespace {

// Numbers are written seven bits at a time, the lowest first; the highest bit of a byte says that
// another one follows. Differences are made positive: 0, -1, 1, -2, …
void Put(uint64_t value, std::vector<uint8_t>* out) {
  for (; value >= 128; value >>= 7) out->push_back(static_cast<uint8_t>(value | 128));
  out->push_back(static_cast<uint8_t>(value));
}

bool Take(const uint8_t** data, const uint8_t* end, uint64_t* value) {
  *value = 0;
  for (int shift = 0; shift < 63 && *data < end; shift += 7) {
    const uint8_t byte = *(*data)++;
    *value |= static_cast<uint64_t>(byte & 127) << shift;
    if (byte < 128) return true;
  }
  return false;
}

uint64_t Fold(int difference) {
  return difference < 0 ? static_cast<uint64_t>(-2 * difference - 1)
                        : static_cast<uint64_t>(2 * difference);
}

int Unfold(uint64_t value) {
  const int half = static_cast<int>(value >> 1 & 0xffff);
  return value & 1 ? -half - 1 : half;
}

size_t Size(uint64_t value) {
  size_t size = 1;
  for (; value >= 128; value >>= 7) ++size;
  return size;
}

size_t PointSize(const RowPoint& before, const RowPoint& point, uint32_t components) {
  size_t size = Size(point.place - before.place);
  for (uint32_t c = 0; c < components; ++c) {
    size += Size(Fold(point.predicted[c] - before.predicted[c]));
  }
  return size;
}

// A point is written as what differs from the one before.
void PutPoint(const RowPoint& before, const RowPoint& point, uint32_t components,
              std::vector<uint8_t>* out) {
  Put(point.place - before.place, out);
  for (uint32_t c = 0; c < components; ++c)
    Put(Fold(point.predicted[c] - before.predicted[c]), out);
}

}  // namespace

void RowPoints::Add(uint32_t number, const RowPoint& point) {
  if (number == 0 || number > points.size() + 1) return;
  if (number <= points.size()) {
    if (points[number - 1] == point) return;
    Drop();  // If one is wrong, all may be.
    changed = true;
    return;
  }
  const RowPoint before = points.empty() ? RowPoint() : points.back();
  if (point.place <= before.place || points.size() == UINT16_MAX) return;
  const size_t size = PointSize(before, point, components_);
  if (used_ + size > bytes_) return;
  used_ += size;
  points.push_back(point);
  changed = true;
}

std::vector<uint8_t> RowPoints::Encode() const {
  const size_t count = points.size();
  std::vector<uint8_t> data = {
      static_cast<uint8_t>(count),       static_cast<uint8_t>(count >> 8),
      static_cast<uint8_t>(per_row_),    static_cast<uint8_t>(every_),
      static_cast<uint8_t>(every_ >> 8), static_cast<uint8_t>(components_)};
  data.reserve(used_);
  RowPoint before;
  for (const RowPoint& point : points) {
    PutPoint(before, point, components_, &data);
    before = point;
  }
  return data;
}

bool RowPoints::Decode(const uint8_t* data, size_t size) {
  Drop();
  if (size < kHeader || size > bytes_) return false;
  const size_t count = data[0] + 256u * data[1];
  per_row_ = data[2];
  every_ = data[3] + 256u * data[4];
  components_ = data[5];
  if (components_ > 4) return false;
  const uint8_t *from = data + kHeader, *const end = data + size;
  RowPoint point;
  for (size_t i = 0; i < count; ++i) {
    uint64_t value;
    if (!Take(&from, end, &value)) break;
    point.place += value;
    uint32_t c = 0;
    for (; c < components_ && Take(&from, end, &value); ++c) {
      point.predicted[c] = static_cast<int16_t>(point.predicted[c] + Unfold(value));
    }
    if (c < components_) break;
    points.push_back(point);
  }
  used_ = size;
  if (from == end && points.size() == count) return true;
  Drop();
  return false;
}

}  // namespace pretexture
