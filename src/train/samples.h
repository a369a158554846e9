// Samples during a run: token ids that the model writes after a fixed prompt; text is made of them by the plotting script.
#pragma once

#include "config/run_config.h"
#include "train/live_model.h"
#include "train/run_folder.h"

namespace meristem {

// Writes samples/step-N.json {"step", "prompt_ids", "ids"}. The prompt is the first tokens of the first validation source, or of the first
// training source where there is none.
void write_sample(LiveModel& live, const DepthPlan& plan, const RunConfig& config, const RunFolder& folder, at::Device device,
                  std::int64_t step);

// Runs MERISTEM_ROOT/scripts/python/plot_run.py with MERISTEM_PYTHON on the folder: plots/ and readable samples. Returns a line to say
// where it could not (no Python at hand, or the script failed); empty where it did.
std::string draw_plots(const RunFolder& folder);

}  // namespace meristem
