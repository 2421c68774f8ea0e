#include "plan.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>
#include <vector>

#include "test.h"

namespace pretexture {
namespace {

using namespace test;

struct Drawing {
  std::vector<View> views;
  std::vector<int32_t> labels;
};

Drawing Draw(const Plan& plan, int height, int width, uint32_t record = 0) {
  Drawing drawing;
  plan.Draw(height, width, {1, 2, record}, &drawing.views, &drawing.labels);
  return drawing;
}

void CheckWithin(const Axis& axis, int size) {
  CHECK(axis.begin >= 0 && axis.size > 0 && axis.begin + axis.size <= size);
  CHECK(axis.first >= 0 && axis.count > 0);
  CHECK(axis.first + axis.count <= (axis.resampled ? axis.resized : axis.size));
}

const op::Resize kResize = {16, 64, 64, Method::kBilinear, Coords::kHalfPixel, false, true};
const op::RandomResizedCrop kRandomResizedCrop = {
    16, 30, 35, {0.08, 1}, {3. / 4, 4. / 3}, {-0.2877, 0.2877}, Method::kBilinear, true};
const op::InceptionCrop kInceptionCrop = {16, {0.05, 1}, {3. / 4, 4. / 3}, true};

TEST(views_lie_within_the_image_whatever_its_size) {
  const std::vector<std::vector<Op>> pipelines = {
      {op::Views{0, 3}, kInceptionCrop, kResize, op::Flip{32}, op::Distort{48, true}},
      {kInceptionCrop, kResize, op::Rotate{32}},
      {kResize, op::Gray{0, 0.5, false}, op::Crop{32, 51, 50, true}, op::Patches{48, 3, 2, true}},
      {op::ResizeSmall{0, 40}, op::Crop{16, 30, 30, false}, op::Patches{32, 3, 0, false}},
      {op::CentralFraction{0, 0.875}, kResize},
      {op::Views{0, 2}, kRandomResizedCrop, op::Flip{32}},
      {op::CentralResizedCrop{0, 30, 35, 40, Method::kBicubic, true}}};
  Random random(1);
  for (const std::vector<Op>& ops : pipelines) {
    const Plan plan(ops);
    for (uint32_t record = 0; record < 500; ++record) {
      const int height = random.Between(1, record % 2 ? 9 : 700);
      const int width = random.Between(1, record % 3 ? 9 : 700);
      for (const View& view : Draw(plan, height, width, record).views) {
        CheckWithin(view.SourceY(), height);
        CheckWithin(view.SourceX(), width);
      }
    }
  }
}

TEST(random_resized_crops_keep_to_their_area_and_aspect) {
  const Plan plan({kRandomResizedCrop});
  for (uint32_t record = 0; record < 3000; ++record) {
    const View view = Draw(plan, 300, 400, record).views[0];
    const double area = double(view.row.size) * view.column.size / (300 * 400);
    const double aspect = double(view.column.size) / view.row.size;
    // Sides are rounded to whole pixels.
    CHECK(area > 0.078 && area <= 1);
    CHECK(aspect > 0.74 && aspect < 1.36);
  }
  // No window of a long strip fits, so it is the central one with the largest aspect ratio.
  const View strip = Draw(plan, 30, 3000).views[0];
  CHECK_EQ(strip.column.size, 40);
  CHECK_EQ(strip.column.begin, 1480);
  CHECK_EQ(strip.row.size, 30);
}

TEST(an_erased_rectangle_of_a_turned_view_is_turned_with_it) {
  const op::Erase erase = {32, {0.1, 0.2}, {0.9, 1}, {1, 2, 3}, 1};
  const Plan upright({op::Views{0, 4}, op::Crop{16, 50, 50, false}, erase});
  const Plan turned({op::Crop{16, 50, 50, false}, op::Rotate{0}, erase});
  const std::vector<View> a = Draw(upright, 60, 60).views, b = Draw(turned, 60, 60).views;
  for (size_t v = 0; v < 4; ++v) {
    std::array<int, 4> rect = a[v].colors[0].rect;
    if (b[v].turned) rect = {rect[1], rect[0], rect[3], rect[2]};
    CHECK(b[v].colors[0].rect == rect);
  }
}

TEST(inception_crops_keep_to_their_area_and_aspect) {
  const Plan plan({kInceptionCrop});
  int smaller = 0;
  for (uint32_t record = 0; record < 3000; ++record) {
    const View view = Draw(plan, 375, 500, record).views[0];
    const double rows = view.row.count, columns = view.column.count;
    // A crop shows at least a tenth of the image, even though the range begins at 0.05.
    CHECK(rows * columns >= 0.1 * 375 * 500);
    if (rows == 375 && columns == 500) continue;
    // The width is rounded to whole pixels.
    CHECK((columns - 0.5) / rows <= 4. / 3 && (columns + 0.5) / rows >= 3. / 4);
    smaller += rows * columns < 0.5 * 375 * 500;
  }
  CHECK(smaller > 1000);
}

TEST(random_crops_reach_every_place) {
  const Plan plan({op::Crop{0, 8, 9, true}});
  std::set<std::pair<int, int>> places;
  for (uint32_t record = 0; record < 1000; ++record) {
    const View view = Draw(plan, 11, 13, record).views[0];
    places.insert({view.row.first, view.column.first});
  }
  CHECK_EQ(places.size(), size_t{4 * 5});
}

TEST(a_crop_that_does_not_fit_is_refused) {
  const Plan plan({op::Crop{0, 300, 200, true}});
  CHECK_THROWS(Draw(plan, 299, 400), "a crop of 300x200 does not fit in 299x400 pixels");
  CHECK_THROWS(Draw(plan, 400, 199), "a crop of 300x200 does not fit in 400x199 pixels");
  Draw(plan, 300, 200);
}

TEST(resize_small_rounds_half_to_even) {
  const Plan plan({op::ResizeSmall{0, 2}});
  // The longer sides before rounding are 2.5, 3.5 and 4.5 pixels.
  for (const auto& sides : {std::pair<int, int>{5, 2}, {7, 4}, {9, 4}}) {
    const View view = Draw(plan, 4, sides.first).views[0];
    CHECK_EQ(view.row.resized, 2);
    CHECK_EQ(view.column.resized, sides.second);
  }
  CHECK_THROWS(Draw(Plan({op::ResizeSmall{0, 65535}}), 1, 65535), "too narrow");
}

TEST(rotations_are_quarter_turns_of_the_same_pixels) {
  const Drawing drawing = Draw(Plan({op::Crop{0, 8, 8, true}, op::Rotate{16}}), 20, 30);
  CHECK_EQ(drawing.views.size(), size_t{4});
  CHECK((drawing.labels == std::vector<int32_t>{0, 1, 2, 3}));
  for (size_t i = 0; i < 4; ++i) {
    const View& view = drawing.views[i];
    CHECK(view.SamePixels(drawing.views[0]));
    CHECK_EQ(view.turned, i % 2 == 1);
    // Counter-clockwise, the first row of turn i is the first row of the view, its last column, its
    // last row backwards and its first column backwards.
    CHECK_EQ(view.row.reversed, i == 1 || i == 2);
    CHECK_EQ(view.column.reversed, i == 2 || i == 3);
  }
}

TEST(views_draw_apart_and_what_stands_before_them_together) {
  const Plan apart({op::Views{0, 40}, op::Crop{16, 8, 8, true}});
  const Plan together({op::Crop{16, 8, 8, true}, op::Views{0, 40}});
  std::set<int> tops;
  for (const View& view : Draw(apart, 100, 100).views) tops.insert(view.row.first);
  CHECK(tops.size() > 20);
  for (const View& view : Draw(together, 100, 100).views) {
    CHECK_EQ(view.row.first, Draw(together, 100, 100).views[0].row.first);
  }
}

TEST(jigsaw_puts_patches_in_the_order_of_its_label) {
  const std::vector<std::vector<int>> set = {{3, 2, 1, 0}, {1, 0, 3, 2}, {0, 1, 2, 3}};
  const Plan plan(
      {op::Crop{0, 40, 40, true}, op::Patches{16, 2, 0, false}, op::Jigsaw{32, set, true}});
  std::set<int> labels;
  for (uint32_t record = 0; record < 50; ++record) {
    const Drawing drawing = Draw(plan, 60, 60, record);
    CHECK_EQ(drawing.labels.size(), size_t{1});
    const std::vector<int>& order = set[static_cast<size_t>(drawing.labels[0])];
    labels.insert(drawing.labels[0]);
    for (size_t i = 0; i < 4; ++i) {
      const int top = drawing.views[0].row.first - order[0] / 2 * 20;
      const int left = drawing.views[0].column.first - order[0] % 2 * 20;
      CHECK_EQ(drawing.views[i].row.first, top + order[i] / 2 * 20);
      CHECK_EQ(drawing.views[i].column.first, left + order[i] % 2 * 20);
    }
  }
  CHECK_EQ(labels.size(), size_t{3});
}

TEST(pairs_are_the_centre_and_each_neighbour) {
  const Plan plan({op::Crop{0, 30, 30, false}, op::Patches{16, 3, 0, false}, op::Pair{32, false}});
  std::set<std::pair<int, int>> neighbours;
  for (uint32_t record = 0; record < 8; ++record) {
    const Drawing drawing = Draw(plan, 30, 30, record);
    CHECK_EQ(drawing.labels[0], static_cast<int>(record));
    CHECK_EQ(drawing.views.size(), size_t{2});
    CHECK_EQ(drawing.views[0].row.first, 10);
    CHECK_EQ(drawing.views[0].column.first, 10);
    const View& neighbour = drawing.views[1];
    neighbours.insert({neighbour.row.first, neighbour.column.first});
  }
  CHECK_EQ(neighbours.size(), size_t{8});
  CHECK(neighbours.count({10, 10}) == 0);
}

TEST(standardize_is_refused_after_a_normalization_that_differs_between_channels) {
  const op::Standardize standardize = {16};
  const char* const reason = "cannot follow a normalize that differs between channels";
  CHECK_THROWS(Plan({op::Normalize{0, {1, 2, 1}, {0, 0, 0}}, standardize}), reason);
  CHECK_THROWS(Plan({op::Normalize{0, {1, 1, 1}, {0, 0, 3}}, standardize}), reason);
  CHECK(Plan({op::Normalize{0, {2, 2, 2}, {-1, -1, -1}}, standardize}).standardize);
  CHECK(Plan({op::Normalize{0, {1, 2, 3}, {0, 0, 0}}}).normalize);
}

TEST(a_draw_depends_on_seed_epoch_and_record_alone) {
  const Plan plan({kInceptionCrop, kResize, op::Flip{32}, op::Distort{48, false}});
  Drawing once = Draw(plan, 300, 400, 5);
  for (uint32_t record = 0; record < 9; ++record) Draw(plan, 100, 90, record);
  const Drawing again = Draw(plan, 300, 400, 5);
  CHECK(once.views[0].SamePixels(again.views[0]));
  CHECK(once.views[0].colors == again.views[0].colors);
  CHECK(!once.views[0].SamePixels(Draw(plan, 300, 400, 6).views[0]));
}

}  // namespace
}  // namespace pretexture
