// A JPEG decoded by libjpeg alone, as its documentation describes: all columns, and all rows down
// to the last one of the region.
#pragma once

#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

// jpeglib.h needs the names that cstdio declares.
#include <jpeglib.h>

#include "error.h"
#include "fuzz.h"
#include "image.h"
#include "jpeg.h"

namespace pretexture {
namespace fuzz {

// Images with more pixels, or with more scans than 64 such images, only have to give an error.
constexpr uint64_t kMaxPixels = uint64_t{1} << 14;
constexpr uint64_t kMaxScans = 64;

// Pixels or an error message, and the number of warnings.
struct Decoded {
  Bytes pixels;  // RGB, of the region
  std::string error;
  uint64_t warnings = 0;
};

class ReferenceDecoder {
 public:
  Decoded Decode(const Bytes& data, const RegionChoice& choice) {
    data_ = &data;
    decoded_ = {};
    info_ = {};
    info_.err = jpeg_std_error(&errors_);
    info_.client_data = this;
    errors_.error_exit = [](j_common_ptr info) {
      (*info->err->format_message)(info, Of(info)->message_);
      std::longjmp(Of(info)->jump_, 1);
    };
    errors_.emit_message = [](j_common_ptr info, int level) {
      if (level < 0) ++Of(info)->decoded_.warnings;
    };
    errors_.output_message = [](j_common_ptr) {};
    if (!Run(choice)) {
      decoded_.error = message_;
      decoded_.pixels.clear();
    }
    jpeg_destroy_decompress(&info_);
    return decoded_;
  }

 private:
  template <typename Info>
  static ReferenceDecoder* Of(Info info) {
    return static_cast<ReferenceDecoder*>(info->client_data);
  }

  [[noreturn]] void Stop(const char* why) {
    std::snprintf(message_, sizeof(message_), "%s", why);
    std::longjmp(jump_, 1);
  }

  // Holds no C++ objects whose destructors a longjmp would skip.
  bool Run(const RegionChoice& choice) {
    if (setjmp(jump_)) return false;
    jpeg_create_decompress(&info_);
    source_ = {};
    source_.next_input_byte = data_->data();
    source_.bytes_in_buffer = data_->size();
    source_.init_source = source_.term_source = [](j_decompress_ptr) {};
    source_.fill_input_buffer = [](j_decompress_ptr info) -> boolean {
      Of(info)->Stop("the data end early");
    };
    source_.skip_input_data = [](j_decompress_ptr info, long count) {
      if (count <= 0) return;
      if (static_cast<size_t>(count) > info->src->bytes_in_buffer) {
        Of(info)->Stop("the data end early");
      }
      info->src->next_input_byte += count;
      info->src->bytes_in_buffer -= static_cast<size_t>(count);
    };
    source_.resync_to_restart = jpeg_resync_to_restart;
    info_.src = &source_;
    progress_.progress_monitor = [](j_common_ptr common) {
      const auto* info = reinterpret_cast<j_decompress_ptr>(common);
      if (info->input_scan_number > 0 &&
          static_cast<uint64_t>(info->input_scan_number) * info->image_width * info->image_height >
              kMaxScans * kMaxPixels) {
        Of(common)->Stop("too many scans");
      }
    };
    info_.progress = &progress_;
    jpeg_read_header(&info_, TRUE);
    const bool inks = info_.jpeg_color_space == JCS_CMYK || info_.jpeg_color_space == JCS_YCCK;
    info_.out_color_space = inks ? JCS_CMYK : JCS_RGB;
    if (uint64_t{info_.image_width} * info_.image_height > kMaxPixels) Stop("too many pixels");
    rect_ = choice.Of(static_cast<int>(info_.image_width), static_cast<int>(info_.image_height));
    jpeg_start_decompress(&info_);
    row_.resize(size_t{info_.output_width} * 4);
    decoded_.pixels.reserve(static_cast<size_t>(rect_.width()) * rect_.height() * 3);
    for (int y = 0; y < rect_.y1; ++y) {
      JSAMPROW row = row_.data();
      if (jpeg_read_scanlines(&info_, &row, 1) != 1) Stop("no row");
      if (y >= rect_.y0) Keep(inks);
    }
    return true;
  }

  void Keep(bool inks) {
    for (int x = rect_.x0; x < rect_.x1; ++x) {
      const uint8_t* const in = row_.data() + static_cast<size_t>(x) * (inks ? 4 : 3);
      for (int c = 0; c < 3; ++c) {
        if (!inks) {
          decoded_.pixels.push_back(in[c]);
        } else if (info_.saw_Adobe_marker) {
          decoded_.pixels.push_back(static_cast<uint8_t>(in[3] * in[c] / 255));
        } else {
          decoded_.pixels.push_back(static_cast<uint8_t>((255 - in[3]) * (255 - in[c]) / 255));
        }
      }
    }
  }

  jpeg_error_mgr errors_;
  jpeg_decompress_struct info_;
  jpeg_source_mgr source_;
  jpeg_progress_mgr progress_{};
  std::jmp_buf jump_;
  char message_[JMSG_LENGTH_MAX];
  const Bytes* data_ = nullptr;
  Rect rect_;
  Bytes row_;
  Decoded decoded_;
};

// `rows` as JpegDecoder takes them. With `find`, they are first completed.
inline Decoded DecodeWithOurs(const Bytes& data, const RegionChoice& choice,
                              RowPoints* rows = nullptr, bool find = false) {
  DecodeOptions limits;
  limits.max_pixels = kMaxPixels;
  JpegDecoder decoder(limits);
  Decoded decoded;
  try {
    ImageSize size = decoder.Open({data.data(), data.size()});
    if (find) {
      decoder.FindRows(rows);
      size = decoder.Open({data.data(), data.size()});
    }
    const Rect rect = choice.Of(size.width, size.height);
    const Region region = decoder.Decode(rect, rows);
    for (int y = rect.y0; y < rect.y1; ++y) {
      const uint8_t* row = region.Row(y);
      decoded.pixels.insert(decoded.pixels.end(), row, row + 3 * rect.width());
    }
  } catch (const Error& error) {
    decoded.error = error.what();
  }
  decoded.warnings = decoder.counts().warnings;
  return decoded;
}

// Compares the region of a JPEG that we decode with the same region decoded by libjpeg alone, also
// with the points of the image's rows.
inline void CompareJpeg(const Bytes& data, const RegionChoice& choice) {
  const Decoded ours = DecodeWithOurs(data, choice);
  ReferenceDecoder reference;
  const Decoded theirs = reference.Decode(data, choice);
  if (theirs.error == "too many pixels") {
    Require(ours.error.find("pixels, more than max_pixels=") != std::string::npos,
            "an image that is too large gives '" + ours.error + "'");
  } else if (theirs.error == "too many scans") {
    Require(ours.error.find("scans of") != std::string::npos,
            "an image of too many scans gives '" + ours.error + "'");
  } else {
    const std::string expected =
        theirs.error.empty() ? "" : "the JPEG cannot be decoded: " + theirs.error;
    Require(ours.error == expected, "the error is '" + ours.error + "', not '" + expected + "'");
  }
  Require(ours.warnings == theirs.warnings,
          std::to_string(ours.warnings) + " warnings, not " + std::to_string(theirs.warnings));
  Require(ours.pixels == theirs.pixels, "the pixels differ from libjpeg's");

  RowPoints rows;
  rows.Clear(4096);
  const Decoded with_rows = DecodeWithOurs(data, choice, &rows, true);
  Require(with_rows.error == ours.error, "with known rows the error is '" + with_rows.error + "'");
  Require(with_rows.pixels == theirs.pixels, "with known rows the pixels differ from libjpeg's");
}

}  // namespace fuzz
}  // namespace pretexture
