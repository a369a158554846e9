#include "models/call_checkpoint.h"

#include <ATen/CPUGeneratorImpl.h>
#include <torch/custom_class.h>
#include <torch/torch.h>

namespace meristem {
namespace {

// States of the generators that a call on `device` may draw from.
class GeneratorStates {
 public:
  explicit GeneratorStates(at::Device device) {
    generators_.push_back(at::detail::getDefaultCPUGenerator());
    if (device.is_cuda()) generators_.push_back(at::globalContext().defaultGenerator(device));
    for (const at::Generator& generator : generators_) states_.push_back(generator.get_state());
  }
  void restore() {
    for (std::size_t i = 0; i < generators_.size(); ++i) generators_[i].set_state(states_[i]);
  }

 private:
  std::vector<at::Generator> generators_;
  std::vector<at::Tensor> states_;
};

// A call to be run again, with copies of what its context pointed to.
struct Recomputation : torch::CustomClassHolder {
  Recomputation(const nn::Block& called, const nn::CallContext& context, at::Device device)
      : block(called), call(context), positions_N(*context.positions_N), segments(*context.segments), rope(*context.rope), generators(device) {
    call.positions_N = &positions_N;
    call.segments = &segments;
    call.rope = &rope;
    call.memory = nullptr;  // lives no longer than the forward pass
  }
  nn::Block block;
  nn::CallContext call;
  at::Tensor positions_N;
  ops::Segments segments;
  ops::RopeTable rope;
  GeneratorStates generators;
};

class CheckpointedCall : public torch::autograd::Function<CheckpointedCall> {
 public:
  // Gradients are off in here: nothing but h_ND is kept.
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& h_ND, at::TensorList parameters,
                            const c10::intrusive_ptr<Recomputation>& again) {
    context->save_for_backward({h_ND});
    context->saved_data["parameters"] = parameters.vec();
    context->saved_data["again"] = c10::IValue::make_capsule(again);
    nn::CallContext call = again->call;
    return again->block->forward(h_ND, call);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list grads) {
    const auto holder = context->saved_data["again"].toCapsule();
    auto& again = static_cast<Recomputation&>(*holder);
    const at::Tensor saved = context->get_saved_variables()[0];
    torch::autograd::variable_list inputs{saved.detach().requires_grad_(true)};
    for (const at::Tensor& parameter : context->saved_data["parameters"].toTensorVector()) inputs.push_back(parameter);

    GeneratorStates now(saved.device());
    again.generators.restore();
    at::Tensor out_ND;
    {
      const at::AutoGradMode on(true);
      nn::CallContext call = again.call;
      call.loads = nullptr;  // counted the first time
      out_ND = again.block->forward(inputs[0], call);
    }
    now.restore();
    auto inner = torch::autograd::grad({out_ND}, inputs, {grads[0]}, /*retain_graph=*/false, /*create_graph=*/false, /*allow_unused=*/true);
    inner.emplace_back();  // the last argument is no tensor
    return inner;
  }
};

}  // namespace

at::Tensor checkpointed_call(const nn::Block& block, const at::Tensor& h_ND, const nn::CallContext& call) {
  std::vector<at::Tensor> parameters;
  for (const at::Tensor& parameter : block->parameters()) {
    if (parameter.requires_grad()) parameters.push_back(parameter);
  }
  return CheckpointedCall::apply(h_ND, at::TensorList(parameters), c10::make_intrusive<Recomputation>(block, call, h_ND.device()));
}

}  // namespace meristem
