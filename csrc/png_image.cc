#include "png_image.h"

#include <png.h>

#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <string>

#include "error.h"
#include "scratch.h"

namespace pretexture {

struct PngDecoder::State {
  explicit State(const DecodeOptions& o) : options(o) {}
  ~State() { End(); }

  const DecodeOptions options;
  png_structp png = nullptr;
  png_infop info = nullptr;
  std::jmp_buf jump;
  char message[256];
  uint64_t warnings = 0;
  Span rest{};  // data that libpng has not read yet
  Scratch pixels;
  png_uint_32 width = 0, height = 0;
  int passes = 1;

  static void Fail(png_structp png, png_const_charp text) {
    State* const state = static_cast<State*>(png_get_error_ptr(png));
    std::snprintf(state->message, sizeof(state->message), "%s", text);
    std::longjmp(state->jump, 1);
  }

  static void Warn(png_structp png, png_const_charp) {
    ++static_cast<State*>(png_get_error_ptr(png))->warnings;
  }

  static void Read(png_structp png, png_bytep out, size_t size) {
    State* const state = static_cast<State*>(png_get_io_ptr(png));
    if (size > state->rest.size) png_error(png, "the data end early");
    std::memcpy(out, state->rest.data, size);
    state->rest.data += size;
    state->rest.size -= size;
  }

  void End() { png_destroy_read_struct(&png, &info, nullptr); }

  // The functions that begin with Try hold no C++ objects whose destructors a longjmp would skip.
  bool TryOpen() {
    if (setjmp(jump)) return false;
    End();
    std::snprintf(message, sizeof(message), "libpng cannot be used");
    png = png_create_read_struct(PNG_LIBPNG_VER_STRING, this, Fail, Warn);
    if (png == nullptr) return false;
    info = png_create_info_struct(png);
    if (info == nullptr) return false;
    png_set_read_fn(png, this, Read);
    png_set_user_limits(png, PNG_UINT_31_MAX, PNG_UINT_31_MAX);  // `options` has its own limits
    // Keeps no text chunks: a few kilobytes each can expand to eight megabytes.
    png_set_chunk_cache_max(png, 1);
    png_read_info(png, info);
    width = png_get_image_width(png, info);
    height = png_get_image_height(png, info);
    return true;
  }

  bool TryStart() {
    if (setjmp(jump)) return false;
    const int color = png_get_color_type(png, info);
    // The same steps as in TensorFlow's core/lib/png/png_io.cc.
    if ((color & PNG_COLOR_MASK_ALPHA) != 0 || png_get_valid(png, info, PNG_INFO_tRNS) != 0) {
      png_set_strip_alpha(png);
    }
    png_set_strip_16(png);
    png_set_packing(png);
    passes = png_set_interlace_handling(png);
    if (color == PNG_COLOR_TYPE_PALETTE) png_set_palette_to_rgb(png);
    if ((color & PNG_COLOR_MASK_COLOR) == 0) {
      if (png_get_bit_depth(png, info) < 8) png_set_expand_gray_1_2_4_to_8(png);
      png_set_gray_to_rgb(png);
    }
    png_read_update_info(png, info);
    if (png_get_rowbytes(png, info) != size_t{width} * 3) {
      png_error(png, "its rows do not become RGB");
    }
    return true;
  }

  // Each pass over an interlaced image goes over all rows, except that the last one ends with the
  // region. An image that is not interlaced has one pass.
  bool TryRead(uint8_t* region, uint8_t* other, png_uint_32 top, png_uint_32 bottom) {
    if (setjmp(jump)) return false;
    const size_t stride = size_t{width} * 3;
    for (int pass = 0; pass < passes; ++pass) {
      const png_uint_32 end = pass + 1 < passes ? height : bottom;
      for (png_uint_32 y = 0; y < end; ++y) {
        if (options.Stopped()) png_error(png, "decoding was stopped");
        png_read_row(png, y >= top && y < bottom ? region + (y - top) * stride : other, nullptr);
      }
    }
    if (bottom == height) png_read_end(png, info);
    return true;
  }

  [[noreturn]] void Throw() {
    End();
    throw Error(std::string("the PNG cannot be decoded: ") + message);
  }
};

PngDecoder::PngDecoder(const DecodeOptions& options) : state_(new State(options)) {}
PngDecoder::~PngDecoder() = default;

uint64_t PngDecoder::warnings() const { return state_->warnings; }
void PngDecoder::Settle() { state_->pixels.Settle(); }

ImageSize PngDecoder::Open(Span data) {
  State& s = *state_;
  s.rest = data;
  if (!s.TryOpen()) s.Throw();
  s.options.Check("PNG", s.width, s.height);
  return {static_cast<int>(s.width), static_cast<int>(s.height)};
}

Region PngDecoder::Decode(Rect rect) {
  State& s = *state_;
  const size_t stride = size_t{s.width} * 3;
  // One more row, for the rows outside the region.
  const size_t rows = static_cast<size_t>(rect.height());
  uint8_t* const pixels = s.pixels.Get(stride * (rows + 1));
  // libpng builds interlaced rows up in place, over what the memory holds.
  std::memset(pixels + stride * rows, 0, stride);
  if (!s.TryStart() || !s.TryRead(pixels, pixels + stride * rows, static_cast<png_uint_32>(rect.y0),
                                  static_cast<png_uint_32>(rect.y1))) {
    s.Throw();
  }
  s.End();
  return {pixels + static_cast<size_t>(rect.x0) * 3, stride, rect};
}

}  // namespace pretexture
