#include "data/best_fit.h"

#include <algorithm>
#include <map>

namespace meristem {

PackedDocuments best_fit_decreasing(std::int64_t count, std::int64_t capacity, const std::function<std::int64_t(std::int64_t)>& length,
                                    const std::function<std::int64_t(std::int64_t)>& at) {
  std::map<std::int64_t, std::vector<std::int64_t>, std::greater<>> by_length;  // documents of a length, in the order of their places
  for (std::int64_t place = 0; place < count; ++place) {
    const std::int64_t document = at(place), tokens = std::min(length(document), capacity);
    if (tokens > 0) by_length[tokens].push_back(document);
  }
  PackedDocuments rows;
  std::map<std::int64_t, std::vector<std::size_t>> by_room;  // rows that are not full
  for (const auto& [tokens, documents] : by_length) {
    for (const std::int64_t document : documents) {
      const auto fit = by_room.lower_bound(tokens);
      std::size_t row = rows.size();
      std::int64_t room = capacity;
      if (fit == by_room.end()) {
        rows.emplace_back();
      } else {
        room = fit->first;
        row = fit->second.back();
        fit->second.pop_back();
        if (fit->second.empty()) by_room.erase(fit);
      }
      rows[row].push_back(document);
      if (room > tokens) by_room[room - tokens].push_back(row);
    }
  }
  return rows;
}

}  // namespace meristem
