#include "jpeg.h"

#include <string>
#include <utility>
#include <vector>

#include "error.h"
#include "jpegs.h"
#include "test.h"

namespace pretexture {
namespace {

using namespace test;

using Bytes = std::vector<uint8_t>;

// The pixels of a region without gaps between rows.
Bytes Pixels(const Region& region) {
  Bytes pixels;
  for (int y = region.rect.y0; y < region.rect.y1; ++y) {
    const uint8_t* row = region.Row(y);
    pixels.insert(pixels.end(), row, row + 3 * region.rect.width());
  }
  return pixels;
}

Bytes DecodeWhole(JpegDecoder* decoder, const Bytes& data, ImageSize* size) {
  *size = decoder->Open(ToSpan(data));
  return Pixels(decoder->Decode({0, 0, size->width, size->height}));
}

Bytes Crop(const Bytes& pixels, int width, const Rect& rect) {
  Bytes crop;
  for (int y = rect.y0; y < rect.y1; ++y) {
    const auto row = pixels.begin() + (static_cast<std::ptrdiff_t>(y) * width + rect.x0) * 3;
    crop.insert(crop.end(), row, row + 3 * rect.width());
  }
  return crop;
}

void CheckRegion(JpegDecoder* decoder, const Bytes& data, const Bytes& whole, int width,
                 const Rect& rect, const std::string& what) {
  decoder->Open(ToSpan(data));
  if (Pixels(decoder->Decode(rect)) == Crop(whole, width, rect)) return;
  Fail(__FILE__, __LINE__,
       what + ": columns " + std::to_string(rect.x0) + ".." + std::to_string(rect.x1) + ", rows " +
           std::to_string(rect.y0) + ".." + std::to_string(rect.y1) +
           " differ from the same part of a full decode");
}

// Regions that begin and end near every edge and block border, and some at random.
void CheckRegions(const Bytes& data, const std::string& what, int count) {
  JpegDecoder decoder;
  ImageSize size;
  const Bytes whole = DecodeWhole(&decoder, data, &size);
  Random random(whole.size());
  for (int x = 0; x < size.width; ++x) {
    CheckRegion(&decoder, data, whole, size.width, {x, 0, x + 1, size.height}, what);
    CheckRegion(&decoder, data, whole, size.width, {x, 0, size.width, 1}, what);
    CheckRegion(&decoder, data, whole, size.width, {0, size.height - 1, x + 1, size.height}, what);
  }
  for (int y = 0; y < size.height; ++y) {
    CheckRegion(&decoder, data, whole, size.width, {0, y, size.width, y + 1}, what);
    CheckRegion(&decoder, data, whole, size.width, {0, y, 1, size.height}, what);
    CheckRegion(&decoder, data, whole, size.width, {size.width - 1, 0, size.width, y + 1}, what);
  }
  for (int i = 0; i < count; ++i) {
    const Rect rect = DrawnRect(&random, size.width, size.height);
    CheckRegion(&decoder, data, whole, size.width, rect, what);
  }
}

struct Kind {
  const char* name;
  J_COLOR_SPACE stored;
  std::vector<std::pair<int, int>> sampling;
};

const std::vector<Kind>& Kinds() {
  static const std::vector<Kind> kinds = {{"4:4:4", JCS_YCbCr, {{1, 1}, {1, 1}, {1, 1}}},
                                          {"4:2:2", JCS_YCbCr, {{2, 1}, {1, 1}, {1, 1}}},
                                          {"4:2:0", JCS_YCbCr, {{2, 2}, {1, 1}, {1, 1}}},
                                          {"4:4:0", JCS_YCbCr, {{1, 2}, {1, 1}, {1, 1}}},
                                          {"4:1:1", JCS_YCbCr, {{4, 1}, {1, 1}, {1, 1}}},
                                          {"4:1:0", JCS_YCbCr, {{4, 2}, {1, 1}, {1, 1}}},
                                          {"3:1:1", JCS_YCbCr, {{3, 1}, {1, 1}, {1, 1}}},
                                          {"each its own", JCS_YCbCr, {{2, 2}, {2, 1}, {1, 2}}},
                                          {"more chroma", JCS_YCbCr, {{1, 1}, {2, 2}, {2, 2}}},
                                          {"RGB", JCS_RGB, {{1, 1}, {1, 1}, {1, 1}}},
                                          {"grey", JCS_GRAYSCALE, {}},
                                          {"CMYK", JCS_CMYK, {{1, 1}, {1, 1}, {1, 1}, {1, 1}}},
                                          {"YCCK", JCS_YCCK, {{2, 2}, {1, 1}, {1, 1}, {2, 2}}}};
  return kinds;
}

TEST(a_region_is_a_part_of_the_full_decode_for_every_sampling_and_coding) {
  const std::pair<int, int> sizes[] = {{1, 1}, {7, 5}, {17, 33}, {64, 48}, {71, 40}};
  for (const Kind& kind : Kinds()) {
    for (const auto& size : sizes) {
      for (const bool progressive : {false, true}) {
        for (const unsigned restart : {0u, 2u}) {
          JpegOptions options;
          options.stored = kind.stored;
          options.sampling = kind.sampling;
          options.progressive = progressive;
          options.restart_blocks = restart;
          const std::string what = std::string(kind.name) + " " + std::to_string(size.first) + "x" +
                                   std::to_string(size.second) +
                                   (progressive ? " progressive" : "") +
                                   (restart ? " with restarts" : "");
          CheckRegions(EncodeJpeg(size.first, size.second, options), what, 20);
        }
      }
    }
  }
}

TEST(every_region_of_a_small_image_is_a_part_of_the_full_decode) {
  for (const Kind& kind : Kinds()) {
    JpegOptions options;
    options.stored = kind.stored;
    options.sampling = kind.sampling;
    const Bytes data = EncodeJpeg(19, 9, options);
    JpegDecoder decoder;
    ImageSize size;
    const Bytes whole = DecodeWhole(&decoder, data, &size);
    for (int x0 = 0; x0 < 19; ++x0) {
      for (int x1 = x0 + 1; x1 <= 19; ++x1) {
        for (int y0 = 0; y0 < 9; y0 += 2) {
          for (int y1 = y0 + 1; y1 <= 9; y1 += 3) {
            CheckRegion(&decoder, data, whole, 19, {x0, y0, x1, y1}, kind.name);
          }
        }
      }
    }
  }
}

// If the last scans of a progressive JPEG are missing, libjpeg smooths across neighbouring blocks.
TEST(a_region_of_a_progressive_image_that_lacks_scans_is_a_part_of_the_full_decode) {
  for (const Kind& kind : Kinds()) {
    JpegOptions options;
    options.stored = kind.stored;
    options.sampling = kind.sampling;
    options.progressive = true;
    const Bytes data = EncodeJpeg(72, 50, options);
    const std::vector<size_t> scans = FindMarkers(data, 0xda);
    for (size_t n = 1; n < scans.size(); ++n) {
      // The Huffman tables of a scan come before it.
      size_t end = scans[n];
      for (const size_t table : FindMarkers(data, 0xc4)) {
        if (scans[n - 1] < table && table < end) end = table;
      }
      Bytes cut(data.begin(), data.begin() + static_cast<std::ptrdiff_t>(end));
      cut.insert(cut.end(), {0xff, 0xd9});
      CheckRegions(cut, std::string(kind.name) + " with " + std::to_string(n) + " scans", 10);
    }
  }
}

TEST(data_that_end_anywhere_are_an_error) {
  for (const bool progressive : {false, true}) {
    JpegOptions options;
    options.progressive = progressive;
    const Bytes data = EncodeJpeg(40, 24, options);
    JpegDecoder decoder;
    ImageSize size;
    for (size_t cut = 0; cut + 2 < data.size(); ++cut) {
      const Bytes part(data.begin(), data.begin() + static_cast<std::ptrdiff_t>(cut));
      CHECK(!Thrown([&] { DecodeWhole(&decoder, part, &size); }).empty());
    }
    DecodeWhole(&decoder, data, &size);
  }
}

TEST(data_that_end_below_the_region_go_unseen) {
  const Bytes data = EncodeJpeg(64, 64);
  const Bytes part(data.begin(), data.end() - 400);
  JpegDecoder decoder;
  ImageSize size;
  const Bytes whole = DecodeWhole(&decoder, data, &size);
  CHECK_THROWS(DecodeWhole(&decoder, part, &size), "data end early");
  CheckRegion(&decoder, part, whole, 64, {10, 0, 40, 16}, "top");
}

TEST(a_marker_in_the_data_is_a_warning) {
  const Bytes data = EncodeJpeg(64, 64);
  Bytes part(data.begin(), data.end() - 400);
  part.insert(part.end(), {0xff, 0xd9});
  JpegDecoder decoder;
  ImageSize size;
  DecodeWhole(&decoder, part, &size);
  CHECK_EQ(decoder.counts().warnings, uint64_t{1});
  CheckRegions(part, "cut and ended", 50);
}

TEST(stray_bytes_before_a_marker_are_a_warning) {
  Bytes data = EncodeJpeg(20, 20);
  JpegDecoder decoder;
  ImageSize size;
  const Bytes whole = DecodeWhole(&decoder, data, &size);
  CHECK_EQ(decoder.counts().warnings, uint64_t{0});
  const auto place = static_cast<std::ptrdiff_t>(FindMarkers(data, 0xdb)[0]);
  data.insert(data.begin() + place, {1, 2, 3});
  CHECK(DecodeWhole(&decoder, data, &size) == whole);
  CHECK_EQ(decoder.counts().warnings, uint64_t{1});
}

// The frame header: its length, precision, height, width.
Bytes WithFrame(Bytes data, uint8_t marker, uint8_t precision, uint16_t height, uint16_t width) {
  const size_t frame = FindMarkers(data, 0xc0)[0];
  data[frame + 1] = marker;
  data[frame + 4] = precision;
  data[frame + 5] = static_cast<uint8_t>(height >> 8);
  data[frame + 6] = static_cast<uint8_t>(height);
  data[frame + 7] = static_cast<uint8_t>(width >> 8);
  data[frame + 8] = static_cast<uint8_t>(width);
  return data;
}

TEST(an_absurd_size_is_refused_before_anything_is_allocated) {
  JpegDecoder decoder;
  const Bytes data = EncodeJpeg(16, 16);
  const Bytes huge = WithFrame(data, 0xc0, 8, 65500, 65500);
  CHECK_THROWS(decoder.Open(ToSpan(huge)), "65500x65500 pixels");
  CHECK_THROWS(decoder.Open(ToSpan(WithFrame(data, 0xc0, 8, 0, 16))), "cannot be decoded");
  CHECK_THROWS(decoder.Open(ToSpan(WithFrame(data, 0xc0, 8, 65535, 65535))), "65500 pixels");
}

TEST(other_precisions_and_processes_are_refused) {
  JpegDecoder decoder;
  ImageSize size;
  const Bytes data = EncodeJpeg(16, 16);
  CHECK_THROWS(DecodeWhole(&decoder, WithFrame(data, 0xc1, 12, 16, 16), &size), "precision 12");
  CHECK_THROWS(DecodeWhole(&decoder, WithFrame(data, 0xc3, 8, 16, 16), &size), "SOF type 0xc3");
}

TEST(a_decoder_works_on_after_an_error) {
  JpegDecoder decoder;
  ImageSize size;
  const Bytes good = EncodeJpeg(33, 21);
  const Bytes whole = DecodeWhole(&decoder, good, &size);
  const Bytes broken(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(good.size() / 2));
  for (int i = 0; i < 3; ++i) {
    CHECK(!Thrown([&] { DecodeWhole(&decoder, broken, &size); }).empty());
    CHECK(DecodeWhole(&decoder, good, &size) == whole);
    decoder.Open(ToSpan(good));  // and leaves it undecoded
  }
}

// Files without Huffman tables get the standard ones; files without quantisation tables are broken.
TEST(a_decoder_keeps_no_tables_from_one_file_to_the_next) {
  JpegOptions other;
  other.quality = 30;
  const Bytes before = EncodeJpeg(33, 21, other);
  Bytes without_quantisation = EncodeJpeg(33, 21), without_huffman = without_quantisation;
  for (const size_t place : FindMarkers(without_quantisation, 0xdb)) {
    without_quantisation[place + 1] = 0xeb;
  }
  for (const size_t place : FindMarkers(without_huffman, 0xc4)) without_huffman[place + 1] = 0xe4;
  JpegDecoder used, fresh;
  ImageSize size;
  DecodeWhole(&used, before, &size);
  CHECK_THROWS(DecodeWhole(&used, without_quantisation, &size), "Quantization table");
  other.progressive = true;  // It has its own Huffman tables.
  DecodeWhole(&used, EncodeJpeg(33, 21, other), &size);
  CHECK(DecodeWhole(&used, without_huffman, &size) == DecodeWhole(&fresh, without_huffman, &size));
}

TEST(damaged_files_never_crash_and_their_regions_are_parts_of_the_full_decode) {
  Random random(6);
  JpegDecoder decoder;
  int decoded = 0;
  for (const Kind& kind : Kinds()) {
    for (int coding = 0; coding < 4; ++coding) {
      JpegOptions options;
      options.stored = kind.stored;
      options.sampling = kind.sampling;
      options.progressive = coding & 1;
      options.restart_blocks = coding & 2;
      const Bytes good = EncodeJpeg(40, 30, options);
      for (int round = 0; round < 60; ++round) {
        Bytes damaged = good;
        Mutate(&random, &damaged);
        Bytes whole;
        ImageSize size = {0, 0};
        Thrown([&] {
          size = decoder.Open(ToSpan(damaged));
          if (int64_t{size.width} * size.height > 1000000) return;
          whole = DecodeWhole(&decoder, damaged, &size);
        });
        if (whole.empty()) continue;
        ++decoded;
        for (int i = 0; i < 3; ++i) {
          const Rect rect = DrawnRect(&random, size.width, size.height);
          CheckRegion(&decoder, damaged, whole, size.width, rect, kind.name);
        }
      }
    }
  }
  CHECK(decoded > 1000);
}

}  // namespace
}  // namespace pretexture
