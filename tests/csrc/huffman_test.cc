// Our Huffman decoder compared with libjpeg's: the same pixels, and for broken data the same errors
// and warnings.

#include <algorithm>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "error.h"
#include "jpeg.h"
#include "jpegs.h"
#include "test.h"

namespace pretexture {
namespace {

using namespace test;

using Bytes = std::vector<uint8_t>;

// Pixels or an error message, and the number of warnings.
struct Result {
  Bytes pixels;
  std::string error;
  uint64_t warnings = 0;

  bool operator==(const Result& other) const {
    return pixels == other.pixels && error == other.error && warnings == other.warnings;
  }
};

Result Decode(JpegDecoder* decoder, const Bytes& data, const Rect& rect, bool plain,
              RowPoints* rows = nullptr) {
  Result result;
  const uint64_t before = decoder->counts().warnings;
  try {
    decoder->Open({data.data(), data.size()});
    const Region region = decoder->Decode(rect, rows, plain);
    for (int y = rect.y0; y < rect.y1; ++y) {
      const uint8_t* row = region.Row(y);
      result.pixels.insert(result.pixels.end(), row, row + 3 * rect.width());
    }
  } catch (const Error& error) {
    result.error = error.what();
  }
  result.warnings = decoder->counts().warnings - before;
  return result;
}

// Points that may take so many bytes in a file.
RowPoints Room(size_t bytes) {
  RowPoints points;
  points.Clear(bytes);
  return points;
}

RowPoints FoundRows(JpegDecoder* decoder, const Bytes& data, size_t bytes) {
  RowPoints points = Room(bytes);
  decoder->Open({data.data(), data.size()});
  decoder->FindRows(&points);
  return points;
}

std::vector<JpegOptions> Kinds() {
  std::vector<JpegOptions> kinds;
  const std::vector<std::vector<std::pair<int, int>>> samplings = {
      {{1, 1}, {1, 1}, {1, 1}}, {{2, 2}, {1, 1}, {1, 1}}, {{2, 1}, {1, 1}, {1, 1}},
      {{1, 2}, {1, 1}, {1, 1}}, {{4, 1}, {1, 1}, {1, 1}},
  };
  for (const auto& sampling : samplings) {
    for (const int quality : {5, 50, 90, 100}) {
      for (const unsigned restart : {0u, 1u, 7u}) {
        JpegOptions options;
        options.sampling = sampling;
        options.quality = quality;
        options.restart_blocks = restart;
        options.optimized = quality == 50 || quality == 100;
        kinds.push_back(options);
      }
    }
  }
  for (const J_COLOR_SPACE stored : {JCS_GRAYSCALE, JCS_RGB, JCS_CMYK, JCS_YCCK}) {
    JpegOptions options;
    options.stored = stored;
    kinds.push_back(options);
  }
  return kinds;
}

TEST(every_kind_of_sequential_jpeg_decodes_as_with_libjpeg) {
  JpegDecoder decoder;  // One for all images, so that a table that outlives its image shows.
  Random random(1);
  for (const JpegOptions& options : Kinds()) {
    const int width = random.Between(1, 90), height = random.Between(1, 90);
    const Bytes data = EncodeJpeg(width, height, options);
    for (int i = 0; i < 12; ++i) {
      const Rect rect = i == 0 ? Rect{0, 0, width, height} : DrawnRect(&random, width, height);
      const Result ours = Decode(&decoder, data, rect, false);
      CHECK_EQ(ours.error, "");
      CHECK(ours == Decode(&decoder, data, rect, true));
    }
  }
  CHECK_EQ(decoder.given_up(), 0u);
}

TEST(known_rows_are_jumped_to_and_change_no_pixel) {
  JpegDecoder decoder;
  Random random(4);
  for (const JpegOptions& options : Kinds()) {
    const int width = random.Between(1, 90), height = random.Between(1, 200);
    const Bytes data = EncodeJpeg(width, height, options);
    // With little room only some rows have a point.
    for (const size_t bytes : {size_t{40}, size_t{10'000}}) {
      RowPoints complete = FoundRows(&decoder, data, bytes);
      CHECK(!complete.points.empty());
      RowPoints growing = Room(bytes);
      for (int i = 0; i < 8; ++i) {
        const Rect rect = DrawnRect(&random, width, height);
        const Result expected = Decode(&decoder, data, rect, true);
        CHECK(Decode(&decoder, data, rect, false, &complete) == expected);
        CHECK(Decode(&decoder, data, rect, false, &growing) == expected);
      }
      // What decodes find on their way is what a pass over the whole image finds.
      CHECK(growing.points.size() <= complete.points.size());
      CHECK(std::equal(growing.points.begin(), growing.points.end(), complete.points.begin()));
    }
  }
  CHECK_EQ(decoder.given_up(), 0u);
  CHECK(decoder.counts().jumps > 1000);
  CHECK(decoder.counts().bytes_jumped > 100'000);
}

TEST(a_known_row_is_not_read_again) {
  JpegDecoder decoder;
  const Bytes data = EncodeJpeg(400, 300);
  RowPoints rows = FoundRows(&decoder, data, 10'000);
  const uint64_t before = decoder.counts().bytes_jumped;
  Decode(&decoder, data, {0, 280, 16, 300}, false, &rows);
  // All but about a fifteenth of the image is above the region.
  CHECK(decoder.counts().bytes_jumped - before > data.size() * 3 / 4);
}

TEST(progressive_images_have_no_rows) {
  JpegDecoder decoder;
  JpegOptions options;
  options.progressive = true;
  const Bytes data = EncodeJpeg(90, 70, options);
  RowPoints rows = FoundRows(&decoder, data, 10'000);
  CHECK(rows.points.empty());
  const Rect rect{10, 20, 70, 60};
  CHECK(Decode(&decoder, data, rect, false, &rows) == Decode(&decoder, data, rect, true));
  CHECK(rows.points.empty());
}

// Such points cannot come from a file, because their checksum would have to be right. They may
// give other pixels, but nothing worse.
TEST(wrong_points_never_crash) {
  JpegDecoder decoder;
  Random random(6);
  const std::vector<JpegOptions> kinds = Kinds();
  int right = 0;
  for (int i = 0; i < 2000; ++i) {
    const int width = random.Between(8, 60), height = random.Between(8, 60);
    const Bytes data = EncodeJpeg(width, height, kinds[static_cast<size_t>(i) % kinds.size()]);
    RowPoints rows = FoundRows(&decoder, data, 10'000);
    for (RowPoint& point : rows.points) {
      point.place =
          static_cast<uint64_t>(random.Between(0, 8 * static_cast<int>(data.size()) + 80));
      point.predicted[0] = static_cast<int16_t>(random.Between(-32768, 32767));
    }
    if (i % 3 == 0) rows.points.resize(1000, {UINT64_MAX, {-1, -1, -1, -1}});
    if (i % 5 == 0 && !rows.points.empty()) rows.points.back().place = UINT64_MAX - 7;
    const Rect rect = DrawnRect(&random, width, height);
    right += Decode(&decoder, data, rect, false, &rows) == Decode(&decoder, data, rect, true);
  }
  CHECK(decoder.given_up() > 100);
  CHECK(right > 100);
}

// Even one wrong table entry would show.
TEST(a_large_image_of_every_quality_decodes_as_with_libjpeg) {
  JpegDecoder decoder;
  for (int quality = 1; quality <= 100; quality += 3) {
    JpegOptions options;
    options.quality = quality;
    options.optimized = quality % 2 == 0;
    const Bytes data = EncodeJpeg(400, 300, options);
    const Rect whole{0, 0, 400, 300};
    CHECK(Decode(&decoder, data, whole, false) == Decode(&decoder, data, whole, true));
  }
  CHECK_EQ(decoder.given_up(), 0u);
}

TEST(progressive_and_arithmetic_jpegs_are_left_to_libjpeg) {
  JpegDecoder decoder;
  for (const bool progressive : {false, true}) {
    JpegOptions options;
    options.progressive = progressive;
    options.arithmetic = !progressive;
    const Bytes data = EncodeJpeg(50, 40, options);
    const Rect whole{0, 0, 50, 40};
    CHECK(Decode(&decoder, data, whole, false) == Decode(&decoder, data, whole, true));
  }
  CHECK_EQ(decoder.given_up(), 0u);
}

// Two symbols of up to 31 bits come one after the other.
TEST(symbols_longer_than_any_encoder_writes_decode_as_with_libjpeg) {
  JpegDecoder decoder;
  Random random(3);
  for (int i = 0; i < 200; ++i) {
    const CraftedJpeg jpeg = LongSymbols(&random);
    const Bytes data = PutTogether(jpeg);
    const Rect whole{0, 0, jpeg.width, jpeg.height};
    const Result ours = Decode(&decoder, data, whole, false);
    CHECK_EQ(ours.error, "");
    CHECK(ours == Decode(&decoder, data, whole, true));
  }
  CHECK_EQ(decoder.given_up(), 0u);
}

TEST(what_comes_behind_the_codes_matters_as_it_does_to_libjpeg) {
  const std::vector<Bytes> ends = {
      {},
      {0},
      {0xff},
      {0xff, 0xff},
      {0xff, 0},
      {0xff, 0xff, 0},
      {0xff, 0xd9},
      {0xff, 0xff, 0xd9},
      Bytes(40, 0xff),
      Bytes(40, 0),
      {0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0},
      {0xff, 0xff, 0, 0xff, 0xd9},
      {0xff, 0xd0},
      {0xff, 0xd0, 0xff, 0xd9},
      {1, 2, 3, 0xff, 0xd9},
  };
  JpegDecoder decoder;
  Random random(4);
  std::set<std::string> errors;
  for (int i = 0; i < 40; ++i) {
    CraftedJpeg jpeg = LongSymbols(&random);
    for (const Bytes& end : ends) {
      jpeg.end = end;
      for (size_t cut = 0; cut < std::min<size_t>(12, jpeg.codes.size()); ++cut) {
        CraftedJpeg part = jpeg;
        part.codes.resize(part.codes.size() - cut);
        const Bytes data = PutTogether(part);
        const Rect rect = DrawnRect(&random, jpeg.width, jpeg.height);
        const Result ours = Decode(&decoder, data, rect, false);
        const Result theirs = Decode(&decoder, data, rect, true);
        CHECK_EQ(ours.error, theirs.error);
        CHECK_EQ(ours.warnings, theirs.warnings);
        CHECK(ours.pixels == theirs.pixels);
        errors.insert(theirs.error);
      }
    }
  }
  CHECK_EQ(errors.size(), size_t{2});  // no error, and "the data end early"
}

// A decoder has such a table before it has read any.
TEST(tables_without_a_code_decode_as_with_libjpeg) {
  Random random(5);
  for (int i = 0; i < 20; ++i) {
    JpegDecoder used;
    const CraftedJpeg other = LongSymbols(&random);
    Decode(&used, PutTogether(other), {0, 0, 1, 1}, false);
    auto fresh = std::make_unique<JpegDecoder>();
    CraftedJpeg jpeg;
    jpeg.codes = Bytes(40, static_cast<uint8_t>(i));
    const Result ours = Decode(fresh.get(), PutTogether(jpeg), {0, 0, 8, 8}, false);
    CHECK(ours == Decode(&used, PutTogether(jpeg), {0, 0, 8, 8}, true));
    CHECK(ours.warnings > 0);
  }
}

TEST(broken_streams_give_what_libjpeg_gives) {
  JpegDecoder decoder;
  Random random(2);
  int errors = 0, warnings = 0;
  const std::vector<JpegOptions> kinds = Kinds();
  for (int i = 0; i < 3000; ++i) {
    const JpegOptions& options = kinds[static_cast<size_t>(i) % kinds.size()];
    const int width = random.Between(8, 60), height = random.Between(8, 60);
    Bytes data = EncodeJpeg(width, height, options);
    const int begin = static_cast<int>(FindMarkers(data, 0xda).front()) + 14;
    const int last = static_cast<int>(data.size()) - 1;
    if (begin >= last) continue;
    switch (i % 4) {
      case 0:  // Bytes changed.
        for (int j = random.Between(1, 4); j > 0; --j) {
          data[static_cast<size_t>(random.Between(begin, last))] =
              static_cast<uint8_t>(random.Between(0, 255));
        }
        break;
      case 1:  // Cut short.
        data.resize(static_cast<size_t>(random.Between(begin, last)));
        break;
      case 2:  // A marker in the middle.
        data[static_cast<size_t>(random.Between(begin, last - 1))] = 0xff;
        break;
      default:  // Extra bytes.
        data.insert(data.begin() + random.Between(begin, last),
                    static_cast<size_t>(random.Between(1, 9)),
                    static_cast<uint8_t>(random.Between(0, 255)));
    }
    const Rect rect = DrawnRect(&random, width, height);
    const Result ours = Decode(&decoder, data, rect, false);
    const Result theirs = Decode(&decoder, data, rect, true);
    CHECK_EQ(ours.error, theirs.error);
    CHECK_EQ(ours.warnings, theirs.warnings);
    CHECK(ours.pixels == theirs.pixels);
    // What earlier decodes of the same broken stream found out changes nothing.
    RowPoints rows = Room(10'000);
    for (int j = 0; j < 4; ++j) {
      const Rect other = DrawnRect(&random, width, height);
      const Result with_rows = Decode(&decoder, data, other, false, &rows);
      CHECK(with_rows == Decode(&decoder, data, other, true));
    }
    errors += !theirs.error.empty();
    warnings += theirs.warnings > 0;
  }
  CHECK(errors > 100);
  CHECK(warnings > 100);
  CHECK(decoder.given_up() > 100);
}

}  // namespace
}  // namespace pretexture
