#include "decoder.h"

#include <string>

#include "error.h"

namespace pretexture {
namespace {

// What the bytes are if they are neither a JPEG nor a PNG.
const char* Kind(Span data) {
  if (data.Has("GIF8", 4)) return "a GIF";
  if (data.Has("BM", 2)) return "a BMP";
  if (data.Has("RIFF", 4) && data.Has("WEBP", 4, 8)) return "a WebP";
  if (data.Has("II*\0", 4) || data.Has("MM\0*", 4)) return "a TIFF";
  if (data.Has("ftypavif", 8, 4)) return "an AVIF";
  if (data.Has("ftyphei", 7, 4)) return "a HEIC";
  if (data.Has("jP  ", 4, 4) || data.Has("\xff\x4f\xff\x51", 4)) return "a JPEG 2000";
  if (data.Has("\xff\x0a", 2) || data.Has("JXL ", 4, 4)) return "a JPEG XL";
  if (data.Has("/9j/", 4)) return "base64 text of a JPEG; decode it before you write the record";
  return "unknown bytes";
}

}  // namespace

void DecodeOptions::Check(const char* kind, uint64_t width, uint64_t height) const {
  if (width * height <= max_pixels) return;  // Both have at most 32 bits.
  throw Error(std::string("the ") + kind + " claims " + std::to_string(width) + "x" +
              std::to_string(height) +
              " pixels, more than max_pixels=" + std::to_string(max_pixels));
}

ImageSize ImageDecoder::Open(Span data) {
  is_png_ = data.Has("\x89PNG\r\n\x1a\n", 8);
  if (is_png_) return png_.Open(data);
  if (data.Has("\xff\xd8\xff", 3)) return jpeg_.Open(data);
  throw Error(std::string("the image is neither a JPEG nor a PNG but ") + Kind(data));
}

Region ImageDecoder::Decode(Rect rect, RowPoints* rows, bool plain) {
  return is_png_ ? png_.Decode(rect) : jpeg_.Decode(rect, rows, plain);
}

void ImageDecoder::FindRows(RowPoints* rows) {
  if (is_png_) {
    rows->Clear(0);
  } else {
    jpeg_.FindRows(rows);
  }
}

void ImageDecoder::Settle() {
  jpeg_.Settle();
  png_.Settle();
}

}  // namespace pretexture
