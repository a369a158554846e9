#include "models/depth_model.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "models/calls.h"
#include "optim/flat_parameters.h"

namespace meristem {
namespace {

// A named group of modules, so that block i's parameters are called "blocks.i.…".
class Group : public nn::Module {
 public:
  void add(const std::string& name, const nn::Block& block) { register_module(name, block); }
};

}  // namespace

DepthModel::DepthModel(const ModelConfig& config, const ModelBuild& build, std::int64_t max_positions, const BlockFactory& make_block)
    : config_(config), build_(build) {
  const std::int64_t vocab = config.vocab_size, width = config.width;
  embedding_ = register_module("embedding", nn::Linear(width, vocab, nn::kInitStd, build.placement, Role::kEmbedding));
  const auto group = register_module("blocks", std::make_shared<Group>());
  for (std::int64_t i = 0; i < config.blocks; ++i) {
    blocks_.push_back(make_block(i));
    group->add(std::to_string(i), blocks_.back());
    experts_ = std::max(experts_, blocks_.back()->experts());
  }
  norm_ = register_module("norm", nn::RmsNorm(width, config.norm_eps, build.placement, build.paths.rms_norm));
  if (!config.tie_embeddings) head_ = register_module("head", nn::Linear(width, vocab, nn::kInitStd, build.placement, Role::kHead));
  if (config.loop.injection == Injection::kConcat)
    injection_ = register_module("injection", nn::Linear(2 * width, width, nn::kInitStd, build.placement));
  if (!build.placement.device.is_meta()) grow_rope_table(max_positions);
}

void DepthModel::grow_rope_table(std::int64_t positions) {
  if (rope_.cos.defined() && rope_.cos.size(0) >= positions) return;
  if (rope_.cos.defined()) positions = std::max(positions, 2 * rope_.cos.size(0));  // a text may grow token by token
  std::optional<ops::RopeScaling> scaling;
  if (const auto& given = config_.attention.rope_scaling) {
    scaling = {given->factor, given->low_freq_factor, given->high_freq_factor, static_cast<double>(given->original_positions)};
  }
  rope_ = ops::make_rope_table(positions, config_.attention.head_dim, config_.attention.rope_theta,
                               torch::dtype(build_.placement.norm).device(build_.placement.device), scaling);
  if (config_.attention.no_rope_every > 0) no_rotation_ = ops::no_rotation(rope_);
}

// Positions count within a document, so the longest one bounds them.
void DepthModel::make_room_for(const Batch& batch) {
  if (build_.placement.device.is_meta() || batch.documents.lengths.empty()) return;
  const ops::Documents& documents = batch.documents;
  std::int64_t longest = 0;
  for (std::size_t d = 0; d < documents.lengths.size(); ++d) {
    std::int64_t tokens = documents.lengths[d];
    for (const std::size_t b : documents.before(d)) tokens += documents.lengths[b];
    longest = std::max(longest, tokens);
  }
  grow_rope_table(longest);
}

at::Tensor DepthModel::run(const at::Tensor& tokens_N, const DepthPlan& plan, nn::CallContext call, const std::vector<DecodeCache*>& caches,
                           bool counts_loads) {
  LoopRun loop(config_.loop, plan, injection_);
  const auto reads = [this](std::int64_t part) {
    if (before_reading_) before_reading_(part);
  };
  reads(kFirstPart);
  at::Tensor h_ND = ops::embedding(embedding_->weight(), tokens_N, build_.paths.linear).to(build_.placement.residual);
  if (config_.embedding_scale != 1) h_ND = h_ND * config_.embedding_scale;
  nn::DepthMemory memory;
  memory.gradients = c10::make_intrusive<ops::DepthGradients>();
  call.memory = &memory;
  const at::Tensor* const asked_A = call.asked_A;
  at::Tensor left_ND;  // by the call before
  call.observer = observer_;
  if (observer_ != nullptr) observer_->begins(tokens_N, *call.positions_N);
  for (std::int64_t r = 0; r < plan.num_calls(); ++r) {
    const at::AutoGradMode learns(at::GradMode::is_enabled() && loop.learns(r));
    call.depth_index = r;
    call.block = plan.calls()[static_cast<std::size_t>(r)];
    call.rope = config_.attention.turns(call.block) ? &rope_ : &no_rotation_;
    call.loads_E = counts_loads ? counts_.row(r) : at::Tensor();
    call.decoding.clear();
    for (DecodeCache* cache : caches) call.decoding.push_back(&cache->calls.at(static_cast<std::size_t>(r)));
    reads(call.block);
    const bool last = r + 1 == plan.num_calls();
    call.asked_A = last ? asked_A : nullptr;
    call.next_norm = {};
    if (!last && loop.hands_on(r) && !checkpoints(r) && !checkpoints(r + 1)) {
      call.next_norm = [&, next = plan.calls()[static_cast<std::size_t>(r + 1)]] {
        reads(next);
        return blocks_[static_cast<std::size_t>(next)]->input_norm();
      };
    }
    if (observer_ != nullptr) h_ND = observer_->entering(call, h_ND);
    const at::Tensor input_ND = loop.input(h_ND, r);
    memory.begin_call(h_ND, input_ND);
    if (!input_ND.is_same(left_ND)) call.normed_ND = at::Tensor();  // which is of what was left
    h_ND = left_ND = run_call(input_ND, call.block, call);
    if (observer_ != nullptr) h_ND = observer_->leaving(call, input_ND, h_ND);
  }
  reads(kLastPart);
  return h_ND;
}

at::Tensor DepthModel::run_call(const at::Tensor& h_ND, std::int64_t index, nn::CallContext& call) const {
  nn::Block block = blocks_.at(static_cast<std::size_t>(index));
  if (checkpoints(call.depth_index) && at::GradMode::is_enabled() && call.decoding.empty()) return checkpointed_call(block, h_ND, call);
  return block->forward(h_ND, call);
}

namespace {

at::Tensor rms_of(const at::Tensor& h_ND) {
  const torch::NoGradGuard no_grad;
  return h_ND.norm() / std::sqrt(static_cast<double>(h_ND.numel()));
}

}  // namespace

at::Tensor StreamRms::entering(const nn::CallContext& call, const at::Tensor& h_ND) {
  if (call.depth_index == 0) keep(h_ND);
  return h_ND;
}

at::Tensor StreamRms::leaving(const nn::CallContext&, const at::Tensor&, const at::Tensor& output_ND) {
  keep(output_ND);
  return output_ND;
}

void StreamRms::keep(const at::Tensor& h_ND) {
  Seen& seen = by_strand_.at(static_cast<std::size_t>(ops::strand()));
  seen.rows = h_ND.size(0);
  seen.rms.push_back(rms_of(h_ND));
}

std::vector<at::Tensor> StreamRms::values() const {
  std::vector<at::Tensor> values = by_strand_.front().rms;
  if (by_strand_.size() == 1) return values;
  for (std::size_t i = 0; i < values.size(); ++i) {
    at::Tensor squares = at::zeros({}, at::kDouble);
    std::int64_t rows = 0;
    for (const Seen& seen : by_strand_) {
      squares = squares + seen.rms.at(i).to(at::kDouble).square() * seen.rows;
      rows += seen.rows;
    }
    values[i] = (squares / rows).sqrt().to(values[i].scalar_type());
  }
  return values;
}

nn::LossSums DepthModel::loss(const Batch& batch, const DepthPlan& plan) {
  make_room_for(batch);
  const ops::Documents documents = batch.documents.on(batch.tokens_N.device());
  nn::CallContext call;
  call.positions_N = &batch.positions_N;
  call.documents = &documents;
  if (!at::GradMode::is_enabled()) return loss_where_asked(batch, plan, call);
  return loss_of(run(batch.tokens_N, plan, call, {}, /*counts_loads=*/true), batch.targets_N);
}

nn::LossSums DepthModel::loss_of(const at::Tensor& h_ND, const at::Tensor& targets_N) const {
  return nn::head_loss(norm_->forward(h_ND), head_weight(), targets_N, config_.logit_cap, build_.paths);
}

// In scoring few tokens have a target, and the head is as expensive as some blocks; of the last call the others need no more than their
// keys and values. Training would pay for it with a wait for the device.
nn::LossSums DepthModel::loss_where_asked(const Batch& batch, const DepthPlan& plan, nn::CallContext call) {
  const at::Tensor asked = batch.targets_N.ge(0).nonzero().squeeze(1);
  if (asked.numel() == batch.targets_N.numel()) return loss_of(run(batch.tokens_N, plan, call), batch.targets_N);
  // What a token keeps of its way through the depth is there for all rows, and whoever observes the pass wants all of it.
  if (!config_.depth_attention && observer_ == nullptr) call.asked_A = &asked;
  at::Tensor h_ND = run(batch.tokens_N, plan, call);
  if (h_ND.size(0) != asked.numel()) h_ND = h_ND.index_select(0, asked);
  const nn::LossSums some = loss_of(h_ND, batch.targets_N.index_select(0, asked));
  return {some.loss_sum, at::zeros(batch.targets_N.sizes(), some.losses_N.options()).index_copy_(0, asked, some.losses_N)};
}

at::Tensor DepthModel::stream(const Batch& batch, const DepthPlan& plan) {
  make_room_for(batch);
  const ops::Documents documents = batch.documents.on(batch.tokens_N.device());
  nn::CallContext call;
  call.positions_N = &batch.positions_N;
  call.documents = &documents;
  return run(batch.tokens_N, plan, call);
}

at::Tensor DepthModel::read_out(const at::Tensor& h_ND) const {
  return nn::head_logits(norm_->forward(h_ND), head_weight(), config_.logit_cap);
}

at::Tensor DepthModel::decode(const at::Tensor& tokens_N, const std::vector<std::int64_t>& lengths, const DepthPlan& plan,
                              const std::vector<DecodeCache*>& caches) {
  const torch::NoGradGuard no_grad;
  const ops::DecodingRows decoded;
  std::vector<std::int32_t> positions;
  std::vector<std::int64_t> last;  // row of each sequence
  nn::CallContext call;
  std::int64_t longest = 0;
  for (std::size_t s = 0; s < caches.size(); ++s) {
    DecodeCache& cache = *caches[s];
    if (cache.calls.empty()) cache.calls.resize(plan.calls().size());
    TORCH_CHECK(cache.calls.size() == plan.calls().size(), "the cache is of ", cache.calls.size(), " calls, the plan has ",
                plan.num_calls());
    for (std::int64_t t = 0; t < lengths[s]; ++t) positions.push_back(static_cast<std::int32_t>(cache.length + t));
    last.push_back(std::ssize(positions) - 1);
    cache.length += lengths[s];
    longest = std::max({longest, cache.length, cache.expected});
    call.expected = std::max(call.expected, cache.expected);
  }
  grow_rope_table(longest);
  const at::Tensor positions_N = torch::tensor(positions, at::kInt).to(tokens_N.device());
  const ops::Documents documents = ops::Documents{lengths}.on(tokens_N.device());
  call.positions_N = &positions_N;
  call.documents = &documents;
  at::Tensor h_ND = run(tokens_N, plan, call, caches);
  if (h_ND.size(0) > std::ssize(last)) h_ND = h_ND.index_select(0, torch::tensor(last).to(tokens_N.device()));
  return read_out(h_ND);
}

bool DepthModel::runs_on_strands() const {
  return std::all_of(blocks_.begin(), blocks_.end(), [](const nn::Block& block) { return block->runs_on_strands(); });
}

void DepthModel::begin_update(const DepthPlan& plan, std::int64_t strands) {
  calls_ = plan.calls();
  for (const nn::Block& block : blocks_) nn::Block(block)->prepare(plan.num_calls());
  if (experts_ > 0) counts_.begin(plan.num_calls(), experts_, build_.placement.device, strands);
}

void DepthModel::after_step(const at::Tensor& updated, const at::Tensor& counts) {
  last_loads_ = {};
  // Depths of one block count together, so that they may specialise.
  std::map<std::int64_t, at::Tensor> by_block;
  for (std::int64_t r = 0; counts.defined() && r < counts.size(0); ++r) {
    const std::int64_t block = calls_.at(static_cast<std::size_t>(r));
    if (blocks_.at(static_cast<std::size_t>(block))->experts() == 0) continue;
    last_loads_.add(r, block, counts[r]);
    at::Tensor& sum = by_block[block];
    sum = sum.defined() ? sum + counts[r] : counts[r];
  }
  for (const auto& [block, counts_E] : by_block) blocks_.at(static_cast<std::size_t>(block))->balance(counts_E, updated);
}

nn::CallCost DepthModel::call_cost(std::int64_t block, const nn::CallPlace& place) const {
  nn::CallPlace in_block = place;
  in_block.block = block;
  return blocks_.at(static_cast<std::size_t>(block))->cost(in_block);
}

nn::CallCost DepthModel::injection_cost() const {
  nn::CallCost cost;
  const double width = static_cast<double>(config_.width);
  if (config_.loop.injection == Injection::kConcat) {
    cost.matmul_flops = 2 * 2 * width * width;
    cost.saved_elements = 2 * width;  // both inputs side by side
  }
  return cost;
}

double DepthModel::head_flops() const { return nn::head_flops(config_.vocab_size, config_.width); }

}  // namespace meristem
