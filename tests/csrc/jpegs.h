// JPEGs for tests, encoded by libjpeg with any size, sampling, coding and colour space.
#pragma once

#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <utility>
#include <vector>

// jpeglib.h needs the names that cstdio declares.
#include <jpeglib.h>

#include "jpeg.h"
#include "test.h"

namespace pretexture {
namespace test {

struct JpegOptions {
  int quality = 90;
  J_COLOR_SPACE stored = JCS_YCbCr;  // JCS_GRAYSCALE, JCS_YCbCr, JCS_RGB, JCS_CMYK or JCS_YCCK
  // Horizontal and vertical sampling factors, component by component.
  std::vector<std::pair<int, int>> sampling = {{2, 2}, {1, 1}, {1, 1}};
  bool progressive = false;
  bool optimized = false;  // Huffman tables made for the image
  bool arithmetic = false;
  unsigned restart_blocks = 0;
};

// Noise at several scales, so that neighbouring blocks and channels differ.
inline std::vector<uint8_t> TestPixels(int width, int height, int channels) {
  std::vector<uint8_t> pixels(static_cast<size_t>(width) * height * channels);
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      for (int c = 0; c < channels; ++c) {
        uint32_t hash = static_cast<uint32_t>(x * 2654435761u + y * 2246822519u + c * 3266489917u);
        hash = (hash ^ hash >> 15) * 2246822519u;
        const int wave = (x * (c + 1) * 3 + y * (3 - c % 3) * 2) % 160;
        pixels[(static_cast<size_t>(y) * width + x) * channels + c] =
            static_cast<uint8_t>(wave + (hash >> 27) * 3);
      }
    }
  }
  return pixels;
}

inline std::vector<uint8_t> EncodeJpeg(int width, int height, const JpegOptions& options = {}) {
  jpeg_compress_struct info;
  jpeg_error_mgr errors;
  info.err = jpeg_std_error(&errors);  // An error ends the test program.
  jpeg_create_compress(&info);
  unsigned char* memory = nullptr;
  unsigned long size = 0;
  jpeg_mem_dest(&info, &memory, &size);

  const bool grey = options.stored == JCS_GRAYSCALE;
  const bool four = options.stored == JCS_CMYK || options.stored == JCS_YCCK;
  info.image_width = static_cast<JDIMENSION>(width);
  info.image_height = static_cast<JDIMENSION>(height);
  info.input_components = grey ? 1 : four ? 4 : 3;
  info.in_color_space = grey ? JCS_GRAYSCALE : four ? JCS_CMYK : JCS_RGB;
  jpeg_set_defaults(&info);
  jpeg_set_colorspace(&info, options.stored);
  jpeg_set_quality(&info, options.quality, TRUE);
  for (int c = 0; c < info.num_components; ++c) {
    const auto factors = static_cast<size_t>(c) < options.sampling.size()
                             ? options.sampling[static_cast<size_t>(c)]
                             : std::pair<int, int>(1, 1);
    info.comp_info[c].h_samp_factor = grey ? 1 : factors.first;
    info.comp_info[c].v_samp_factor = grey ? 1 : factors.second;
  }
  info.arith_code = options.arithmetic;
  info.optimize_coding = options.optimized;
  info.restart_interval = options.restart_blocks;
  if (options.progressive) jpeg_simple_progression(&info);

  std::vector<uint8_t> pixels = TestPixels(width, height, info.input_components);
  jpeg_start_compress(&info, TRUE);
  for (int y = 0; y < height; ++y) {
    JSAMPROW row = pixels.data() + static_cast<size_t>(y) * width * info.input_components;
    jpeg_write_scanlines(&info, &row, 1);
  }
  jpeg_finish_compress(&info);
  std::vector<uint8_t> data(memory, memory + size);
  std::free(memory);
  jpeg_destroy_compress(&info);
  return data;
}

// The number of codes of each length from 1 to 16 bits, and the symbol of each code. No code may
// consist of ones only.
struct CodeTable {
  std::array<uint8_t, 16> counts{};
  std::vector<uint8_t> symbols;
};

// A JPEG built byte by byte, for files that no encoder writes.
struct CraftedJpeg {
  int width = 8, height = 8;
  std::vector<int> sampling = {0x11};  // of each component: horizontal factor * 16 + vertical one
  int quantizer = 1;                   // of all coefficients
  int restart_blocks = 0;
  CodeTable dc, ac;
  std::vector<uint8_t> codes;
  std::vector<uint8_t> end = {0xff, 0xd9};
};

inline std::vector<uint8_t> PutTogether(const CraftedJpeg& jpeg) {
  std::vector<uint8_t> out;
  const auto append = [&](std::initializer_list<int> bytes) {
    for (const int byte : bytes) out.push_back(static_cast<uint8_t>(byte));
  };
  const auto append_table = [&](int kind, const CodeTable& table) {
    const int size = 19 + static_cast<int>(table.symbols.size());
    append({0xff, 0xc4, size >> 8, size & 255, kind});
    out.insert(out.end(), table.counts.begin(), table.counts.end());
    out.insert(out.end(), table.symbols.begin(), table.symbols.end());
  };
  const int components = static_cast<int>(jpeg.sampling.size());
  append({0xff, 0xd8, 0xff, 0xdb, 0, 67, 0});
  out.insert(out.end(), 64, static_cast<uint8_t>(jpeg.quantizer));
  append({0xff, 0xc0, 0, 8 + 3 * components, 8, jpeg.height >> 8, jpeg.height & 255,
          jpeg.width >> 8, jpeg.width & 255, components});
  for (int c = 0; c < components; ++c) append({c + 1, jpeg.sampling[static_cast<size_t>(c)], 0});
  append_table(0x00, jpeg.dc);
  append_table(0x10, jpeg.ac);
  append({0xff, 0xdd, 0, 4, jpeg.restart_blocks >> 8, jpeg.restart_blocks & 255});
  append({0xff, 0xda, 0, 6 + 2 * components, components});
  for (int c = 0; c < components; ++c) append({c + 1, 0});
  append({0, 63, 0});
  out.insert(out.end(), jpeg.codes.begin(), jpeg.codes.end());
  out.insert(out.end(), jpeg.end.begin(), jpeg.end.end());
  return out;
}

// Writes Huffman codes as the data of a JPEG.
class CodeWriter {
 public:
  void Put(unsigned bits, int count) {
    for (int i = count - 1; i >= 0; --i) {
      byte_ = byte_ << 1 | (bits >> i & 1);
      if (++filled_ < 8) continue;
      codes_.push_back(static_cast<uint8_t>(byte_));
      if ((byte_ & 0xff) == 0xff) codes_.push_back(0);
      filled_ = 0;
    }
  }

  // Writes the code of a table's nth symbol, and random bits as its value.
  void PutSymbol(const CodeTable& table, int n, Random* random) {
    unsigned code = 0;
    int number = 0;
    for (int length = 1; length <= 16; ++length, code <<= 1) {
      const int count = table.counts[static_cast<size_t>(length - 1)];
      if (n < number + count) {
        Put(code + static_cast<unsigned>(n - number), length);
        Put(random->Next(), table.symbols[static_cast<size_t>(n)] & 15);
        return;
      }
      number += count;
      code += static_cast<unsigned>(count);
    }
    std::abort();
  }

  // Fills up the last byte with ones.
  std::vector<uint8_t> Finish() {
    while (filled_ > 0) Put(1, 1);
    return std::move(codes_);
  }

 private:
  std::vector<uint8_t> codes_;
  unsigned byte_ = 0;
  int filled_ = 0;  // bits of it
};

// Sound data with symbols that no encoder writes, because no pixels have such coefficients: AC
// values of up to 15 bits after codes of 16 bits. Some images have mostly such symbols, others few.
inline CraftedJpeg LongSymbols(Random* random) {
  CraftedJpeg jpeg;
  jpeg.width = random->Between(1, 40);
  jpeg.height = random->Between(1, 40);
  jpeg.dc.counts[1] = 3;
  jpeg.dc.symbols = {0, 4, 11};
  // The end of a block, a run of zeros, short symbols, and long ones. Almost all bits form codes,
  // so a decoder that has lost its place does not notice it.
  constexpr int kShort = 16, kLong = 240;
  for (const size_t length : {5, 6, 7, 8}) jpeg.ac.counts[length - 1] = 1;
  jpeg.ac.counts[2] = 3;
  jpeg.ac.counts[3] = 9;
  jpeg.ac.counts[15] = kLong;
  jpeg.ac.symbols = {0x00, 0xf0};
  for (int i = 2; i < kShort; ++i) jpeg.ac.symbols.push_back(static_cast<uint8_t>(1 + i % 5));
  for (int i = 0; i < kLong; ++i) {
    jpeg.ac.symbols.push_back(
        static_cast<uint8_t>(random->Between(0, 3) << 4 | random->Between(9, 15)));
  }
  const int rare = random->Between(1, 100);
  CodeWriter writer;
  for (int block = (jpeg.width + 7) / 8 * ((jpeg.height + 7) / 8); block > 0; --block) {
    writer.PutSymbol(jpeg.dc, random->Between(0, 2), random);
    for (int k = 1; k < 64;) {
      const bool is_long = random->Between(0, rare) <= 1;
      const int n =
          is_long ? kShort + random->Between(0, kLong - 1) : random->Between(0, kShort - 1);
      writer.PutSymbol(jpeg.ac, n, random);
      if (n == 0) break;
      k += 1 + (jpeg.ac.symbols[static_cast<size_t>(n)] >> 4);
    }
  }
  jpeg.codes = writer.Finish();
  return jpeg;
}

// The places of the markers of one kind, such as 0xda for the starts of scans.
inline std::vector<size_t> FindMarkers(const std::vector<uint8_t>& data, uint8_t kind) {
  std::vector<size_t> places;
  for (size_t i = 2; i + 1 < data.size(); ++i) {
    if (data[i] == 0xff && data[i + 1] == kind) places.push_back(i);
  }
  return places;
}

// A random region of an image.
inline Rect DrawnRect(Random* random, int width, int height) {
  Rect rect;
  rect.x0 = random->Between(0, width - 1);
  rect.x1 = random->Between(rect.x0 + 1, width);
  rect.y0 = random->Between(0, height - 1);
  rect.y1 = random->Between(rect.y0 + 1, height);
  return rect;
}

}  // namespace test
}  // namespace pretexture
