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
  rows.Clear(4096);
  Bytes encoded(choices.Byte());
  for (uint8_t& byte : encoded) byte = choices.Byte();
  rows.Decode(encoded.data(), encoded.size());
  const Bytes file = choices.Rest();
  CompareJpeg(file, region);
  DecodeWithOurs(file, region, &rows);
  return 0;
}
