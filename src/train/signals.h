// Stop requests: SIGTERM, SIGUSR1 and the first Ctrl-C ask the run to save and end with exit code 75; a second Ctrl-C ends it at once
// (130).
#pragma once

namespace meristem {

void install_stop_handlers();
bool stop_requested();
// Which signal asked, 0 for none.
int stop_signal();

}  // namespace meristem
