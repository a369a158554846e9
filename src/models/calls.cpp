#include "models/calls.h"

#include <algorithm>
#include <mutex>

#include <ATen/CPUGeneratorImpl.h>
#include <fmt/format.h>
#include <torch/custom_class.h>
#include <torch/torch.h>

#include "core/errors.h"

namespace meristem {

LoopRun::LoopRun(const LoopConfig& config, const DepthPlan& plan, const nn::Linear& adapter)
    : injection_(config.injection), adapter_(adapter) {
  if (plan.loop()) {
    span_ = *plan.loop();
    if (config.backprop_last) first_learning_ = std::max<std::int64_t>(0, span_.repeats - *config.backprop_last);
  } else if (injection_ != Injection::kNone) {
    throw InputError(
        fmt::format("depth plan {}: this model injects into its loop (model.loop.injection: {}); write that loop as one group, "
                    "such as (0-3)x2, with x1 where it runs once",
                    plan.print(), word_of(injection_)));
  }
}

bool LoopRun::learns(std::int64_t r) const { return span_.length == 0 || !span_.holds(r) || span_.repeat_of(r) >= first_learning_; }

bool LoopRun::hands_on(std::int64_t r) const {
  return (injection_ == Injection::kNone || !span_.begins_repeat(r + 1)) && learns(r) == learns(r + 1);
}

at::Tensor LoopRun::input(const at::Tensor& h_ND, std::int64_t r) {
  if (injection_ == Injection::kNone || !span_.begins_repeat(r)) return h_ND;
  const bool first = r == span_.start;
  if (first) first_input_ND_ = h_ND;
  if (injection_ == Injection::kAdd) return first ? h_ND : h_ND + first_input_ND_;
  const at::Tensor both = at::cat({h_ND, first_input_ND_}, 1);
  return adapter_->forward(both.to(adapter_->weight().scalar_type())).to(h_ND.scalar_type());
}

namespace {

using torch::autograd::variable_list;

// States of the generators that a call on `device` may draw from.
class GeneratorStates {
 public:
  explicit GeneratorStates(at::Device device) {
    generators_.push_back(at::detail::getDefaultCPUGenerator());
    if (device.is_cuda()) generators_.push_back(at::globalContext().defaultGenerator(device));
    for (at::Generator& generator : generators_) {
      const std::lock_guard<std::mutex> alone(generator.mutex());  // strands may be at it at the same time
      states_.push_back(generator.get_state());
    }
  }
  void restore() {
    for (std::size_t i = 0; i < generators_.size(); ++i) {
      const std::lock_guard<std::mutex> alone(generators_[i].mutex());
      generators_[i].set_state(states_[i]);
    }
  }

 private:
  std::vector<at::Generator> generators_;
  std::vector<at::Tensor> states_;
};

// A call as a function of tensors: the call's input, what the call before left (where an injection makes that another tensor) and what it
// began with (where there was one), and the keys and values of the depth so far -> the call's output, and the keys and values that it adds.
// Holds copies of what its context pointed to.
struct RepeatableCall : torch::CustomClassHolder {
  RepeatableCall(const nn::Block& called, const at::Tensor& h_ND, const nn::CallContext& context)
      : block(called),
        call(context),
        positions_N(*context.positions_N),
        documents(*context.documents),
        rope(*context.rope),
        generators(h_ND.device()) {
    call.positions_N = &positions_N;
    call.documents = &documents;
    call.rope = &rope;
    if (context.memory == nullptr) return;
    injected = injects(h_ND, *context.memory);
    has_previous = context.memory->previous.defined();
    entries = context.memory->keys.size();
  }

  static bool injects(const at::Tensor& h_ND, const nn::DepthMemory& memory) { return !memory.state.is_same(h_ND); }

  static variable_list inputs(const at::Tensor& h_ND, const nn::DepthMemory* memory) {
    variable_list inputs{h_ND};
    if (memory == nullptr) return inputs;
    if (injects(h_ND, *memory)) inputs.push_back(memory->state);
    if (memory->previous.defined()) inputs.push_back(memory->previous);
    inputs.insert(inputs.end(), memory->keys.begin(), memory->keys.end());
    inputs.insert(inputs.end(), memory->values.begin(), memory->values.end());
    return inputs;
  }

  variable_list run(const variable_list& inputs, bool counts) const {
    nn::DepthMemory memory;
    auto keys = inputs.begin() + 1;
    memory.state = injected ? *keys++ : inputs[0];
    if (has_previous) memory.previous = *keys++;
    const auto values = keys + static_cast<std::ptrdiff_t>(entries);
    memory.keys.assign(keys, values);
    memory.values.assign(values, values + static_cast<std::ptrdiff_t>(entries));
    nn::CallContext context = call;
    context.memory = &memory;
    if (!counts) {
      context.loads_E = at::Tensor();
      context.observer = nullptr;
    }
    variable_list outputs{nn::Block(block)->forward(inputs[0], context)};
    // A view would keep all of what it is a part of.
    for (std::size_t i = entries; i < memory.keys.size(); ++i) outputs.push_back(memory.keys[i].contiguous());
    for (std::size_t i = entries; i < memory.values.size(); ++i) outputs.push_back(memory.values[i].contiguous());
    return outputs;
  }

  nn::Block block;
  nn::CallContext call;
  at::Tensor positions_N;
  ops::Documents documents;
  ops::RopeTable rope;
  GeneratorStates generators;
  bool injected = false, has_previous = false;
  std::size_t entries = 0;
};

class CheckpointedCall : public torch::autograd::Function<CheckpointedCall> {
 public:
  // Gradients are off in here: nothing but the inputs is kept.
  static variable_list forward(torch::autograd::AutogradContext* context, at::TensorList inputs, at::TensorList parameters,
                               const c10::intrusive_ptr<RepeatableCall>& call) {
    context->save_for_backward(inputs.vec());
    context->saved_data["parameters"] = parameters.vec();
    context->saved_data["call"] = c10::IValue::make_capsule(call);
    context->set_materialize_grads(false);
    return call->run(inputs.vec(), /*counts=*/true);
  }

  static variable_list backward(torch::autograd::AutogradContext* context, variable_list grads) {
    const auto holder = context->saved_data["call"].toCapsule();
    auto& call = static_cast<RepeatableCall&>(*holder);
    variable_list inputs;
    for (const at::Tensor& saved : context->get_saved_variables()) inputs.push_back(saved.detach().requires_grad_(true));
    GeneratorStates now(inputs[0].device());
    call.generators.restore();
    variable_list outputs;
    {
      const at::AutoGradMode on(true);
      outputs = call.run(inputs, /*counts=*/false);
    }
    now.restore();

    variable_list reached, reached_grads;  // nobody may have read what the last calls added
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      if (!grads[i].defined()) continue;
      reached.push_back(outputs[i]);
      reached_grads.push_back(grads[i]);
    }
    for (const at::Tensor& parameter : context->saved_data["parameters"].toTensorVector()) inputs.push_back(parameter);
    auto inner =
        torch::autograd::grad(reached, inputs, reached_grads, /*retain_graph=*/false, /*create_graph=*/false, /*allow_unused=*/true);
    inner.emplace_back();  // the last argument is no tensor
    return inner;
  }
};

}  // namespace

at::Tensor checkpointed_call(const nn::Block& block, const at::Tensor& h_ND, nn::CallContext& call) {
  variable_list parameters;
  for (const at::Tensor& parameter : block->parameters()) {
    if (parameter.requires_grad()) parameters.push_back(parameter);
  }
  const variable_list inputs = RepeatableCall::inputs(h_ND, call.memory);
  const auto outputs =
      CheckpointedCall::apply(at::TensorList(inputs), at::TensorList(parameters), c10::make_intrusive<RepeatableCall>(block, h_ND, call));
  const std::size_t added = (outputs.size() - 1) / 2;
  for (std::size_t i = 1; i <= added; ++i) {
    call.memory->keys.push_back(outputs[i]);
    call.memory->values.push_back(outputs[i + added]);
  }
  return outputs[0];
}

}  // namespace meristem
