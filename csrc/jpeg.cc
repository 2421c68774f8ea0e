#include "jpeg.h"

#include <algorithm>
#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "huffman.h"
// Must come after jpeglib.h.
#include <jerror.h>

#include "error.h"
#include "scratch.h"

namespace pretexture {
namespace {

constexpr JDIMENSION kRowsAtOnce = 16;
// A progressive JPEG goes over the whole image in each scan. Sound ones have about ten scans. This
// many are allowed for an image of the largest size, and more for smaller ones.
constexpr uint64_t kMaxScans = 64;
// Images with more pixels than this must have at least as much data as Plausible asks for.
constexpr uint64_t kSmall = uint64_t{1} << 24;

}  // namespace

struct JpegDecoder::State {
  jpeg_error_mgr errors;
  jpeg_decompress_struct info{};
  jpeg_source_mgr source;
  std::jmp_buf jump;
  char message[JMSG_LENGTH_MAX];
  uint64_t warnings = 0;
  uint64_t warnings_before = 0;  // before this image
  Span data{};
  HuffmanDecoder huffman;
  bool gave_up = false;   // whether `huffman` gave up on this image
  uint64_t given_up = 0;  // images
  jpeg_progress_mgr progress{};
  const DecodeOptions options;
  Scratch pixels;
  std::vector<uint8_t> cmyk;

  explicit State(const DecodeOptions& o) : options(o) {}

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

  // libjpeg calls this for each row of MCUs or of pixels.
  static void Progress(j_common_ptr common) {
    State* const state = Of(common);
    const jpeg_decompress_struct& info = state->info;
    const uint64_t scans = static_cast<uint64_t>(std::max(0, info.input_scan_number));
    if (state->options.Stopped()) {
      std::snprintf(state->message, sizeof(state->message), "decoding was stopped");
    } else if (scans * info.image_width * info.image_height >
               kMaxScans * state->options.max_pixels) {
      std::snprintf(state->message, sizeof(state->message),
                    "it has more than %d scans of %ux%u pixels, which would take too long",
                    info.input_scan_number - 1, info.image_width, info.image_height);
    } else {
      return;
    }
    std::longjmp(state->jump, 1);
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

  // A decompressor uses its old tables for images that have none, so the pixels of such an image
  // would depend on the image before it. A new decompressor has no tables, and creating one is
  // fast.
  void Renew() {
    jpeg_destroy_decompress(&info);
    jpeg_create_decompress(&info);
    info.src = &source;
    info.progress = &progress;
  }

  // The functions that begin with Try hold no C++ objects whose destructors a longjmp would
  // skip.
  bool TryOpen() {
    if (setjmp(jump)) return false;
    Renew();
    gave_up = false;
    source.next_input_byte = data.data;
    source.bytes_in_buffer = data.size;
    jpeg_read_header(&info, TRUE);
    info.out_color_space =
        info.jpeg_color_space == JCS_CMYK || info.jpeg_color_space == JCS_YCCK ? JCS_CMYK : JCS_RGB;
    info.dct_method = options.fast_dct ? JDCT_IFAST : JDCT_ISLOW;
    return true;
  }

  // Whether a large image has at least the data that its size needs: one Huffman code, which has at
  // least one bit, for each block of 8 x 8 samples.
  bool Plausible() const {
    if (info.arith_code || uint64_t{info.image_width} * info.image_height <= kSmall) return true;
    const uint64_t mcu_width = uint64_t{8} * info.max_h_samp_factor;
    const uint64_t mcu_height = uint64_t{8} * info.max_v_samp_factor;
    const uint64_t mcus = (info.image_width / mcu_width) * (info.image_height / mcu_height);
    uint64_t blocks = 0;
    for (int c = 0; c < info.num_components; ++c) {
      const jpeg_component_info& component = info.comp_info[c];
      blocks += mcus * component.h_samp_factor * component.v_samp_factor;
    }
    return blocks / 8 <= data.size;
  }

  // If a progressive JPEG lacks scans, libjpeg estimates them from the blocks around each block, so
  // only a full decode gives the pixels of such an image.
  bool LacksScans() const {
    if (info.coef_bits == nullptr) return false;
    for (int c = 0; c < info.num_components; ++c) {
      for (int k = 0; k < DCTSIZE2; ++k) {
        if (info.coef_bits[c][k] != 0) return true;
      }
    }
    return false;
  }

  // Sets `left` and `width` to the columns that libjpeg will decode, which begin with an iMCU.
  bool TryStart(JDIMENSION* left, JDIMENSION* width, JDIMENSION top, RowPoints* rows, bool plain) {
    if (setjmp(jump)) return false;
    jpeg_start_decompress(&info);
    const bool attached = !plain && huffman.Attach(&info, DecodeMcu, GiveUp, rows);
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

  bool TryRead(JSAMPROW* lines, JDIMENSION count) {
    if (setjmp(jump)) return false;
    JDIMENSION done = 0;
    while (done < count) done += jpeg_read_scanlines(&info, lines + done, count - done);
    return true;
  }

  // Returns false if the data are not sound, or if only libjpeg can decode them.
  bool TryFindRows(RowPoints* rows) {
    if (setjmp(jump)) return false;
    if (!HuffmanDecoder::Handles(&info)) return false;
    jpeg_start_decompress(&info);
    if (!huffman.Attach(&info, DecodeMcu, GiveUp, rows)) return false;
    huffman.Finish();
    return true;
  }

  // Returns false if `huffman` gave up.
  bool Decode(Rect rect, RowPoints* rows, bool plain, Region* region);

  [[noreturn]] void Throw() {
    jpeg_abort_decompress(&info);
    throw Error(std::string("the JPEG cannot be decoded: ") + message);
  }
};

JpegDecoder::JpegDecoder(const DecodeOptions& options) : state_(new State(options)) {
  State& s = *state_;
  s.info.err = jpeg_std_error(&s.errors);
  s.info.client_data = &s;
  s.errors.error_exit = State::Fail;
  s.errors.emit_message = State::Emit;
  s.errors.output_message = State::Output;
  s.progress.progress_monitor = State::Progress;
  // This fails only if the library has another version than its header.
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

DecodeCounts JpegDecoder::counts() const {
  return {state_->warnings, state_->huffman.jumps(), state_->huffman.bytes_jumped()};
}
uint64_t JpegDecoder::given_up() const { return state_->given_up; }
void JpegDecoder::Settle() { state_->pixels.Settle(); }

ImageSize JpegDecoder::Open(Span data) {
  State& s = *state_;
  s.data = data;
  s.warnings_before = s.warnings;
  if (!s.TryOpen()) s.Throw();
  s.options.Check("JPEG", s.info.image_width, s.info.image_height);
  if (!s.Plausible()) {
    throw Error("the JPEG claims " + std::to_string(s.info.image_width) + "x" +
                std::to_string(s.info.image_height) + " pixels, which do not fit into its " +
                std::to_string(data.size) + " bytes");
  }
  return {static_cast<int>(s.info.image_width), static_cast<int>(s.info.image_height)};
}

Region JpegDecoder::Decode(Rect rect, RowPoints* rows, bool plain) {
  State& s = *state_;
  Region region;
  if (!s.Decode(rect, rows, plain, &region)) {
    ++s.given_up;
    s.warnings = s.warnings_before;
    if (rows != nullptr) rows->Clear(0);  // The fault may be theirs.
    if (!s.TryOpen()) s.Throw();
    s.Decode(rect, nullptr, true, &region);
  }
  return region;
}

void JpegDecoder::FindRows(RowPoints* rows) {
  if (!state_->TryFindRows(rows)) rows->Clear(0);
  jpeg_abort_decompress(&state_->info);
}

bool JpegDecoder::State::Decode(Rect rect, RowPoints* rows, bool plain, Region* region) {
  const int image_width = static_cast<int>(info.image_width);
  // Without chroma subsampling no pixel depends on its neighbours.
  const int mcu = info.max_h_samp_factor > 1 ? info.max_h_samp_factor * DCTSIZE : 0;
  JDIMENSION left = static_cast<JDIMENSION>(std::max(0, rect.x0 - mcu));
  const int right = std::min(image_width, rect.x1 + mcu);
  JDIMENSION width = static_cast<JDIMENSION>(right) - left;
  if (!TryStart(&left, &width, static_cast<JDIMENSION>(rect.y0), rows, plain)) {
    if (gave_up) return false;
    Throw();
  }

  const size_t stride = size_t{width} * 3;
  const size_t height = static_cast<size_t>(rect.height());
  uint8_t* const out_pixels = pixels.Get(stride * height);
  const bool inks = info.out_color_space == JCS_CMYK;
  if (inks) cmyk.resize(size_t{width} * 4 * kRowsAtOnce);

  JSAMPROW lines[kRowsAtOnce];
  for (size_t y = 0; y < height; y += kRowsAtOnce) {
    const size_t count = std::min<size_t>(kRowsAtOnce, height - y);
    for (size_t i = 0; i < count; ++i) {
      lines[i] = inks ? cmyk.data() + i * width * 4 : out_pixels + (y + i) * stride;
    }
    if (!TryRead(lines, static_cast<JDIMENSION>(count))) {
      if (gave_up) return false;
      Throw();
    }
    if (!inks) continue;
    // Like TensorFlow: Adobe stores CMYK inverted, and the black plane scales the others.
    const bool inverted = info.saw_Adobe_marker;
    for (size_t i = 0; i < count; ++i) {
      const uint8_t* in = lines[i];
      uint8_t* out = out_pixels + (y + i) * stride;
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
  *region = {out_pixels + inset, stride, rect};
  return true;
}

}  // namespace pretexture
