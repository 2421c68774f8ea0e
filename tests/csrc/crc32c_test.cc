#include "crc32c.h"

#include <cstring>
#include <vector>

#include "test.h"

namespace pretexture {
namespace {

using test::Bytes;

uint32_t Of(const Bytes& data) { return Crc32c(test::ToSpan(data)); }

TEST(the_vectors_of_rfc_3720) {
  Bytes rising(32), falling(32);
  for (uint8_t i = 0; i < 32; ++i) {
    rising[i] = i;
    falling[i] = static_cast<uint8_t>(31 - i);
  }
  CHECK_EQ(Of(Bytes(32, 0)), 0x8a9136aau);
  CHECK_EQ(Of(Bytes(32, 0xff)), 0x62a8ab43u);
  CHECK_EQ(Of(rising), 0x46dd794eu);
  CHECK_EQ(Of(falling), 0x113fdb5cu);
  CHECK_EQ(Of({'1', '2', '3', '4', '5', '6', '7', '8', '9'}), 0xe3069283u);
  CHECK_EQ(Crc32c({}), 0u);
}

TEST(the_instruction_and_the_tables_agree_at_every_size_and_alignment) {
  test::Random random(1);
  Bytes data(120000);
  for (uint8_t& byte : data) byte = static_cast<uint8_t>(random.Next());
  std::vector<size_t> sizes;
  for (size_t size = 0; size < 300; ++size) sizes.push_back(size);
  // Long data are summed in three stretches of 4096 bytes at a time.
  for (const size_t whole : {4096, 8192, 12288, 24576, 110592}) {
    for (size_t size = whole - 9; size < whole + 10; ++size) sizes.push_back(size);
  }
  for (size_t align = 0; align < 16; ++align) {
    for (const size_t size : sizes) {
      const Span span{data.data() + align, size};
      CHECK_EQ(Crc32c(span), Crc32cPortable(span));
    }
  }
}

TEST(a_flipped_bit_changes_the_checksum) {
  Bytes data(97, 0x5a);
  const uint32_t whole = Of(data);
  for (size_t bit = 0; bit < data.size() * 8; ++bit) {
    data[bit / 8] = static_cast<uint8_t>(data[bit / 8] ^ 1u << bit % 8);
    CHECK(Of(data) != whole);
    data[bit / 8] = static_cast<uint8_t>(data[bit / 8] ^ 1u << bit % 8);
  }
}

}  // namespace
}  // namespace pretexture
