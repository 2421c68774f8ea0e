// The operations that a pipeline is made of, with the names and fields of the dataclasses in
// loader/language/ops.py. To add one: its struct here, and its name in `Op` at the end.
//
// Each operation has
//   kName    the name of its dataclass;
//   Fields   the names of the dataclass's fields, with the members that they are read into;
//   Draw     what it does to the views of an image.
// `stream` numbers the sequence of random numbers that an operation draws from;
// loader/epoch/draws.py says which numbers it uses for what.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <string>
#include <tuple>
#include <utility>
#include <variant>
#include <vector>

#include "error.h"
#include "philox.h"
#include "view.h"

namespace pretexture {

// The views of an image and their labels, between two operations.
struct Drawing {
  const Draws& draws;
  std::vector<View>* views;
  std::vector<int32_t>* labels;
  size_t cells = 1;  // patches that the last `Patches` cut each view into

  // Calls `change` with the number of each view and the view.
  template <typename Change>
  void Each(Change change) {
    for (size_t v = 0; v < views->size(); ++v) change(static_cast<uint32_t>(v), &(*views)[v]);
  }

  // Replaces each view by n copies of it. `make(number, i, copy)` completes copy i of a view, which
  // is number `number` of all the copies.
  template <typename Make>
  void Split(int n, Make make) {
    std::vector<View> result;
    result.reserve(views->size() * static_cast<size_t>(n));
    for (size_t v = 0; v < views->size(); ++v) {
      for (int i = 0; i < n; ++i) {
        result.push_back((*views)[v]);
        make(static_cast<uint32_t>(v) * static_cast<uint32_t>(n) + static_cast<uint32_t>(i), i,
             &result.back());
      }
    }
    views->swap(result);
  }

  // Replaces the patches of each image by some of them. `choose(label, patches)` appends their
  // numbers; the label is one of `labels_of_image`, drawn if `random` and otherwise the record
  // number modulo their number.
  template <typename Choose>
  void Arrange(uint32_t stream, bool random, size_t labels_of_image, Choose choose) {
    std::vector<View> result;
    std::vector<size_t> patches;
    const auto count = static_cast<uint32_t>(labels_of_image);
    for (size_t group = 0; group < views->size() / cells; ++group) {
      const auto number = static_cast<uint32_t>(group);
      const uint32_t label = random ? Below(draws.Block(stream, number)[0], count)  //
                                    : draws.record % count;
      labels->push_back(static_cast<int32_t>(label));
      patches.clear();
      choose(label, &patches);
      for (const size_t patch : patches) result.push_back((*views)[group * cells + patch]);
    }
    views->swap(result);
  }
};

namespace op {

template <typename Member>
constexpr auto Field(const char* name, Member member) {
  return std::make_pair(name, member);
}

struct Views {
  static constexpr const char* kName = "Views";
  static constexpr auto Fields() {
    return std::make_tuple(Field("stream", &Views::stream), Field("n", &Views::n));
  }
  uint32_t stream;
  int n;

  void Draw(Drawing* drawing) const {
    drawing->Split(n, [](uint32_t, int, View*) {});
  }
};

struct Resize {
  static constexpr const char* kName = "Resize";
  static constexpr auto Fields() {
    return std::make_tuple(Field("stream", &Resize::stream), Field("height", &Resize::height),
                           Field("width", &Resize::width), Field("method", &Resize::method),
                           Field("coords", &Resize::coords), Field("antialias", &Resize::antialias),
                           Field("randomize", &Resize::randomize));
  }
  uint32_t stream;
  int height, width;
  Method method;
  Coords coords;
  bool antialias;
  bool randomize;

  void Draw(Drawing* drawing) const {
    drawing->Each([&](uint32_t v, View* view) {
      Method drawn = method;
      if (randomize) drawn = static_cast<Method>(Below(drawing->draws.Block(stream, v)[0], 4));
      view->Resize(height, width, {drawn, coords, antialias});
    });
  }
};

struct ResizeSmall {
  static constexpr const char* kName = "ResizeSmall";
  static constexpr auto Fields() {
    return std::make_tuple(Field("stream", &ResizeSmall::stream),
                           Field("size", &ResizeSmall::size));
  }
  uint32_t stream;
  int size;

  void Draw(Drawing* drawing) const {
    drawing->Each([&](uint32_t, View* view) {
      const int height = view->row.count, width = view->column.count;
      const int smaller = std::min(height, width);
      view->Resize(Side(height, smaller), Side(width, smaller),
                   {Method::kArea, Coords::kHalfPixel, false});
    });
  }

 private:
  // round(side * size / smaller), ties to even.
  int Side(int side, int smaller) const {
    const int64_t product = int64_t{side} * size;
    int64_t quotient = product / smaller;
    const int64_t twice = 2 * (product % smaller);
    if (twice > smaller || (twice == smaller && quotient % 2 == 1)) ++quotient;
    if (quotient > (1 << 24)) throw Error("the image is too narrow to be resized");
    return static_cast<int>(std::max<int64_t>(quotient, 1));
  }
};

struct Crop {
  static constexpr const char* kName = "Crop";
  static constexpr auto Fields() {
    return std::make_tuple(Field("stream", &Crop::stream), Field("height", &Crop::height),
                           Field("width", &Crop::width), Field("random", &Crop::random));
  }
  uint32_t stream;
  int height, width;
  bool random;

  void Draw(Drawing* drawing) const {
    drawing->Each([&](uint32_t v, View* view) {
      const int down = view->row.count - height, across = view->column.count - width;
      if (down < 0 || across < 0) {
        throw Error("a crop of " + std::to_string(height) + "x" + std::to_string(width) +
                    " does not fit in " + std::to_string(view->row.count) + "x" +
                    std::to_string(view->column.count) + " pixels");
      }
      int top = down / 2, left = across / 2;
      if (random) {
        const Words w = drawing->draws.Block(stream, v);
        top = static_cast<int>(Below(w[0], static_cast<uint32_t>(down + 1)));
        left = static_cast<int>(Below(w[1], static_cast<uint32_t>(across + 1)));
      }
      view->Crop(top, left, height, width);
    });
  }
};

// Like TensorFlow's sample_distorted_bounding_box, with the whole image as the object.
struct InceptionCrop {
  static constexpr const char* kName = "InceptionCrop";
  static constexpr auto Fields() {
    return std::make_tuple(Field("stream", &InceptionCrop::stream),
                           Field("area", &InceptionCrop::area),
                           Field("aspect", &InceptionCrop::aspect),
                           Field("last_position", &InceptionCrop::last_position));
  }
  uint32_t stream;
  std::array<double, 2> area, aspect;
  bool last_position;

  void Draw(Drawing* drawing) const {
    drawing->Each([&](uint32_t v, View* view) { Cut(drawing->draws, v, view); });
  }

 private:
  void Cut(const Draws& draws, uint32_t number, View* view) const {
    const int height = view->row.count, width = view->column.count;
    const double pixels = double(height) * width;
    const double smallest = area[0] * pixels, largest = area[1] * pixels;
    for (uint32_t attempt = 0; attempt < 100; ++attempt) {
      const Words w = draws.Block(stream, number, attempt);
      const double ratio = aspect[0] + (aspect[1] - aspect[0]) * Uniform(w[0]);
      double low = std::nearbyint(std::sqrt(smallest / ratio));
      double high = std::nearbyint(std::sqrt(largest / ratio));
      if (std::nearbyint(high * ratio) > width) {
        high = std::trunc((width + 0.5 - 1e-7) / ratio);
        if (std::nearbyint(high * ratio) > width) high -= 1;
      }
      high = std::min(high, double(height));
      low = std::min(low, high);
      const double h = low + Below(w[1], static_cast<uint32_t>(high - low + 1));
      const double wide = std::nearbyint(h * ratio);
      const double covered = h * wide;
      if (h < 1 || wide < 1 || wide > width || covered < smallest || covered > largest) continue;
      if (covered < 0.1 * pixels) continue;
      const int rows = static_cast<int>(h), columns = static_cast<int>(wide);
      const auto position = [&](uint32_t word, int room) {
        const int positions = last_position ? room + 1 : std::max(1, room);
        return static_cast<int>(Below(word, static_cast<uint32_t>(positions)));
      };
      view->Crop(position(w[2], height - rows), position(w[3], width - columns), rows, columns);
      return;
    }
  }
};

struct CentralFraction {
  static constexpr const char* kName = "CentralFraction";
  static constexpr auto Fields() {
    return std::make_tuple(Field("stream", &CentralFraction::stream),
                           Field("fraction", &CentralFraction::fraction));
  }
  uint32_t stream;
  double fraction;

  void Draw(Drawing* drawing) const {
    drawing->Each([&](uint32_t, View* view) {
      const int height = view->row.count, width = view->column.count;
      const int top = static_cast<int>(height * (1 - fraction) / 2);
      const int left = static_cast<int>(width * (1 - fraction) / 2);
      view->Crop(top, left, height - 2 * top, width - 2 * left);
    });
  }
};

struct Flip {
  static constexpr const char* kName = "Flip";
  static constexpr auto Fields() { return std::make_tuple(Field("stream", &Flip::stream)); }
  uint32_t stream;

  void Draw(Drawing* drawing) const {
    drawing->Each([&](uint32_t v, View* view) {
      if (Uniform(drawing->draws.Block(stream, v)[0]) < 0.5) view->column.Flip();
    });
  }
};

// torchvision's weights of the luma are rounded, so it is not quite 1 where all channels are 1.
constexpr float kLumaWeights[3] = {0.2989f, 0.587f, 0.114f};
constexpr float kLumaOfGray = 0.9999f;

struct Gray {
  static constexpr const char* kName = "Gray";
  static constexpr auto Fields() {
    return std::make_tuple(Field("stream", &Gray::stream), Field("probability", &Gray::probability),
                           Field("wrap", &Gray::wrap), Field("luma", &Gray::luma));
  }
  uint32_t stream;
  double probability;
  bool wrap;
  bool luma = false;

  void Draw(Drawing* drawing) const {
    drawing->Each([&](uint32_t v, View* view) {
      if (Uniform(drawing->draws.Block(stream, v)[0]) >= probability) return;
      ColorChange change{Paint};
      change.makes_gray = true;
      change.order = luma ? kLuma : kMean;
      view->colors.push_back(change);
      view->wrapped_gray |= wrap;
    });
  }

  // Values of `ColorChange::order`.
  enum { kMean, kLuma };

 private:
  static void Paint(const ColorChange& change, const Kernels& kernels, const Strip& strip,
                    const Means&) {
    const auto [r, g, b] = strip.planes;
    if (!strip.gray()) {
      (change.order == kLuma ? kernels.luma : kernels.mean)(r, g, b, strip.n);
    } else if (change.order == kLuma) {
      kernels.contrast(r, strip.n, 0, kLumaOfGray);
    }
  }
};

// The colour distortion of the published Inception preprocessing.
struct Distort {
  static constexpr const char* kName = "Distort";
  static constexpr auto Fields() {
    return std::make_tuple(Field("stream", &Distort::stream), Field("fast", &Distort::fast));
  }
  uint32_t stream;
  bool fast;

  void Draw(Drawing* drawing) const {
    drawing->Each([&](uint32_t v, View* view) {
      const Words w = drawing->draws.Block(stream, v);
      std::array<float, 4> amounts{};
      amounts[kBrightness] = static_cast<float>((2 * Uniform(w[1]) - 1) * 32);
      amounts[kSaturation] = static_cast<float>(0.5 + Uniform(w[2]));
      if (fast) {
        ColorChange change{PaintFast};
        change.order = Uniform(w[0]) < 0.25 ? 0 : 1;
        change.amounts = amounts;
        view->colors.push_back(change);
        return;
      }
      const double contrast = 0.5 + Uniform(drawing->draws.Block(stream, v, 1)[0]);
      amounts[kHue] = static_cast<float>((2 * Uniform(w[3]) - 1) * 0.2);
      amounts[kContrast] = static_cast<float>(contrast);
      for (const Part part : kOrders[Below(w[0], 4)]) {
        ColorChange change{PaintPart};
        change.order = part;
        change.amounts[0] = amounts[part];
        // Contrast moves each value away from the mean of its channel.
        if (part == kContrast) change.needs = Needs::kMeans;
        view->colors.push_back(change);
      }
      view->colors.push_back({Clip});
    });
  }

  static void Clip(const ColorChange&, const Kernels& kernels, const Strip& strip, const Means&) {
    strip.Each([&](float* plane) { kernels.clip(plane, strip.n); });
  }

 private:
  enum Part { kBrightness, kSaturation, kHue, kContrast };
  static constexpr Part kOrders[4][4] = {{kBrightness, kSaturation, kHue, kContrast},
                                         {kSaturation, kBrightness, kContrast, kHue},
                                         {kContrast, kHue, kBrightness, kSaturation},
                                         {kHue, kSaturation, kContrast, kBrightness}};

  static void PaintFast(const ColorChange& change, const Kernels& kernels, const Strip& strip,
                        const Means& means) {
    const auto [r, g, b] = strip.planes;
    const float delta = change.amounts[kBrightness];
    if (strip.gray()) {
      kernels.brightness(r, strip.n, delta);  // saturation leaves grey as it is
      Clip(change, kernels, strip, means);
      return;
    }
    kernels.distort(r, g, b, strip.n, delta, change.amounts[kSaturation], change.order == 0);
  }

  static void PaintPart(const ColorChange& change, const Kernels& kernels, const Strip& strip,
                        const Means& means) {
    const auto [r, g, b] = strip.planes;
    const float amount = change.amounts[0];
    switch (static_cast<Part>(change.order)) {
      case kBrightness:
        strip.Each([&](float* plane) { kernels.brightness(plane, strip.n, amount); });
        break;
      case kSaturation:  // leaves grey as it is, and so does hue
        if (!strip.gray()) kernels.saturation(r, g, b, strip.n, amount);
        break;
      case kHue:
        if (!strip.gray()) kernels.hue(r, g, b, strip.n, amount);
        break;
      case kContrast:
        for (size_t c = 0; c < strip.distinct(); ++c) {
          kernels.contrast(strip.planes[c], strip.n, means[c], amount);
        }
        break;
    }
  }
};

// torchvision's ColorJitter: brightness, contrast, saturation and hue in random order, each
// clipped.
struct ColorJitter {
  static constexpr const char* kName = "ColorJitter";
  static constexpr auto Fields() {
    return std::make_tuple(
        Field("stream", &ColorJitter::stream), Field("brightness", &ColorJitter::brightness),
        Field("contrast", &ColorJitter::contrast), Field("saturation", &ColorJitter::saturation),
        Field("hue", &ColorJitter::hue), Field("probability", &ColorJitter::probability));
  }
  uint32_t stream;
  std::array<double, 2> brightness, contrast, saturation, hue;
  double probability;

  void Draw(Drawing* drawing) const {
    drawing->Each([&](uint32_t v, View* view) {
      const Words w = drawing->draws.Block(stream, v);
      if (Uniform(w[0]) >= probability) return;
      const Words amounts = drawing->draws.Block(stream, v, 1);
      uint32_t rest = Below(w[1], 24);
      std::array<Part, 4> parts = {kBrightness, kContrast, kSaturation, kHue};
      for (size_t i = 0; i < 4; ++i) {
        // The digits of the permutation's number say which of the parts that are left comes next.
        constexpr uint32_t kFactorials[] = {6, 2, 1, 1};
        const auto next = parts.begin() + static_cast<ptrdiff_t>(i + rest / kFactorials[i]);
        rest %= kFactorials[i];
        std::rotate(parts.begin() + static_cast<ptrdiff_t>(i), next, next + 1);
        Add(parts[i], amounts, view);
      }
    });
  }

 private:
  enum Part { kBrightness, kContrast, kSaturation, kHue };

  void Add(Part part, const Words& words, View* view) const {
    const std::array<double, 2>* const ranges[] = {&brightness, &contrast, &saturation, &hue};
    const auto [low, high] = *ranges[part];
    const double neutral = part == kHue ? 0 : 1;
    if (low == neutral && high == neutral) return;
    ColorChange change{Paint};
    change.order = part;
    change.amounts[0] = static_cast<float>(low + (high - low) * Uniform(words[part]));
    if (part == kContrast) change.needs = Needs::kMeans;
    view->colors.push_back(change);
  }

  static void Paint(const ColorChange& change, const Kernels& kernels, const Strip& strip,
                    const Means& means) {
    const auto [r, g, b] = strip.planes;
    const float factor = change.amounts[0];
    switch (static_cast<Part>(change.order)) {
      case kBrightness:
        strip.Each([&](float* plane) { kernels.scale(plane, strip.n, factor, 0); });
        break;
      case kContrast: {
        float luma = 0;
        for (size_t c = 0; c < 3; ++c) luma += kLumaWeights[c] * means[c];
        const float offset = luma * (1 - factor);
        strip.Each([&](float* plane) { kernels.scale(plane, strip.n, factor, offset); });
        break;
      }
      case kSaturation:
        if (strip.gray()) {
          kernels.scale(r, strip.n, factor + kLumaOfGray * (1 - factor), 0);
        } else {
          kernels.blend_luma(r, g, b, strip.n, factor);
        }
        break;
      case kHue:  // leaves grey as it is
        if (!strip.gray()) kernels.hue(r, g, b, strip.n, factor);
        break;
    }
  }
};

// A Gaussian with a finite number of taps, which the renderer makes.
struct Blur {
  static constexpr const char* kName = "Blur";
  static constexpr auto Fields() {
    return std::make_tuple(Field("stream", &Blur::stream), Field("sigma", &Blur::sigma),
                           Field("probability", &Blur::probability),
                           Field("kernel_size", &Blur::kernel_size));
  }
  uint32_t stream;
  std::array<double, 2> sigma;
  double probability;
  int kernel_size;  // odd; 0: a tenth of the view's height

  void Draw(Drawing* drawing) const {
    drawing->Each([&](uint32_t v, View* view) {
      const Words w = drawing->draws.Block(stream, v);
      if (Uniform(w[0]) >= probability) return;
      ColorChange change{nullptr};
      change.needs = Needs::kNeighbors;
      change.amounts[0] = static_cast<float>(sigma[0] + (sigma[1] - sigma[0]) * Uniform(w[1]));
      change.radius = kernel_size > 0 ? kernel_size / 2 : view->row.count / 10 / 2;
      view->colors.push_back(change);
    });
  }
};

// Inverts the values that are not below the threshold.
struct Solarize {
  static constexpr const char* kName = "Solarize";
  static constexpr auto Fields() {
    return std::make_tuple(Field("stream", &Solarize::stream),
                           Field("threshold", &Solarize::threshold),
                           Field("probability", &Solarize::probability));
  }
  uint32_t stream;
  double threshold, probability;

  void Draw(Drawing* drawing) const {
    drawing->Each([&](uint32_t v, View* view) {
      if (Uniform(drawing->draws.Block(stream, v)[0]) >= probability) return;
      ColorChange change{Paint};
      change.amounts[0] = static_cast<float>(threshold);
      view->colors.push_back(change);
    });
  }

 private:
  static void Paint(const ColorChange& change, const Kernels& kernels, const Strip& strip,
                    const Means&) {
    strip.Each([&](float* plane) { kernels.solarize(plane, strip.n, change.amounts[0]); });
  }
};

// Draws the sides of a rectangle, in whole pixels: its share of `pixels` is from `area`, and the
// first side divided by the second has a logarithm from `log_aspect`.
inline std::pair<double, double> DrawSides(double pixels, const std::array<double, 2>& area,
                                           const std::array<double, 2>& log_aspect,
                                           const Words& w) {
  const double part = pixels * (area[0] + (area[1] - area[0]) * Uniform(w[0]));
  const double ratio = std::exp(log_aspect[0] + (log_aspect[1] - log_aspect[0]) * Uniform(w[1]));
  return {std::nearbyint(std::sqrt(part * ratio)), std::nearbyint(std::sqrt(part / ratio))};
}

// Fills a random rectangle of the view, like torchvision's RandomErasing. It comes after all
// operations that cut or move the view.
struct Erase {
  static constexpr const char* kName = "Erase";
  static constexpr auto Fields() {
    return std::make_tuple(Field("stream", &Erase::stream), Field("area", &Erase::area),
                           Field("log_aspect", &Erase::log_aspect), Field("value", &Erase::value),
                           Field("probability", &Erase::probability));
  }
  uint32_t stream;
  std::array<double, 2> area, log_aspect;  // aspect: height / width
  std::array<float, 3> value;              // of each channel
  double probability;

  void Draw(Drawing* drawing) const {
    drawing->Each([&](uint32_t v, View* view) {
      if (Uniform(drawing->draws.Block(stream, v)[0]) >= probability) return;
      const int height = view->row.count, width = view->column.count;
      for (uint32_t attempt = 0; attempt < 10; ++attempt) {
        const Words w = drawing->draws.Block(stream, v, 1 + attempt);
        const auto [h, l] = DrawSides(double(height) * width, area, log_aspect, w);
        if (h >= height || l >= width) continue;
        const int rows = static_cast<int>(h), columns = static_cast<int>(l);
        const auto top = static_cast<int>(Below(w[2], static_cast<uint32_t>(height - rows + 1)));
        const auto left = static_cast<int>(Below(w[3], static_cast<uint32_t>(width - columns + 1)));
        ColorChange change{Paint};
        change.rect = view->turned ? std::array<int, 4>{left, top, columns, rows}
                                   : std::array<int, 4>{top, left, rows, columns};
        std::copy(value.begin(), value.end(), change.amounts.begin());
        change.colors_gray = value[0] != value[1] || value[0] != value[2];
        view->colors.push_back(change);
        return;
      }
    });
  }

 private:
  static void Paint(const ColorChange& change, const Kernels&, const Strip& strip, const Means&) {
    const auto [top, left, height, width] = change.rect;
    const auto first = static_cast<int>(strip.first / strip.width);
    const auto last = static_cast<int>((strip.first + strip.n) / strip.width);
    for (int y = std::max(top, first); y < std::min(top + height, last); ++y) {
      for (size_t c = 0; c < strip.distinct(); ++c) {
        std::fill_n(strip.planes[c] + static_cast<size_t>(y - first) * strip.width + left, width,
                    change.amounts[c]);
      }
    }
  }
};

// A resize whose values stay in [0, 255], which the cubic kernel leaves.
inline void ResizeClipped(int height, int width, Method method, bool antialias, View* view) {
  view->Resize(height, width, {method, Coords::kHalfPixel, antialias});
  if (method == Method::kBicubic) view->colors.push_back({Distort::Clip});
}

// torchvision's RandomResizedCrop.
struct RandomResizedCrop {
  static constexpr const char* kName = "RandomResizedCrop";
  static constexpr auto Fields() {
    return std::make_tuple(
        Field("stream", &RandomResizedCrop::stream), Field("height", &RandomResizedCrop::height),
        Field("width", &RandomResizedCrop::width), Field("area", &RandomResizedCrop::area),
        Field("aspect", &RandomResizedCrop::aspect),
        Field("log_aspect", &RandomResizedCrop::log_aspect),
        Field("method", &RandomResizedCrop::method),
        Field("antialias", &RandomResizedCrop::antialias));
  }
  uint32_t stream;
  int height, width;
  std::array<double, 2> area, aspect, log_aspect;
  Method method;
  bool antialias;

  void Draw(Drawing* drawing) const {
    drawing->Each([&](uint32_t v, View* view) {
      Cut(drawing->draws, v, view);
      ResizeClipped(height, width, method, antialias, view);
    });
  }

 private:
  void Cut(const Draws& draws, uint32_t number, View* view) const {
    const int tall = view->row.count, wide = view->column.count;
    for (uint32_t attempt = 0; attempt < 10; ++attempt) {
      const Words w = draws.Block(stream, number, attempt);
      const auto [columns, rows] = DrawSides(double(tall) * wide, area, log_aspect, w);
      if (columns < 1 || columns > wide || rows < 1 || rows > tall) continue;
      const int h = static_cast<int>(rows), l = static_cast<int>(columns);
      const auto top = static_cast<int>(Below(w[2], static_cast<uint32_t>(tall - h + 1)));
      view->Crop(top, static_cast<int>(Below(w[3], static_cast<uint32_t>(wide - l + 1))), h, l);
      return;
    }
    const double ratio = double(wide) / tall;
    int h = tall, l = wide;
    if (ratio < aspect[0]) h = static_cast<int>(std::nearbyint(wide / aspect[0]));
    if (ratio > aspect[1]) l = static_cast<int>(std::nearbyint(tall * aspect[1]));
    view->Crop((tall - h) / 2, (wide - l) / 2, h, l);
  }
};

// torchvision's evaluation: the smaller side is resized to `size`, and the centre is kept.
struct CentralResizedCrop {
  static constexpr const char* kName = "CentralResizedCrop";
  static constexpr auto Fields() {
    return std::make_tuple(
        Field("stream", &CentralResizedCrop::stream), Field("height", &CentralResizedCrop::height),
        Field("width", &CentralResizedCrop::width), Field("size", &CentralResizedCrop::size),
        Field("method", &CentralResizedCrop::method),
        Field("antialias", &CentralResizedCrop::antialias));
  }
  uint32_t stream;
  int height, width, size;
  Method method;
  bool antialias;

  void Draw(Drawing* drawing) const {
    drawing->Each([&](uint32_t, View* view) {
      const int tall = view->row.count, wide = view->column.count;
      const int smaller = std::min(tall, wide);
      const int rows = Side(tall, smaller), columns = Side(wide, smaller);
      ResizeClipped(rows, columns, method, antialias, view);
      view->Crop(Offset(rows - height), Offset(columns - width), height, width);
    });
  }

 private:
  int Side(int side, int smaller) const {
    const int64_t resized = int64_t{size} * side / smaller;
    if (resized > (1 << 24)) throw Error("the image is too narrow to be resized");
    return static_cast<int>(resized);
  }
  // Half of the rest, ties to even.
  static int Offset(int rest) { return static_cast<int>(std::nearbyint(rest / 2.0)); }
};

struct Patches {
  static constexpr const char* kName = "Patches";
  static constexpr auto Fields() {
    return std::make_tuple(Field("stream", &Patches::stream), Field("n", &Patches::n),
                           Field("jitter", &Patches::jitter), Field("random", &Patches::random));
  }
  uint32_t stream;
  int n, jitter;
  bool random;

  void Draw(Drawing* drawing) const {
    drawing->cells = static_cast<size_t>(n) * static_cast<size_t>(n);
    drawing->Split(n * n, [&](uint32_t v, int i, View* view) {
      const int height = view->row.count / n, width = view->column.count / n;
      int top = jitter / 2, left = jitter / 2;
      if (random) {
        const Words w = drawing->draws.Block(stream, v);
        top = static_cast<int>(Below(w[0], static_cast<uint32_t>(jitter + 1)));
        left = static_cast<int>(Below(w[1], static_cast<uint32_t>(jitter + 1)));
      }
      view->Crop(i / n * height + top, i % n * width + left, height - jitter, width - jitter);
    });
  }
};

struct Jigsaw {
  static constexpr const char* kName = "Jigsaw";
  static constexpr auto Fields() {
    return std::make_tuple(Field("stream", &Jigsaw::stream),
                           Field("permutations", &Jigsaw::permutations),
                           Field("random", &Jigsaw::random));
  }
  uint32_t stream;
  std::vector<std::vector<int>> permutations;
  bool random;

  void Draw(Drawing* drawing) const {
    drawing->Arrange(stream, random, permutations.size(),
                     [&](uint32_t label, std::vector<size_t>* patches) {
                       const auto& permutation = permutations[label];
                       patches->assign(permutation.begin(), permutation.end());
                     });
  }
};

struct Pair {
  static constexpr const char* kName = "Pair";
  static constexpr auto Fields() {
    return std::make_tuple(Field("stream", &Pair::stream), Field("random", &Pair::random));
  }
  uint32_t stream;
  bool random;

  void Draw(Drawing* drawing) const {
    const size_t cells = drawing->cells, centre = cells / 2;
    drawing->Arrange(stream, random, cells - 1, [&](size_t label, std::vector<size_t>* patches) {
      *patches = {centre, label + (label >= centre ? 1 : 0)};
    });
  }
};

struct Rotate {
  static constexpr const char* kName = "Rotate";
  static constexpr auto Fields() { return std::make_tuple(Field("stream", &Rotate::stream)); }
  uint32_t stream;

  void Draw(Drawing* drawing) const {
    drawing->Split(4, [](uint32_t, int i, View* view) {
      for (int turn = 0; turn < i; ++turn) view->Turn();
    });
    for (size_t v = 0; v < drawing->views->size(); ++v) {
      drawing->labels->push_back(static_cast<int32_t>(v % 4));
    }
  }
};

// These two are done to the values of every view in the end; see `Plan`.
struct Normalize {
  static constexpr const char* kName = "Normalize";
  static constexpr auto Fields() {
    return std::make_tuple(Field("stream", &Normalize::stream), Field("scale", &Normalize::scale),
                           Field("bias", &Normalize::bias));
  }
  uint32_t stream;
  std::array<float, 3> scale, bias;

  void Draw(Drawing*) const {}
};

struct Standardize {
  static constexpr const char* kName = "Standardize";
  static constexpr auto Fields() { return std::make_tuple(Field("stream", &Standardize::stream)); }
  uint32_t stream;

  void Draw(Drawing*) const {}
};

}  // namespace op

using Op =
    std::variant<op::Views, op::Resize, op::ResizeSmall, op::Crop, op::InceptionCrop,
                 op::CentralFraction, op::RandomResizedCrop, op::CentralResizedCrop, op::Flip,
                 op::Gray, op::Distort, op::ColorJitter, op::Blur, op::Solarize, op::Erase,
                 op::Patches, op::Jigsaw, op::Pair, op::Rotate, op::Normalize, op::Standardize>;

}  // namespace pretexture
