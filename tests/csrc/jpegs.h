// JPEGs to test with, encoded by libjpeg: any size, sampling, coding and colour space.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
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

// The place of each marker of one kind among the segments, such as 0xda for the starts of scans.
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
