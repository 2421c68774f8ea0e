#include "plan.h"

#include <utility>

#include "error.h"

namespace pretexture {

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
  Drawing drawing{draws, views, labels};
  for (const Op& operation : ops) {
    std::visit([&](const auto& op) { op.Draw(&drawing); }, operation);
  }
}

}  // namespace pretexture
