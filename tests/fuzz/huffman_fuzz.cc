// Huffman codes: JPEGs whose headers are always sound, so that all of the input becomes Huffman
// tables and coded data. Decoded by us and by libjpeg alone.
//
// The input is the coded data, followed by the bytes that choose the rest, read from the end.
#include <algorithm>

#include "jpeg_reference.h"
#include "jpegs.h"

namespace pretexture {
namespace fuzz {
namespace {

// Any shape that libjpeg accepts.
test::CodeTable Table(Choices* choices, bool ac) {
  test::CodeTable table;
  int total = 0;
  unsigned room = 1;  // codes of this length that no shorter one has taken
  for (size_t length = 1; length <= 16; ++length) {
    room *= 2;
    // Most codes of a real table are long ones.
    const int wanted = choices->Byte() % (length < 16 ? 8 : 200);
    const int count =
        std::min({wanted, static_cast<int>(std::min(room - 1, 256u)), (ac ? 256 : 16) - total});
    table.counts[length - 1] = static_cast<uint8_t>(count);
    room -= static_cast<unsigned>(count);
    total += count;
  }
  for (int i = 0; i < total; ++i) {
    table.symbols.push_back(choices->Byte() & (ac ? 255 : 15));
  }
  return table;
}

Bytes Jpeg(Choices* choices) {
  static constexpr int kSamplings[] = {0x11, 0x21, 0x12, 0x22};
  test::CraftedJpeg jpeg;
  jpeg.width = 1 + choices->Byte() % 64;
  jpeg.height = 1 + choices->Byte() % 64;
  const uint8_t kind = choices->Byte();
  jpeg.sampling = {kSamplings[kind & 3]};
  if (kind & 4) jpeg.sampling.resize(3, 0x11);
  if (kind & 8) jpeg.restart_blocks = 1 + choices->Byte() % 5;
  if (kind & 16) jpeg.end.clear();
  jpeg.quantizer = 1 + (kind >> 6);
  jpeg.dc = Table(choices, false);
  jpeg.ac = Table(choices, true);
  jpeg.codes = choices->Rest();
  return test::PutTogether(jpeg);
}

}  // namespace
}  // namespace fuzz
}  // namespace pretexture

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pretexture::fuzz;
  Choices choices(data, size);
  const RegionChoice region = ChooseRegion(&choices);
  CompareJpeg(Jpeg(&choices), region);
  return 0;
}
