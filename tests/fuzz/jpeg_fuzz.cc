// JPEG files: a region decoded by us and by libjpeg alone; then by us with any row points, which
// may give other pixels, but nothing worse.
//
// The input is a file followed by bytes that choose the region and the points.
#include "jpeg_reference.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pretexture::fuzz;
  Choices choices(data, size);
  const RegionChoice region = ChooseRegion(&choices);
  pretexture::RowPoints rows;
  rows.bytes = 4096;
  rows.components = choices.Byte() % 5;
  rows.every = choices.Byte() % 4;
  rows.points.resize(choices.Byte() % 8);
  for (pretexture::RowPoint& point : rows.points) {
    point.byte = choices.Byte() * 256u + choices.Byte();
    point.bit = choices.Byte() % 8u;
    for (int16_t& value : point.predicted) value = static_cast<int16_t>(choices.Byte() * 257);
  }
  const Bytes data = choices.Rest();
  CompareJpeg(data, region);
  DecodeWithOurs(data, region, &rows);
  return 0;
}
