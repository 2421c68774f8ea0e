#include "philox.h"

#include "test.h"

namespace pretexture {
namespace {

// From kat_vectors of Random123, the authors' implementation.
TEST(the_known_answers_of_philox4x32_10) {
  CHECK((Philox(0, {0, 0, 0, 0}) == Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  CHECK((Philox(~uint64_t{0}, {~0u, ~0u, ~0u, ~0u}) ==
         Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  CHECK((Philox(0x299f31d0a4093822, {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}) ==
         Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(uniform_stays_below_1_and_below_stays_below_n) {
  CHECK(Uniform(0) == 0);
  CHECK(Uniform(~0u) < 1);
  for (const uint32_t n : {1u, 2u, 3u, 1000u, ~0u}) {
    CHECK_EQ(Below(0, n), 0u);
    CHECK_EQ(Below(~0u, n), n - 1);
  }
}

TEST(each_part_of_the_counter_changes_the_draw) {
  const Words draw = Draws{1, 2, 3}.Block(4, 5, 6);
  CHECK((Draws{2, 2, 3}.Block(4, 5, 6) != draw));
  CHECK((Draws{1, 3, 3}.Block(4, 5, 6) != draw));
  CHECK((Draws{1, 2, 4}.Block(4, 5, 6) != draw));
  CHECK((Draws{1, 2, 3}.Block(5, 5, 6) != draw));
  CHECK((Draws{1, 2, 3}.Block(4, 6, 6) != draw));
  CHECK((Draws{1, 2, 3}.Block(4, 5, 7) != draw));
}

}  // namespace
}  // namespace pretexture
