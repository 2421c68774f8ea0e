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

struct Gray {
  static constexpr const char* kName = "Gray";
  static constexpr auto Fields() {
    return std::make_tuple(Field("stream", &Gray::stream), Field("probability", &Gray::probability),
                           Field("wrap", &Gray::wrap));
  }
  uint32_t stream;
  double probability;
  bool wrap;

  void Draw(Drawing* drawing) const {
    drawing->Each([&](uint32_t v, View* view) {
      if (Uniform(drawing->draws.Block(stream, v)[0]) >= probability) return;
      ColorChange change{Paint};
      change.makes_gray = true;
      view->colors.push_back(change);
      view->wrapped_gray |= wrap;
    });
  }

 private:
  static void Paint(const ColorChange&, const Kernels& kernels, const Strip& strip) {
    const auto [r, g, b] = strip.planes;
    if (!strip.gray()) kernels.gray(r, g, b, strip.n);
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
      ColorChange change{fast ? PaintFast : PaintSlow};
      change.order = fast ? (Uniform(w[0]) < 0.25 ? 0 : 1) : Below(w[0], 4);
      change.amounts[kBrightness] = static_cast<float>((2 * Uniform(w[1]) - 1) * 32);
      change.amounts[kSaturation] = static_cast<float>(0.5 + Uniform(w[2]));
      if (!fast) {
        change.whole_view = true;  // contrast moves each pixel away from the mean
        const double contrast = 0.5 + Uniform(drawing->draws.Block(stream, v, 1)[0]);
        change.amounts[kHue] = static_cast<float>((2 * Uniform(w[3]) - 1) * 0.2);
        change.amounts[kContrast] = static_cast<float>(contrast);
      }
      view->colors.push_back(change);
    });
  }

 private:
  enum Part { kBrightness, kSaturation, kHue, kContrast };

  static void PaintFast(const ColorChange& change, const Kernels& kernels, const Strip& strip) {
    static constexpr Part kOrders[2][2] = {{kBrightness, kSaturation}, {kSaturation, kBrightness}};
    if (strip.gray()) {
      PaintParts(change, kOrders[change.order], 2, kernels, strip);
      return;
    }
    const auto [r, g, b] = strip.planes;
    kernels.distort(r, g, b, strip.n, change.amounts[kBrightness], change.amounts[kSaturation],
                    change.order == 0);
  }

  static void PaintSlow(const ColorChange& change, const Kernels& kernels, const Strip& strip) {
    static constexpr Part kOrders[4][4] = {{kBrightness, kSaturation, kHue, kContrast},
                                           {kSaturation, kBrightness, kContrast, kHue},
                                           {kContrast, kHue, kBrightness, kSaturation},
                                           {kHue, kSaturation, kContrast, kBrightness}};
    PaintParts(change, kOrders[change.order], 4, kernels, strip);
  }

  static void PaintParts(const ColorChange& change, const Part* order, int parts,
                         const Kernels& kernels, const Strip& strip) {
    const auto [r, g, b] = strip.planes;
    const size_t n = strip.n;
    const auto each = [&](auto paint) {
      for (size_t c = 0; c < strip.distinct(); ++c) paint(strip.planes[c]);
    };
    for (int i = 0; i < parts; ++i) {
      const float amount = change.amounts[order[i]];
      switch (order[i]) {
        case kBrightness:
          each([&](float* plane) { kernels.brightness(plane, n, amount); });
          break;
        case kSaturation:  // leaves grey as it is, and so does hue
          if (!strip.gray()) kernels.saturation(r, g, b, n, amount);
          break;
        case kHue:
          if (!strip.gray()) kernels.hue(r, g, b, n, amount);
          break;
        case kContrast:
          each([&](float* plane) {
            double sums[2] = {0, 0};
            kernels.moments(plane, n, plane[0], sums);
            const double mean = double(plane[0]) + sums[0] / double(n);
            kernels.contrast(plane, n, static_cast<float>(mean), amount);
          });
          break;
      }
    }
    each([&](float* plane) { kernels.clip(plane, n); });
  }
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

using Op = std::variant<op::Views, op::Resize, op::ResizeSmall, op::Crop, op::InceptionCrop,
                        op::CentralFraction, op::Flip, op::Gray, op::Distort, op::Patches,
                        op::Jigsaw, op::Pair, op::Rotate, op::Normalize, op::Standardize>;

}  // namespace pretexture
