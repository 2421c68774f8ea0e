// JPEG files: a region decoded by us and by libjpeg alone.
//
// The input is a file followed by five bytes that choose the region.
#include "jpeg_reference.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pretexture::fuzz;
  Choices choices(data, size);
  const RegionChoice region = ChooseRegion(&choices);
  CompareJpeg(choices.Rest(), region);
  return 0;
}
