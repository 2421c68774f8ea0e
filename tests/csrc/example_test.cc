#include "example.h"

#include <limits>

#include "shards.h"
#include "test.h"

namespace pretexture {
namespace {

using namespace test;

struct Parsed {
  std::string image;
  bool labelled;
  int64_t label;
};

Parsed Parse(const Bytes& data) {
  // Exactly as large as the data, so that a sanitizer sees a read beyond them.
  const Bytes exact(data.begin(), data.end());
  const Example example =
      ParseExample({exact.data(), exact.size()}, "image/encoded", "image/class/label");
  CHECK(example.image.data >= exact.data());
  CHECK(example.image.data + example.image.size <= exact.data() + exact.size());
  return {std::string(example.image.data, example.image.data + example.image.size),
          example.label.has_value(), example.label.value_or(-1)};
}

const Bytes kImage = Entry("image/encoded", BytesFeature(Text("pixels")));

TEST(the_image_and_the_label_are_found_among_other_features) {
  const Bytes example = Field(1, Entry("image/filename", BytesFeature(Text("name"))) + kImage +
                                     Entry("image/class/label", Int64Feature(1000)) +
                                     Entry("numbers", Field(2, Field(1, Bytes(8, 0)))));
  const Parsed parsed = Parse(example);
  CHECK_EQ(parsed.image, "pixels");
  CHECK_EQ(parsed.label, 1000);
}

TEST(labels_are_read_packed_and_unpacked_and_may_be_negative) {
  for (const int64_t label :
       {int64_t{0}, int64_t{-1}, int64_t{300}, std::numeric_limits<int64_t>::max(),
        std::numeric_limits<int64_t>::min()}) {
    const Bytes packed = Int64Feature(label);
    const Bytes unpacked = Field(3, VarintField(1, static_cast<uint64_t>(label)));
    for (const Bytes& feature : {packed, unpacked}) {
      CHECK_EQ(Parse(Field(1, kImage + Entry("image/class/label", feature))).label, label);
    }
  }
}

TEST(a_record_without_a_label_has_none) {
  CHECK(!Parse(Field(1, kImage)).labelled);
  for (const Bytes& feature : {Bytes(), Field(3, {}), BytesFeature(Text("cat"))}) {
    CHECK(!Parse(Field(1, kImage + Entry("image/class/label", feature))).labelled);
  }
}

TEST(a_record_without_an_image_is_refused_by_the_name_of_its_feature) {
  for (const Bytes& example :
       {Bytes(), Field(1, {}), Field(1, Entry("image/class/label", Int64Feature(1))),
        Field(1, Entry("image/encoded", Int64Feature(1))),
        Field(1, Entry("image/encoded", BytesFeature({})))}) {
    CHECK_THROWS(Parse(example), "no feature 'image/encoded'");
  }
}

int32_t LabelOf(const Bytes& feature, int offset = 1) {
  const Bytes data = Field(1, kImage + Entry("image/class/label", feature));
  const Span span = ToSpan(data);
  const Example example = ParseExample(span, "image/encoded", "image/class/label");
  return ClassLabel(span, example, {"image/class/label", offset, true});
}

TEST(a_class_label_is_what_is_stored_less_the_offset) {
  CHECK_EQ(LabelOf(Int64Feature(1)), 0);
  CHECK_EQ(LabelOf(Int64Feature(1000)), 999);
  CHECK_EQ(LabelOf(Int64Feature(0), 0), 0);
  CHECK_EQ(LabelOf(Int64Feature(-3), -3), 0);
  CHECK_EQ(LabelOf(Int64Feature(INT32_MAX), 0), INT32_MAX);
  // Unlabelled.
  CHECK_EQ(LabelOf(Int64Feature(-1)), -1);
  CHECK_EQ(LabelOf({}), -1);
  CHECK_EQ(LabelOf(Field(3, {})), -1);
  CHECK_EQ(LabelOf(Field(1, {})), -1);
}

TEST(a_label_that_is_none_says_why) {
  CHECK_THROWS(LabelOf(Int64Feature(0)), "is below 0; if labels count from 0, use label_offset=0");
  CHECK_THROWS(LabelOf(Int64Feature(-7)), "the label -7 less label_offset=1 is below 0");
  CHECK_THROWS(LabelOf(Int64Feature(std::numeric_limits<int64_t>::min())), "is below 0");
  CHECK_THROWS(LabelOf(Int64Feature(std::numeric_limits<int64_t>::max()), -1),
               "not fit in 32 bits");
  CHECK_THROWS(LabelOf(Int64Feature(int64_t{1} << 32)), "not fit in 32 bits");
  CHECK_THROWS(LabelOf(BytesFeature(Text("7"))), "holds bytes");
  CHECK_THROWS(LabelOf(Field(2, Field(1, Bytes(4, 0)))), "holds floating-point numbers");
  const Bytes data = Field(1, kImage + Entry("label\x1b\xff", Int64Feature(1)));
  const Span span = ToSpan(data);
  const Example example = ParseExample(span, "image/encoded", "label");
  CHECK_EQ(ClassLabel(span, example, {"label", 0, false}), -1);
  CHECK_THROWS(ClassLabel(span, example, {"label", 0, true}),
               "no label feature 'label'; it has 'image/encoded', 'label\\x1b\\xff'");
}

TEST(unknown_fields_are_passed_over_at_every_level) {
  for (const Bytes& unknown :
       {VarintField(99, 5), Field(15, Text("later")), Varint(77 << 3 | 1) + Bytes(8, 1),
        Varint(78 << 3 | 5) + Bytes(4, 1)}) {
    const Bytes list = unknown + Field(1, Text("pixels")) + unknown;
    const Bytes feature = unknown + Field(1, list) + unknown;
    const Bytes entry = unknown + Field(1, Text("image/encoded")) + unknown + Field(2, feature);
    CHECK_EQ(Parse(unknown + Field(1, unknown + Field(1, entry) + unknown) + unknown).image,
             "pixels");
  }
}

TEST(of_entries_with_one_key_the_last_counts_in_one_features_or_in_two) {
  const Bytes other = Entry("image/encoded", BytesFeature(Text("other")));
  CHECK_EQ(Parse(Field(1, other + kImage)).image, "pixels");
  CHECK_EQ(Parse(Field(1, other) + Field(1, kImage)).image, "pixels");
}

// Protocol buffers merge a message that comes in two pieces.
TEST(a_list_in_two_pieces_is_one_list) {
  const Bytes twice = BytesFeature(Text("pixels")) + BytesFeature(Text("more"));
  CHECK_EQ(Parse(Field(1, Entry("image/encoded", twice))).image, "pixels");
  const Bytes empty_first = Field(3, {}) + Int64Feature(4);
  CHECK_EQ(Parse(Field(1, kImage + Entry("image/class/label", empty_first))).label, 4);
}

TEST(of_a_feature_with_two_kinds_of_list_the_last_counts) {
  const Bytes bytes = BytesFeature(Text("pixels")), number = Int64Feature(1);
  CHECK_EQ(Parse(Field(1, Entry("image/encoded", number + bytes))).image, "pixels");
  CHECK_THROWS(Parse(Field(1, Entry("image/encoded", bytes + number))), "no feature");
}

TEST(lengths_beyond_the_data_and_endless_varints_are_refused) {
  const Bytes whole = ImageExample(Text("pixels"), 7);
  for (size_t size = 1; size < whole.size(); ++size) {
    CHECK_THROWS(Parse(Bytes(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size))),
                 "not a well-formed");
  }
  CHECK_THROWS(Parse({0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01}), "not a");
  CHECK_THROWS(Parse(Bytes(20, 0xff)), "not a");
  CHECK_THROWS(Parse(Bytes(20, 0x0b)), "not a");
  CHECK_THROWS(Parse({0x00}), "not a");
}

TEST(a_field_number_beyond_29_bits_is_refused) {
  // Its low bits look like those of field 1.
  const Bytes tag = Varint(uint64_t{1} << 35 | 0x0a);
  CHECK_THROWS(Parse(tag + Varint(0)), "not a well-formed");
}

TEST(keys_may_be_empty) {
  const Bytes data = Field(1, Field(1, Field(2, BytesFeature(Text("pixels")))));
  const Example example = ParseExample({data.data(), data.size()}, "", "label");
  CHECK_EQ(example.image.size, size_t{6});
}

TEST(damaged_examples_never_crash) {
  const Bytes whole = Field(1, Entry("image/filename", BytesFeature(Text("name"))) + kImage +
                                   Entry("image/class/label", Int64Feature(1000)) +
                                   Entry("box", Field(2, Field(1, Bytes(16, 1)))));
  Random random(3);
  for (int round = 0; round < 100000; ++round) {
    Bytes damaged = whole;
    Mutate(&random, &damaged);
    const std::string thrown = Thrown([&] { Parse(damaged); });
    CHECK(thrown.empty() || thrown.find("not a well-formed") == 0 ||
          thrown.find("the record has no feature 'image/encoded'") == 0);
  }
}

}  // namespace
}  // namespace pretexture
