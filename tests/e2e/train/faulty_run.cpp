// `meristem train` with a fault planted in it, which the storm has to find.
//   faulty_run drops-position|published-first train CONFIG.yaml [--resume auto]
#include "config/load.h"
#include "run/run.h"
#include "support/published_first.h"
#include "support/run_main.h"

namespace {

using namespace meristem;

// Begins anew on resume: the run reads what it has read before.
class ForgetfulLoader : public Loader {
 public:
  using Loader::Loader;
  void seek(const LoaderPosition&) override {}
};

RunParts parts_with(const std::string& fault) {
  RunParts parts;
  if (fault == "published-first") {
    parts.make_checkpoint_folder = test::make_published_first;
  } else if (fault == "drops-position") {
    parts.make_loader = [](const RunConfig& config, const Timeline&, const Ranks&) {  // whose phases begin at steps
      return std::make_unique<ForgetfulLoader>(config.data, config.phases, config.batch.tokens / config.data.sequence_length,
                                               config.model.vocab_size, config.run.seed);
    };
  } else {
    throw InputError("no such fault: " + fault);
  }
  return parts;
}

void run(const std::vector<std::string>& arguments) {
  StartRequest request;
  if (arguments.size() > 3 && arguments[3] == "--resume") request.resume = arguments.at(4);
  run_training(load_config(arguments.at(2), {}), request, builtin_registry(), parts_with(arguments.at(0)));
}

}  // namespace

int main(int argc, char** argv) { return test::run_main(argc, argv, run); }
