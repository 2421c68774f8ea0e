#include "decoder.h"

#include <png.h>

#include <algorithm>
#include <string>
#include <vector>

#include "error.h"
#include "jpegs.h"
#include "scratch.h"
#include "shards.h"
#include "test.h"

namespace pretexture {
namespace {

using namespace test;

Bytes EncodePng(int width, int height, bool interlaced) {
  Bytes out;
  png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, nullptr, nullptr, nullptr);
  png_infop info = png_create_info_struct(png);
  png_set_write_fn(
      png, &out,
      [](png_structp p, png_bytep data, size_t size) {
        Append(static_cast<Bytes*>(png_get_io_ptr(p)), Bytes(data, data + size));
      },
      nullptr);
  png_set_IHDR(png, info, static_cast<png_uint_32>(width), static_cast<png_uint_32>(height), 8,
               PNG_COLOR_TYPE_RGB, interlaced ? PNG_INTERLACE_ADAM7 : PNG_INTERLACE_NONE,
               PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
  Bytes pixels = TestPixels(width, height, 3);
  std::vector<png_bytep> rows;
  for (int y = 0; y < height; ++y) rows.push_back(pixels.data() + size_t{3} * y * width);
  png_set_rows(png, info, rows.data());
  png_write_png(png, info, PNG_TRANSFORM_IDENTITY, nullptr);
  png_destroy_write_struct(&png, &info);
  return out;
}

Bytes Decoded(ImageDecoder* decoder, const Bytes& data, const Rect* wanted = nullptr) {
  const ImageSize size = decoder->Open(ToSpan(data));
  const Rect rect = wanted != nullptr ? *wanted : Rect{0, 0, size.width, size.height};
  const Region region = decoder->Decode(rect);
  Bytes pixels;
  for (int y = rect.y0; y < rect.y1; ++y) {
    Append(&pixels, Bytes(region.Row(y), region.Row(y) + size_t{3} * rect.width()));
  }
  return pixels;
}

TEST(data_that_are_not_an_image_are_named) {
  ImageDecoder decoder;
  const auto open = [&](const std::string& text) {
    const Bytes data(text.begin(), text.end());
    decoder.Open(ToSpan(data));
  };
  CHECK_THROWS(open("GIF89a and more"), "neither a JPEG nor a PNG but a GIF");
  CHECK_THROWS(open("RIFF1234WEBPVP8 "), "but a WebP");
  CHECK_THROWS(open("BM and more"), "but a BMP");
  CHECK_THROWS(open(std::string("II*\0 and more", 13)), "but a TIFF");
  CHECK_THROWS(open(std::string("\0\0\0 ftypavif", 12)), "but an AVIF");
  CHECK_THROWS(open(std::string("\0\0\0\x0cjP  \r\n", 10)), "but a JPEG 2000");
  CHECK_THROWS(open("/9j/4AAQSkZJRg"), "base64");
  CHECK_THROWS(open("<html>"), "but unknown bytes");
  CHECK_THROWS(open(""), "but unknown bytes");
  CHECK_THROWS(open("\xff"), "but unknown bytes");
}

TEST(regions_of_a_png_are_its_pixels) {
  ImageDecoder decoder;
  const int width = 23, height = 17;
  const Bytes expected = TestPixels(width, height, 3);
  for (const bool interlaced : {false, true}) {
    const Bytes data = EncodePng(width, height, interlaced);
    CHECK(Decoded(&decoder, data) == expected);
    for (int y0 = 0; y0 < height; y0 += 3) {
      for (int x0 = 0; x0 < width; x0 += 5) {
        const Rect rect{x0, y0, std::min(width, x0 + 7), std::min(height, y0 + 4)};
        Bytes part;
        for (int y = rect.y0; y < rect.y1; ++y) {
          const uint8_t* row = expected.data() + (size_t{3} * y * width) + size_t{3} * x0;
          Append(&part, Bytes(row, row + size_t{3} * rect.width()));
        }
        CHECK(Decoded(&decoder, data, &rect) == part);
      }
    }
  }
  CHECK_EQ(decoder.counts().warnings, uint64_t{0});
}

TEST(a_png_cut_anywhere_is_an_error_and_the_decoder_works_on) {
  ImageDecoder decoder;
  const Bytes good = EncodePng(20, 20, false);
  for (size_t size = 8; size + 12 < good.size(); ++size) {  // up to the chunk that ends the file
    const Bytes cut(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(size));
    CHECK_THROWS(Decoded(&decoder, cut), "the PNG cannot be decoded");
  }
  CHECK(Decoded(&decoder, good) == TestPixels(20, 20, 3));
}

TEST(damaged_pngs_never_crash) {
  ImageDecoder decoder;
  const Bytes good = EncodePng(20, 20, true);
  for (size_t at = 8; at < good.size(); ++at) {
    for (const int bit : {0, 3, 7}) {
      Bytes bad = good;
      bad[at] = static_cast<uint8_t>(bad[at] ^ (1 << bit));
      try {
        Decoded(&decoder, bad);
      } catch (const Error&) {
      }
    }
  }
}

TEST(the_largest_image_is_the_users_choice) {
  for (const Bytes& data : {EncodePng(40, 30, false), EncodeJpeg(40, 30)}) {
    ImageDecoder strict(DecodeOptions{1199, nullptr});
    CHECK_THROWS(strict.Open(ToSpan(data)), "claims 40x30 pixels, more than max_pixels=1199");
    ImageDecoder fair(DecodeOptions{1200, nullptr});
    CHECK_EQ(fair.Open(ToSpan(data)).width, 40);
  }
}

TEST(decoding_ends_when_it_is_told_to) {
  std::atomic<bool> stop{false};
  JpegOptions progressive;
  progressive.progressive = true;
  for (const Bytes& data :
       {EncodePng(64, 64, false), EncodeJpeg(64, 64), EncodeJpeg(64, 64, progressive)}) {
    ImageDecoder decoder(DecodeOptions{1 << 20, &stop});
    stop = false;
    Decoded(&decoder, data);
    stop = true;
    CHECK_THROWS(Decoded(&decoder, data), "decoding was stopped");
  }
}

// Repeats the scan that begins at the last SOS marker `times` more times.
Bytes WithScans(const Bytes& data, int times) {
  const Bytes marker = {0xff, 0xda};
  const auto scan = std::find_end(data.begin(), data.end(), marker.begin(), marker.end());
  Bytes out(data.begin(), scan);
  for (int i = 0; i <= times; ++i) Append(&out, Bytes(scan, data.end() - 2));
  Append(&out, {0xff, 0xd9});
  return out;
}

TEST(the_scans_of_a_progressive_image_are_limited_by_what_they_cost) {
  JpegOptions options;
  options.progressive = true;
  options.sampling = {{1, 1}, {1, 1}, {1, 1}};
  const Bytes data = EncodeJpeg(64, 64, options);
  ImageDecoder decoder(DecodeOptions{64 * 64, nullptr});
  const Bytes whole = Decoded(&decoder, data);
  CHECK(!whole.empty());
  CHECK_THROWS(Decoded(&decoder, WithScans(data, 100)), "64x64 pixels, which would take too long");
  // An image that is small compared with the limit may have more scans.
  ImageDecoder patient(DecodeOptions{64 * 64 * 100, nullptr});
  Decoded(&patient, WithScans(data, 100));
}

TEST(a_large_size_needs_data_behind_it) {
  // One grey component: 8192 x 8192 pixels are 2^20 blocks, each at least a bit.
  JpegOptions options;
  options.stored = JCS_GRAYSCALE;
  options.sampling = {{1, 1}};
  Bytes data = EncodeJpeg(16, 16, options);
  const Bytes marker = {0xff, 0xc0};
  const auto frame = std::search(data.begin(), data.end(), marker.begin(), marker.end());
  const uint8_t size[] = {8192 >> 8, 0, 8192 >> 8, 0};
  std::copy_n(size, 4, frame + 5);
  ImageDecoder decoder;
  CHECK_THROWS(decoder.Open(ToSpan(data)), "8192x8192 pixels, which do not fit into its");
  data.resize((size_t{1} << 20) / 8);
  CHECK_EQ(decoder.Open(ToSpan(data)).height, 8192);
}

TEST(scratch_memory_shrinks_after_an_outlier_and_not_between_equals) {
  Scratch scratch;
  const size_t large = 3 * Scratch::kKept;
  scratch.Get(1000);
  scratch.Settle();
  CHECK(scratch.capacity() >= 1000);
  scratch.Get(large);
  scratch.Settle();
  CHECK_EQ(scratch.capacity(), size_t{0});
  scratch.Get(large);
  scratch.Settle();
  CHECK(scratch.capacity() >= large);
  scratch.Get(large - 1);
  scratch.Settle();
  CHECK(scratch.capacity() >= large);
  scratch.Get(1000);
  scratch.Settle();
  CHECK_EQ(scratch.capacity(), size_t{0});
  scratch.Get(Scratch::kKept / 2);
  scratch.Settle();
  scratch.Get(1);
  scratch.Settle();
  CHECK(scratch.capacity() >= Scratch::kKept / 2);
}

}  // namespace
}  // namespace pretexture
