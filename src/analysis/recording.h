// What is analysed, the texts it reads, and what one text left on its way through the calls of a plan. Every instrument starts from here.
// In all of them a call counts as a layer.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "depth/plan.h"
#include "models/model.h"

namespace meristem {

using TokenIds = std::vector<std::int32_t>;

struct Subject {
  Model& model;
  DepthPlan plan;
  std::int64_t vocab_size = 0;
  at::Device device = at::kCPU;
  std::int64_t calls() const { return plan.num_calls(); }
  std::int64_t block(std::int64_t call) const { return plan.calls()[static_cast<std::size_t>(call)]; }
  // Names of the mixers of all blocks that the plan calls, in the order of the first that has each.
  std::vector<std::string> mixers() const;
  // The mixer's number in the block of a call; -1 where it has none of that name.
  std::int64_t mixer_of(std::int64_t call, const std::string& name) const;
};

// One signature: float64, the first axis the texts or items, the others as it says; NaN where it is undefined. `variants`: the same
// measure of one mixer alone, or of a task, by its name.
struct Measured {
  at::Tensor values;
  std::map<std::string, at::Tensor> variants;
};
using Measurements = std::map<std::string, Measured>;

// Those of several texts, each without its axis, along a first axis.
Measurements stacked(const std::vector<Measurements>& of_texts);

// How far the work is, in passes of one text, or what costs about as much.
class Work {
 public:
  Work() = default;
  explicit Work(std::function<void(std::size_t done, std::size_t total)> told) : told_(std::move(told)) {}
  void expect(std::int64_t passes) { total_ += passes; }
  void did(std::int64_t passes) {
    done_ += passes;
    if (told_) told_(static_cast<std::size_t>(done_), static_cast<std::size_t>(total_));
  }

 private:
  std::function<void(std::size_t, std::size_t)> told_;
  std::int64_t done_ = 0, total_ = 0;
};

// The same text `copies` times, or several texts; a token's target is the next one, the last has none.
Batch batch_of(const TokenIds& ids, std::int64_t copies, at::Device device);
Batch batch_of(const std::vector<TokenIds>& texts, at::Device device);

// InputError names the text (from 0) that has fewer than `least` tokens, or an id outside the vocabulary.
void check_texts(const std::vector<TokenIds>& texts, std::int64_t vocab_size, std::size_t least);

// T tokens, R calls, D width.
struct Recording {
  struct Call {
    at::Tensor input, output;         // [T, D]; the input with what a loop injects
    std::vector<at::Tensor> between;  // [T, D]: the stream behind each mixer
    at::Tensor chosen_Tk;             // of the experts; undefined without
    std::int64_t experts = 0;
    at::Tensor depth_weights_M;  // mean over tokens and heads, float64; undefined without depth attention
    // What the call, or one of its mixers, added to the stream.
    at::Tensor added() const { return output - input; }
    at::Tensor added(std::int64_t mixer) const { return between[static_cast<std::size_t>(mixer)] - before(mixer); }
    const at::Tensor& before(std::int64_t mixer) const { return mixer == 0 ? input : between[static_cast<std::size_t>(mixer - 1)]; }
  };
  std::vector<Call> calls;          // R
  std::vector<at::Tensor> streams;  // R + 1: what enters each call, before anything is injected, and what the last one leaves
};

Recording record(const Subject& subject, const Batch& batch);

}  // namespace meristem
