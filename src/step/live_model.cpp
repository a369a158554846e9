#include "step/live_model.h"

#include <algorithm>
#include <utility>
#include <vector>

#include <torch/torch.h>

#include "distributed/replica_sync.h"
#include "growth/remap.h"
#include "nn/depth_attention.h"

namespace meristem {
namespace {

// What the CUDA kernels are asked about.
ops::ModelShapes shapes_of(const RunConfig& config, const Timeline& timeline) {
  const ModelConfig& model = config.model;
  ops::ModelShapes shapes;
  shapes.width = model.width;
  shapes.head_dim = model.attention.head_dim;
  if (model.attention.qk_norm_over == QkNormOver::kAll) shapes.normed_width = model.attention.heads * model.attention.head_dim;
  if (model.depth_attention) {
    shapes.depth = nn::depth_heads(model);
    shapes.joint = model.depth_attention->kind == DepthAttentionKind::kJoint;
    shapes.entries = timeline.most_calls();
  }
  shapes.packed = config.data.document_mask;
  shapes.windows = model.attention.window > 0;
  shapes.score_cap = model.attention.score_cap > 0;
  shapes.geglu = model.feed_forward.kind == FeedForwardKind::kGeglu;
  if (model.feed_forward.kind == FeedForwardKind::kExperts) shapes.experts = model.feed_forward.count;
  return shapes;
}

ModelConfig model_of(const RunConfig& config, const Timeline& timeline, std::int64_t blocks) {
  ModelConfig model = config.model;
  model.blocks = blocks;
  // Starts that are scaled by the number of calls use the first stage's: only that stage is ever drawn.
  if (config.growth) model.depth_plan = timeline.stages().front().plan.print();
  return model;
}

// Brings tensors together of which each rank has a part and zeros elsewhere, many at a time, and hands them on in order.
class Joiner {
 public:
  Joiner(Ranks& ranks, const LiveModel::Take& take) : ranks_(ranks), take_(take) {}

  void join(const std::string& name, const at::Tensor& part) {
    waiting_.emplace_back(name, part);
    bytes_ += part.nbytes();
    if (bytes_ >= kBytesAtOnce) flush();
  }
  // One that every rank has whole.
  void pass_on(const std::string& name, const at::Tensor& whole) {
    flush();
    take_(name, whole);
  }
  void flush() {
    if (waiting_.empty()) return;
    std::vector<at::Tensor> bits;
    std::vector<std::int64_t> counts;
    for (const auto& [name, part] : waiting_) {
      bits.push_back(part.contiguous().view({-1}).view(at::kInt));
      counts.push_back(bits.back().numel());
    }
    const at::Tensor all = at::cat(bits);
    ranks_.join_bits(all);
    const std::vector<at::Tensor> joined = all.split_with_sizes(counts);
    for (std::size_t i = 0; i < waiting_.size(); ++i) {
      const auto& [name, part] = waiting_[i];
      // A copy: a part of the joined bits need not be aligned for eight bytes.
      take_(name, joined[i].clone().view(part.scalar_type()).view(part.sizes()));
    }
    waiting_.clear();
    bytes_ = 0;
  }

 private:
  static constexpr std::size_t kBytesAtOnce = std::size_t{64} << 20;
  Ranks& ranks_;
  const LiveModel::Take& take_;
  std::vector<std::pair<std::string, at::Tensor>> waiting_;
  std::size_t bytes_ = 0;
};

}  // namespace

ModelBuild model_build(const RunConfig& config, const Timeline& timeline, at::Device device) {
  const auto type = [](std::optional<Precision> precision) { return precision == Precision::kBf16 ? at::kBFloat16 : at::kFloat; };
  ModelBuild build;
  build.placement = {device, type(config.precision.compute), type(config.precision.residual), at::kFloat};
  build.paths = ops::resolve_paths(config.kernels, device, build.placement.compute, {}, shapes_of(config, timeline));
  build.checkpoint_every = config.memory.activation_checkpointing.every;
  return build;
}

LiveModel::LiveModel(const RunConfig& config, const Timeline& timeline, const ModelRegistry& registry, at::Device device,
                     std::int64_t blocks, bool fresh, std::shared_ptr<Ranks> ranks)
    : LiveModel(config, model_of(config, timeline, blocks), model_build(config, timeline, device), registry, fresh, std::move(ranks)) {}

LiveModel::LiveModel(const RunConfig& config, ModelConfig model, ModelBuild build, const ModelRegistry& registry, bool fresh,
                     std::shared_ptr<Ranks> ranks)
    : config_(config),
      model_config_(std::move(model)),
      build_(std::move(build)),
      registry_(registry),
      ranks_(std::move(ranks)),
      sharded_(shards_optimizer(config.parallel, *ranks_)) {
  // Starting values are drawn in fp32 and become the masters; the compute copy is rounded from them.
  model_ = registry.make(model_config_, build_, config.data.sequence_length);
  // A mixer that cannot be silent is found at the start, not at the first growth.
  if (config.growth && config.growth->inserted == InsertedBlocks::kSilent) mixer_ends(*model_, model_config_.blocks);
  const std::vector<ParameterInfo> infos = model_->parameter_infos();
  const std::vector<FlatPiece> owned = owned_pieces(flat_layout(infos, config.optimizer, ranks_->size()), config.parallel, *ranks_);
  parameters_ = std::make_unique<FlatParameters>(infos, build_.placement.compute, config.optimizer, ranks_->size(), owned);
  if (fresh) parameters_->load_masters(nn::initial_values(*model_, static_cast<std::uint64_t>(config.run.seed)));
  optimizer_ = std::make_unique<Optimizer>(*parameters_, config.optimizer, build_.paths.adamw, owned);
}

void LiveModel::load(const NamedTensors& weights, const NamedTensors& optimizer) {
  parameters_->load_masters(weights);
  optimizer_->load_state(optimizer);
}

void LiveModel::each_weight(const Take& take) const {
  torch::NoGradGuard no_grad;
  Joiner joiner(*ranks_, take);
  for (const FlatEntry& entry : parameters_->entries()) {
    // With bf16 weights each rank has the masters of its own pieces.
    if (!sharded_ || !parameters_->half().defined() || entry.stays_fp32) {
      joiner.pass_on(entry.name, parameters_->master(entry));
      continue;
    }
    const at::Tensor whole = torch::zeros(entry.shape, parameters_->grad().options());
    parameters_->each_kept(
        entry, [&](std::int64_t offset, const at::Tensor& masters) { whole.view({-1}).narrow(0, offset, masters.numel()).copy_(masters); });
    joiner.join(entry.name, whole);
  }
  joiner.flush();
}

void LiveModel::each_state(const Take& take) const {
  torch::NoGradGuard no_grad;
  Joiner joiner(*ranks_, take);
  for (const std::string& name : optimizer_->names()) {
    if (sharded_) {
      joiner.join(name, optimizer_->kept(name));
    } else {
      joiner.pass_on(name, optimizer_->kept(name));
    }
  }
  joiner.flush();
}

std::unique_ptr<LiveModel> LiveModel::grown(const std::vector<std::int64_t>& source_of, InsertedBlocks inserted,
                                            InsertedMoments moments) const {
  ModelConfig model = model_config_;
  model.blocks = static_cast<std::int64_t>(source_of.size());
  std::unique_ptr<LiveModel> next(new LiveModel(config_, std::move(model), build_, registry_, /*fresh=*/false, ranks_));
  NamedTensors weights, state;
  const auto into = [this](NamedTensors& tensors) {
    return [&](const std::string& name, const at::Tensor& tensor) { tensors.add(name, sharded_ ? tensor.cpu() : tensor); };
  };
  each_weight(into(weights));
  each_state(into(state));
  state = remap(state, source_of);
  weights = remap(weights, source_of);
  if (inserted == InsertedBlocks::kSilent) zero_inserted(weights, source_of, mixer_ends(*next->model_, model_config_.blocks));
  if (moments == InsertedMoments::kZero) zero_inserted(state, source_of, begins_with(state_prefixes(config_.optimizer)));
  next->load(weights, state);
  return next;
}

}  // namespace meristem
