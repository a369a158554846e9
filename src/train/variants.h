// Several runs of one file in order, most often branches of one checkpoint, and the page that compares them.
#pragma once

#include "config/load.h"
#include "core/errors.h"
#include "models/registry.h"
#include "train/start.h"

namespace meristem {

// Checks the start of every run before the first one begins, then trains them one after another; with resume auto finished ones are
// passed over. One that stops on a non-finite value does not keep the others from running: kNonFinite in the end. kInterrupted at once.
// The comparison goes to OUT/NAME-report.html.
ExitCode run_variants(const RunVariants& variants, const StartRequest& request, const ModelRegistry& registry);

}  // namespace meristem
