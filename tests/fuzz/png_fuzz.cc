// PNG files: a region decoded by us, compared with libpng's high-level reader.
//
// The input is a file followed by five bytes that choose the region.
#include <png.h>
#include <zlib.h>

#include <csetjmp>
#include <cstring>

#include "decoder.h"
#include "error.h"
#include "fuzz.h"

namespace pretexture {
namespace fuzz {
namespace {

constexpr uint64_t kMaxPixels = uint64_t{1} << 14;

class Reference {
 public:
  // Decodes the whole image. Returns false and sets `error` if libpng refuses it.
  bool Decode(const Bytes& data) {
    data_ = &data;
    png_ = png_create_read_struct(
        PNG_LIBPNG_VER_STRING, this,
        [](png_structp png, png_const_charp text) {
          auto* self = static_cast<Reference*>(png_get_error_ptr(png));
          self->error = text;
          std::longjmp(self->jump_, 1);
        },
        [](png_structp png, png_const_charp) {
          ++static_cast<Reference*>(png_get_error_ptr(png))->warnings;
        });
    info_ = png_create_info_struct(png_);
    const bool good = Run();
    png_destroy_read_struct(&png_, &info_, nullptr);
    return good;
  }

  Bytes pixels;  // RGB
  size_t width = 0, height = 0;
  std::string error;
  uint64_t warnings = 0;

 private:
  // Holds no C++ objects whose destructors a longjmp would skip.
  bool Run() {
    if (setjmp(jump_)) return false;
    png_set_read_fn(png_, this, [](png_structp png, png_bytep out, size_t size) {
      auto* self = static_cast<Reference*>(png_get_io_ptr(png));
      if (size > self->data_->size() - self->at_) png_error(png, "the data end early");
      std::memcpy(out, self->data_->data() + self->at_, size);
      self->at_ += size;
    });
    png_set_user_limits(png_, 1u << 16, 1u << 16);
    png_set_chunk_cache_max(png_, 1);
    png_read_png(png_, info_,
                 PNG_TRANSFORM_EXPAND | PNG_TRANSFORM_STRIP_16 | PNG_TRANSFORM_STRIP_ALPHA |
                     PNG_TRANSFORM_PACKING | PNG_TRANSFORM_GRAY_TO_RGB,
                 nullptr);
    width = png_get_image_width(png_, info_);
    height = png_get_image_height(png_, info_);
    png_bytepp rows = png_get_rows(png_, info_);
    for (size_t y = 0; y < height; ++y) pixels.insert(pixels.end(), rows[y], rows[y] + 3 * width);
    return true;
  }

  const Bytes* data_ = nullptr;
  size_t at_ = 0;
  png_structp png_ = nullptr;
  png_infop info_ = nullptr;
  std::jmp_buf jump_;
};

void Compare(const Bytes& data, const RegionChoice& choice) {
  DecodeOptions limits;
  limits.max_pixels = kMaxPixels;
  PngDecoder decoder(limits);
  std::string error;
  Bytes pixels;
  Rect rect;
  ImageSize size{0, 0};
  try {
    size = decoder.Open({data.data(), data.size()});
    rect = choice.Of(size.width, size.height);
    const Region region = decoder.Decode(rect);
    for (int y = rect.y0; y < rect.y1; ++y) {
      const uint8_t* row = region.Row(y);
      pixels.insert(pixels.end(), row, row + 3 * rect.width());
    }
  } catch (const Error& thrown) {
    error = thrown.what();
  }
  if (size.width == 0) return;  // Its header is refused, or it is too large for this target.
  Reference reference;
  const bool good = reference.Decode(data);
  // Rows below the region are not read.
  const bool whole = rect.y1 == size.height;
  if (!good && !whole && error.empty()) return;
  Require(error.empty() == good, good ? error : "libpng says '" + reference.error + "'");
  if (whole) {
    Require(decoder.warnings() == reference.warnings, std::to_string(decoder.warnings()) +
                                                          " warnings, not " +
                                                          std::to_string(reference.warnings));
  }
  if (!good) return;
  Bytes expected;
  for (int y = rect.y0; y < rect.y1; ++y) {
    const auto row =
        reference.pixels.begin() + static_cast<std::ptrdiff_t>((y * reference.width + rect.x0) * 3);
    expected.insert(expected.end(), row, row + 3 * rect.width());
  }
  Require(pixels == expected, "the pixels differ from libpng's");
}

}  // namespace
}  // namespace fuzz
}  // namespace pretexture

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

// A mutation that usually gets correct checksums, which no mutation would find by chance.
extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned seed) {
  size = LLVMFuzzerMutate(data, size, max_size);
  if (seed % 8 == 0) return size;
  for (size_t at = 8; at + 12 <= size;) {
    size_t length = 0;
    for (size_t i = 0; i < 4; ++i) length = length << 8 | data[at + i];
    if (length > size - at - 12) break;
    const unsigned long crc = crc32(0, data + at + 4, static_cast<unsigned>(length + 4));
    for (size_t i = 0; i < 4; ++i) {
      data[at + 8 + length + i] = static_cast<uint8_t>(crc >> (24 - 8 * i));
    }
    at += length + 12;
  }
  return size;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pretexture::fuzz;
  Choices choices(data, size);
  const RegionChoice region = ChooseRegion(&choices);
  Compare(choices.Rest(), region);
  return 0;
}
