#include <algorithm>
#include <cmath>
#include <vector>

#include <fmt/format.h>

#include "core/text.h"
#include "metrics/progress.h"

namespace meristem {
namespace {

// 941, 12.3k, 1.25M: three figures and a letter.
std::string short_number(double value) {
  static constexpr const char* kSuffix[] = {"", "k", "M", "G", "T", "P"};
  std::size_t i = 0;
  while (std::abs(value) >= 999.5 && i + 1 < std::size(kSuffix)) {
    value /= 1000;
    ++i;
  }
  const int decimals = i == 0 || std::abs(value) >= 99.95 ? 0 : std::abs(value) >= 9.995 ? 1 : 2;
  return fmt::format("{:.{}f}{}", value, decimals, kSuffix[i]);
}

std::string depth_text(const ProgressState& state) {
  if (state.blocks == 0) return "";
  if (state.calls == 0 || state.calls == state.blocks) return fmt::format("{} blocks", state.blocks);
  return fmt::format("{} blocks, {} calls", state.blocks, state.calls);
}

double fraction_done(const ProgressState& state) {
  if (state.total <= 0) return 0;
  return std::clamp(static_cast<double>(state.step) / static_cast<double>(state.total), 0.0, 1.0);
}

std::string named(const char* name, double value, const char* format) {
  return std::isnan(value) ? "" : fmt::format("{} {}", name, fmt::format(fmt::runtime(format), value));
}

// Whether LANG and friends matter is not worth asking: block characters are UTF-8, which every terminal of today reads.
std::string bar_text(double fraction, int cells) {
  static constexpr const char* kEighths[] = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
  const int eighths = static_cast<int>(std::lround(fraction * cells * 8));
  std::string text;
  int used = 0;
  for (; used < eighths / 8; ++used) text += "█";
  if (eighths % 8 != 0) {
    text += kEighths[eighths % 8];
    ++used;
  }
  return text + std::string(static_cast<std::size_t>(cells - used), ' ');
}

}  // namespace

std::string duration_text(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0 || seconds > 1e9) return "?";
  const auto s = static_cast<std::int64_t>(std::llround(seconds));
  if (s < 60) return fmt::format("{}s", s);
  if (s < 3600) return fmt::format("{}m{:02}s", s / 60, s % 60);
  if (s < 86400) return fmt::format("{}h{:02}m", s / 3600, s / 60 % 60);
  return fmt::format("{}d{:02}h", s / 86400, s / 3600 % 24);
}

std::string progress_line(const ProgressState& state) {
  std::vector<std::string> fields{fmt::format("step {}/{}", state.step, state.total),
                                  named("loss", state.loss, "{:.4f}"),
                                  named("lr", state.lr, "{:.3g}"),
                                  named("grad", state.grad_norm, "{:.3g}"),
                                  depth_text(state),
                                  std::isnan(state.tokens_per_second) ? "" : short_number(state.tokens_per_second) + " tokens/s",
                                  std::isnan(state.eta) ? "" : duration_text(state.eta) + " left"};
  std::erase(fields, "");
  return fmt::format("{}", fmt::join(fields, "  "));
}

std::string progress_bar(const ProgressState& state, int columns) {
  struct Field {
    std::string text;
    int worth;  // the least worthy field goes first when the line is too long
  };
  std::vector<Field> fields{{fmt::format("{:3.0f}%", std::floor(100 * fraction_done(state))), 6},
                            {fmt::format("{}/{}", state.step, state.total), 7},
                            {named("loss", state.loss, "{:.4f}"), 5},
                            {depth_text(state), 3},
                            {std::isnan(state.tokens_per_second) ? "" : short_number(state.tokens_per_second) + " tok/s", 2},
                            {std::isnan(state.eta) ? "" : duration_text(state.eta) + " left", 4},
                            {named("lr", state.lr, "{:.2g}"), 1},
                            {named("grad", state.grad_norm, "{:.2f}"), 0}};
  std::erase_if(fields, [](const Field& field) { return field.text.empty(); });
  const auto width = [&] {
    int sum = 0;
    for (const Field& field : fields) sum += static_cast<int>(field.text.size()) + 2;
    return sum - 2;
  };
  constexpr int kFewestCells = 10, kMostCells = 40, kFrame = 3;  // two bars around the cells and a space
  const bool room_for_bar = columns >= 40;
  while (fields.size() > 1 && width() + (room_for_bar ? kFewestCells + kFrame : 0) > columns) {
    fields.erase(std::min_element(fields.begin(), fields.end(), [](const Field& a, const Field& b) { return a.worth < b.worth; }));
  }
  std::string text;
  if (const int cells = std::min(kMostCells, columns - width() - kFrame); room_for_bar && cells >= 1) {
    text = "▕" + bar_text(fraction_done(state), cells) + "▏ ";
  }
  for (std::size_t i = 0; i < fields.size(); ++i) text += (i == 0 ? "" : "  ") + fields[i].text;
  if (!room_for_bar && static_cast<int>(text.size()) > columns) text.resize(static_cast<std::size_t>(std::max(columns, 0)));
  return text;
}

}  // namespace meristem
