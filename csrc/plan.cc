#include "plan.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "error.h"

namespace pretexture {
namespace {

struct Window {
  int top, left, height, width;
};

// Like TensorFlow's sample_distorted_bounding_box, with the whole image as the object.
Window DrawInceptionCrop(const op::InceptionCrop& crop, const Draws& draws, uint32_t view,
                         int height, int width) {
  const double pixels = double(height) * width;
  const double smallest = crop.area[0] * pixels, largest = crop.area[1] * pixels;
  for (uint32_t attempt = 0; attempt < 100; ++attempt) {
    const Words w = draws.Block(crop.stream, view, attempt);
    const double aspect = crop.aspect[0] + (crop.aspect[1] - crop.aspect[0]) * Uniform(w[0]);
    double low = std::nearbyint(std::sqrt(smallest / aspect));
    double high = std::nearbyint(std::sqrt(largest / aspect));
    if (std::nearbyint(high * aspect) > width) {
      high = std::trunc((width + 0.5 - 1e-7) / aspect);
      if (std::nearbyint(high * aspect) > width) high -= 1;
    }
    high = std::min(high, double(height));
    low = std::min(low, high);
    const double h = low + Below(w[1], static_cast<uint32_t>(high - low + 1));
    const double wide = std::nearbyint(h * aspect);
    const double covered = h * wide;
    if (h < 1 || wide < 1 || wide > width || covered < smallest || covered > largest) continue;
    if (covered < 0.1 * pixels) continue;
    const int rows = static_cast<int>(h), columns = static_cast<int>(wide);
    const auto position = [&](uint32_t word, int room) {
      const int positions = crop.last_position ? room + 1 : std::max(1, room);
      return static_cast<int>(Below(word, static_cast<uint32_t>(positions)));
    };
    return {position(w[2], height - rows), position(w[3], width - columns), rows, columns};
  }
  return {0, 0, height, width};
}

// round(side * size / smaller), ties to even.
int RoundedSide(int side, int size, int smaller) {
  const int64_t product = int64_t{side} * size;
  int64_t quotient = product / smaller;
  const int64_t twice = 2 * (product % smaller);
  if (twice > smaller || (twice == smaller && quotient % 2 == 1)) ++quotient;
  if (quotient > (1 << 24)) throw Error("the image is too narrow to be resized");
  return static_cast<int>(std::max<int64_t>(quotient, 1));
}

void Crop(View* view, int top, int left, int height, int width) {
  view->row.Crop(top, height);
  view->column.Crop(left, width);
}

void Resize(View* view, int height, int width, const Sampling& sampling) {
  view->row.Resize(height);
  view->column.Resize(width);
  view->sampling = sampling;
}

// A quarter turn counter-clockwise: row i of the result is column W - 1 - i of the view.
void Turn(View* view) {
  std::swap(view->row, view->column);
  view->row.Flip();
  view->turned = !view->turned;
}

// Applies operations, one after the other, to all views of an image.
struct Apply {
  const Draws& draws;
  std::vector<View>* views;
  std::vector<int32_t>* labels;
  size_t cells = 1;  // patches that the last Patches cut each view into

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

  template <typename Change>
  void Each(Change change) {
    for (size_t v = 0; v < views->size(); ++v) change(static_cast<uint32_t>(v), &(*views)[v]);
  }

  uint32_t Label(uint32_t stream, bool random, uint32_t group, uint32_t count) {
    const uint32_t label = random ? Below(draws.Block(stream, group)[0], count)  //
                                  : draws.record % count;
    labels->push_back(static_cast<int32_t>(label));
    return label;
  }

  void operator()(const op::Views& op) {
    Split(op.n, [](uint32_t, int, View*) {});
  }

  void operator()(const op::Resize& op) {
    Each([&](uint32_t v, View* view) {
      Method method = op.method;
      if (op.randomize) method = static_cast<Method>(Below(draws.Block(op.stream, v)[0], 4));
      Resize(view, op.height, op.width, {method, op.coords, op.antialias});
    });
  }

  void operator()(const op::ResizeSmall& op) {
    Each([&](uint32_t, View* view) {
      const int height = view->row.count, width = view->column.count;
      const int smaller = std::min(height, width);
      Resize(view, RoundedSide(height, op.size, smaller), RoundedSide(width, op.size, smaller),
             {Method::kArea, Coords::kHalfPixel, false});
    });
  }

  void operator()(const op::Crop& op) {
    Each([&](uint32_t v, View* view) {
      const int down = view->row.count - op.height, across = view->column.count - op.width;
      if (down < 0 || across < 0) {
        throw Error("a crop of " + std::to_string(op.height) + "x" + std::to_string(op.width) +
                    " does not fit in " + std::to_string(view->row.count) + "x" +
                    std::to_string(view->column.count) + " pixels");
      }
      int top = down / 2, left = across / 2;
      if (op.random) {
        const Words w = draws.Block(op.stream, v);
        top = static_cast<int>(Below(w[0], static_cast<uint32_t>(down + 1)));
        left = static_cast<int>(Below(w[1], static_cast<uint32_t>(across + 1)));
      }
      Crop(view, top, left, op.height, op.width);
    });
  }

  void operator()(const op::InceptionCrop& op) {
    Each([&](uint32_t v, View* view) {
      const Window w = DrawInceptionCrop(op, draws, v, view->row.count, view->column.count);
      Crop(view, w.top, w.left, w.height, w.width);
    });
  }

  void operator()(const op::CentralFraction& op) {
    Each([&](uint32_t, View* view) {
      const int height = view->row.count, width = view->column.count;
      const int top = static_cast<int>(height * (1 - op.fraction) / 2);
      const int left = static_cast<int>(width * (1 - op.fraction) / 2);
      Crop(view, top, left, height - 2 * top, width - 2 * left);
    });
  }

  void operator()(const op::Flip& op) {
    Each([&](uint32_t v, View* view) {
      if (Uniform(draws.Block(op.stream, v)[0]) < 0.5) view->column.Flip();
    });
  }

  void operator()(const op::Gray& op) {
    Each([&](uint32_t v, View* view) {
      if (Uniform(draws.Block(op.stream, v)[0]) >= op.probability) return;
      view->colors.push_back({});
      view->wrapped_gray |= op.wrap;
    });
  }

  void operator()(const op::Distort& op) {
    Each([&](uint32_t v, View* view) {
      const Words w = draws.Block(op.stream, v);
      ColorStep step;
      step.kind = op.fast ? ColorStep::Kind::kDistort : ColorStep::Kind::kDistortSlow;
      step.order = op.fast ? (Uniform(w[0]) < 0.25 ? 0 : 1) : Below(w[0], 4);
      step.brightness = static_cast<float>((2 * Uniform(w[1]) - 1) * 32);
      step.saturation = static_cast<float>(0.5 + Uniform(w[2]));
      if (!op.fast) {
        step.hue = static_cast<float>((2 * Uniform(w[3]) - 1) * 0.2);
        step.contrast = static_cast<float>(0.5 + Uniform(draws.Block(op.stream, v, 1)[0]));
      }
      view->colors.push_back(step);
    });
  }

  void operator()(const op::Patches& op) {
    cells = static_cast<size_t>(op.n) * static_cast<size_t>(op.n);
    Split(op.n * op.n, [&](uint32_t v, int i, View* view) {
      const int height = view->row.count / op.n, width = view->column.count / op.n;
      int top = op.jitter / 2, left = op.jitter / 2;
      if (op.random) {
        const Words w = draws.Block(op.stream, v);
        top = static_cast<int>(Below(w[0], static_cast<uint32_t>(op.jitter + 1)));
        left = static_cast<int>(Below(w[1], static_cast<uint32_t>(op.jitter + 1)));
      }
      Crop(view, i / op.n * height + top, i % op.n * width + left, height - op.jitter,
           width - op.jitter);
    });
  }

  void operator()(const op::Jigsaw& op) {
    std::vector<View> result;
    result.reserve(views->size());
    for (size_t group = 0; group < views->size() / cells; ++group) {
      const uint32_t label = Label(op.stream, op.random, static_cast<uint32_t>(group),
                                   static_cast<uint32_t>(op.permutations.size()));
      for (const int patch : op.permutations[label]) {
        result.push_back((*views)[group * cells + static_cast<size_t>(patch)]);
      }
    }
    views->swap(result);
  }

  void operator()(const op::Pair& op) {
    std::vector<View> result;
    for (size_t group = 0; group < views->size() / cells; ++group) {
      const size_t centre = cells / 2;
      const size_t label = Label(op.stream, op.random, static_cast<uint32_t>(group),
                                 static_cast<uint32_t>(cells - 1));
      result.push_back((*views)[group * cells + centre]);
      result.push_back((*views)[group * cells + label + (label >= centre ? 1 : 0)]);
    }
    views->swap(result);
  }

  void operator()(const op::Rotate&) {
    Split(4, [](uint32_t, int i, View* view) {
      for (int turn = 0; turn < i; ++turn) Turn(view);
    });
    for (size_t v = 0; v < views->size(); ++v) labels->push_back(static_cast<int32_t>(v % 4));
  }

  // These are done to the values of every view; see Plan's constructor.
  void operator()(const op::Normalize&) {}
  void operator()(const op::Standardize&) {}
};

}  // namespace

bool View::SamePixels(const View& o) const {
  return sampling == o.sampling && SourceY().SamePixels(o.SourceY()) &&
         SourceX().SamePixels(o.SourceX()) && colors == o.colors;
}

Plan::Plan(std::vector<Op> operations) : ops(std::move(operations)) {
  for (const Op& operation : ops) {
    if (const auto* range = std::get_if<op::Normalize>(&operation)) {
      normalize = true;
      scale = range->scale;
      bias = range->bias;
    }
    if (std::holds_alternative<op::Standardize>(operation)) standardize = true;
  }
  // The renderer takes the statistics of the values before they are normalised. That works because
  // the mean and the deviation of all values follow from those, if one scale and bias holds for
  // all.
  const bool alike = scale[0] == scale[1] && scale[1] == scale[2] &&  //
                     bias[0] == bias[1] && bias[1] == bias[2];
  if (standardize && !alike) {
    throw Error(
        "standardize uses one mean and one standard deviation for all channels, and cannot follow "
        "a normalize that differs between channels");
  }
}

void Plan::Draw(int height, int width, const Draws& draws, std::vector<View>* views,
                std::vector<int32_t>* labels) const {
  views->resize(1);
  View& whole = views->front();
  whole = View();
  whole.row = Axis::Whole(height);
  whole.column = Axis::Whole(width);
  labels->clear();
  Apply apply{draws, views, labels};
  for (const Op& operation : ops) std::visit(apply, operation);
}

}  // namespace pretexture
