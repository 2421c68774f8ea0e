#include "jpeg.h"

#include <algorithm>
#include <csetjmp>
#include <cstdio>
#include <cstring>

#include "huffman.h"
// Behind jpeglib.h.
#include <jerror.h>

#include "error.h"

namespace pretexture {
namespace {

constexpr uint64_t kMaxPixels = uint64_t{1} << 28;
constexpr JDIMENSION kRowsAtOnce = 16;

// What the bytes are if they are not a JPEG.
std::string NotJpeg(Span data) {
  const auto starts = [&](const char* magic, size_t size, size_t at = 0) {
    return data.size >= at + size && std::memcmp(data.data + at, magic, size) == 0;
  };
  const char* kind = "unknown bytes";
  if (starts("\x89PNG", 4)) kind = "a PNG";
  if (starts("GIF8", 4)) kind = "a GIF";
  if (starts("BM", 2)) kind = "a BMP";
  if (starts("WEBP", 4, 8)) kind = "a WebP";
  return std::string("the image is not a JPEG but ") + kind;
}

}  // namespace

struct JpegDecoder::State {
  // First, so that a j_common_ptr's `err` leads back to the whole.
  jpeg_error_mgr errors;
  jpeg_decompress_struct info{};
  jpeg_source_mgr source;
  std::jmp_buf jump;
  char message[JMSG_LENGTH_MAX];
  uint64_t warnings = 0;
  uint64_t warnings_before = 0;  // this image
  Span data{};
  HuffmanDecoder huffman;
  bool gave_up = false;   // it did
  uint64_t given_up = 0;  // images
  std::vector<uint8_t> pixels;
  std::vector<uint8_t> cmyk;

  static State* Of(j_common_ptr info) { return static_cast<State*>(info->client_data); }
  static State* Of(j_decompress_ptr info) { return static_cast<State*>(info->client_data); }

  static void Fail(j_common_ptr info) {
    State* const state = Of(info);
    (*info->err->format_message)(info, state->message);
    std::longjmp(state->jump, 1);
  }

  static void Emit(j_common_ptr info, int level) {
    if (level < 0) ++Of(info)->warnings;
  }

  static boolean DecodeMcu(j_decompress_ptr info, JBLOCKROW* blocks) {
    Of(info)->huffman.Decode(blocks);
    return TRUE;
  }

  static void GiveUp(j_decompress_ptr info) {
    State* const state = Of(info);
    state->gave_up = true;
    std::longjmp(state->jump, 1);
  }

  static void Output(j_common_ptr) {}
  static void InitSource(j_decompress_ptr) {}
  static void TermSource(j_decompress_ptr) {}

  static boolean Fill(j_decompress_ptr info) {
    State* const state = Of(info);
    std::snprintf(state->message, sizeof(state->message), "the data end early");
    std::longjmp(state->jump, 1);
  }

  static void SkipInput(j_decompress_ptr info, long count) {
    if (count <= 0) return;
    if (static_cast<size_t>(count) > info->src->bytes_in_buffer) Fill(info);
    info->src->next_input_byte += count;
    info->src->bytes_in_buffer -= static_cast<size_t>(count);
  }

  // A decompressor keeps its tables for images that come without, so that what such an image
  // becomes would depend on the one before. A new one has none, and is made in no time.
  void Renew() {
    jpeg_destroy_decompress(&info);
    jpeg_create_decompress(&info);
    info.src = &source;
  }

  // The three stages below hold no C++ objects that a longjmp could skip.
  bool TryOpen() {
    if (setjmp(jump)) return false;
    Renew();
    gave_up = false;
    source.next_input_byte = data.data;
    source.bytes_in_buffer = data.size;
    jpeg_read_header(&info, TRUE);
    info.out_color_space =
        info.jpeg_color_space == JCS_CMYK || info.jpeg_color_space == JCS_YCCK ? JCS_CMYK : JCS_RGB;
    return true;
  }

  // Of a progressive JPEG that lacks scans, libjpeg estimates what they would hold from blocks all
  // around: only a full decode gives such an image's pixels.
  bool LacksScans() const {
    if (info.coef_bits == nullptr) return false;
    for (int c = 0; c < info.num_components; ++c) {
      for (int k = 0; k < DCTSIZE2; ++k) {
        if (info.coef_bits[c][k] != 0) return true;
      }
    }
    return false;
  }

  // Makes `left` and `width` what libjpeg will give: from the iMCU column at or before `left`.
  bool TryStart(JDIMENSION* left, JDIMENSION* width, JDIMENSION top, bool plain) {
    if (setjmp(jump)) return false;
    jpeg_start_decompress(&info);
    const bool attached = !plain && huffman.Attach(&info, DecodeMcu, GiveUp);
    if (LacksScans()) {
      *left = 0;
      *width = info.output_width;
    } else if (*width < info.output_width) {
      jpeg_crop_scanline(&info, left, width);
      if (attached) {
        const JDIMENSION mcu = DCTSIZE * (info.comps_in_scan > 1 ? info.max_h_samp_factor : 1);
        huffman.Want(*left / mcu, (*left + *width + mcu - 1) / mcu);
      }
    }
    if (top > 0) jpeg_skip_scanlines(&info, top);
    return true;
  }

  bool TryRead(JSAMPROW* rows, JDIMENSION count) {
    if (setjmp(jump)) return false;
    JDIMENSION done = 0;
    while (done < count) done += jpeg_read_scanlines(&info, rows + done, count - done);
    return true;
  }

  // False where `huffman` gave up.
  bool Decode(Rect rect, bool plain, Region* region);

  [[noreturn]] void Throw() {
    jpeg_abort_decompress(&info);
    throw Error(std::string("the JPEG cannot be decoded: ") + message);
  }
};

JpegDecoder::JpegDecoder() : state_(new State) {
  State& s = *state_;
  s.info.err = jpeg_std_error(&s.errors);
  s.info.client_data = &s;
  s.errors.error_exit = State::Fail;
  s.errors.emit_message = State::Emit;
  s.errors.output_message = State::Output;
  // The only failure here is a library of another version than the header's.
  if (setjmp(s.jump)) throw Error(std::string("libjpeg cannot be used: ") + s.message);
  s.Renew();
  s.source = {};
  s.source.init_source = State::InitSource;
  s.source.fill_input_buffer = State::Fill;
  s.source.skip_input_data = State::SkipInput;
  s.source.resync_to_restart = jpeg_resync_to_restart;
  s.source.term_source = State::TermSource;
}

JpegDecoder::~JpegDecoder() { jpeg_destroy_decompress(&state_->info); }

uint64_t JpegDecoder::warnings() const { return state_->warnings; }
uint64_t JpegDecoder::given_up() const { return state_->given_up; }

JpegDecoder::Size JpegDecoder::Open(Span data) {
  State& s = *state_;
  if (data.size < 3 || data.data[0] != 0xff || data.data[1] != 0xd8 || data.data[2] != 0xff) {
    throw Error(NotJpeg(data));
  }
  s.data = data;
  s.warnings_before = s.warnings;
  if (!s.TryOpen()) s.Throw();
  if (uint64_t{s.info.image_width} * s.info.image_height > kMaxPixels) {
    throw Error("the JPEG claims " + std::to_string(s.info.image_width) + "x" +
                std::to_string(s.info.image_height) + " pixels, more than 2^28");
  }
  return {static_cast<int>(s.info.image_width), static_cast<int>(s.info.image_height)};
}

Region JpegDecoder::Decode(Rect rect, bool plain) {
  State& s = *state_;
  Region region;
  if (!s.Decode(rect, plain, &region)) {
    ++s.given_up;
    s.warnings = s.warnings_before;
    if (!s.TryOpen()) s.Throw();
    s.Decode(rect, true, &region);
  }
  return region;
}

bool JpegDecoder::State::Decode(Rect rect, bool plain, Region* region) {
  const int image_width = static_cast<int>(info.image_width);
  // Without chroma subsampling no pixel depends on its neighbours.
  const int mcu = info.max_h_samp_factor > 1 ? info.max_h_samp_factor * DCTSIZE : 0;
  JDIMENSION left = static_cast<JDIMENSION>(std::max(0, rect.x0 - mcu));
  const int right = std::min(image_width, rect.x1 + mcu);
  JDIMENSION width = static_cast<JDIMENSION>(right) - left;
  if (!TryStart(&left, &width, static_cast<JDIMENSION>(rect.y0), plain)) {
    if (gave_up) return false;
    Throw();
  }

  const size_t stride = size_t{width} * 3;
  const size_t height = static_cast<size_t>(rect.height());
  if (pixels.size() < stride * height) pixels.resize(stride * height);
  const bool inks = info.out_color_space == JCS_CMYK;
  if (inks) cmyk.resize(size_t{width} * 4 * kRowsAtOnce);

  JSAMPROW rows[kRowsAtOnce];
  for (size_t y = 0; y < height; y += kRowsAtOnce) {
    const size_t count = std::min<size_t>(kRowsAtOnce, height - y);
    for (size_t i = 0; i < count; ++i) {
      rows[i] = inks ? cmyk.data() + i * width * 4 : pixels.data() + (y + i) * stride;
    }
    if (!TryRead(rows, static_cast<JDIMENSION>(count))) {
      if (gave_up) return false;
      Throw();
    }
    if (!inks) continue;
    // As TensorFlow does: Adobe writes CMYK inverted, and the black plane scales the others.
    const bool inverted = info.saw_Adobe_marker;
    for (size_t i = 0; i < count; ++i) {
      const uint8_t* in = rows[i];
      uint8_t* out = pixels.data() + (y + i) * stride;
      for (size_t x = 0; x < width; ++x, in += 4, out += 3) {
        const int k = inverted ? in[3] : 255 - in[3];
        for (int c = 0; c < 3; ++c) {
          out[c] = static_cast<uint8_t>(k * (inverted ? in[c] : 255 - in[c]) / 255);
        }
      }
    }
  }
  jpeg_abort_decompress(&info);
  const size_t inset = static_cast<size_t>(rect.x0 - static_cast<int>(left)) * 3;
  *region = {pixels.data() + inset, stride, rect};
  return true;
}

}  // namespace pretexture
