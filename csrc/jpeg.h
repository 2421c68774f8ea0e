// Region decoding with libjpeg-turbo, bit-identical to a full decode and a crop.
//
// jpeg_crop_scanline and jpeg_skip_scanlines skip what a region does not need. Chroma upsampling
// uses neighbouring pixels, so the edge columns of a region would differ from a full decode. One
// more iMCU column on either side makes them the same.
#pragma once

#include <cstdint>
#include <memory>

#include "image.h"
#include "row_points.h"
#include "span.h"

namespace pretexture {

// Keeps its decompressor and its buffer from image to image. Each thread needs its own.
class JpegDecoder {
 public:
  explicit JpegDecoder(const DecodeOptions& options = {});
  ~JpegDecoder();
  JpegDecoder(const JpegDecoder&) = delete;
  JpegDecoder& operator=(const JpegDecoder&) = delete;

  // Reads the header. `data` must begin like a JPEG and must stay valid until Decode returns.
  // Throws Error.
  ImageSize Open(Span data);

  // Decodes `rect` of the opened image. The pixels belong to the decoder and are valid until the
  // next Open or Settle. As in TensorFlow, greyscale, CMYK and YCCK become RGB, the EXIF
  // orientation is ignored, and if a marker ends the data early, the rest of the image is grey and
  // a warning is counted. Throws Error, also if the data end before the region does.
  //
  // `rows`, if it is not null, says where rows of the coded data begin, and is completed by what
  // this decode finds out. The pixels do not depend on it.
  //
  // With `plain`, libjpeg decodes everything, which tests compare with.
  Region Decode(Rect rect, RowPoints* rows = nullptr, bool plain = false);

  // Finds all row points of the opened image, without its pixels. Finds none if its data are not
  // sound, or if it is not a sequential JPEG with one scan.
  void FindRows(RowPoints* rows);

  // Frees the memory that an unusually large image took.
  void Settle();

  DecodeCounts counts() const;

  // Number of images that HuffmanDecoder gave up on, and libjpeg decoded from the start.
  uint64_t given_up() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace pretexture
