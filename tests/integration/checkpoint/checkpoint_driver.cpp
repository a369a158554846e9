// What the Python tests of this folder drive: checkpoint_driver [published-first] COMMAND …
//   save FOLDER STEP [WIDTH]    writes one checkpoint
//   loop CHECKPOINTS            writes and rotates checkpoints, from the newest on, until it is killed; a line before each
//   verify CHECKPOINTS          loads every published one; prints the newest step (-1: none); exit 4 where one is damaged
//   write FILE                  a safetensors file of every dtype
//   list FILE                   its tensors as JSON: name, dtype, shape, bytes in hex
// published-first plants a fault into what save and loop do: support/published_first.h.
#include <iostream>
#include <string>

#include <nlohmann/json.hpp>

#include "checkpoint/store.h"
#include "support/published_first.h"
#include "support/run_main.h"
#include "support/sample_checkpoint.h"

namespace {

using namespace meristem;
namespace fs = std::filesystem;

constexpr std::int64_t kLoopWidth = 20'000;  // 320 kB of weights: a write takes long enough to be hit

void loop(const fs::path& folder, const MakeFolder& make_folder) {
  const auto newest = newest_whole_checkpoint(folder);
  for (std::int64_t step = newest ? newest->step + 1 : 1;; ++step) {
    std::cout << step << std::endl;
    save_checkpoint(folder / checkpoint_name(step), test::SampleCheckpoint(step, kLoopWidth).content, make_folder);
    rotate_checkpoints(folder, 2, 50, {});
  }
}

void verify(const fs::path& folder) {
  std::int64_t newest = -1;
  for (const std::string& name : folder_entries(folder)) {
    const auto step = checkpoint_step(name);
    if (!step) continue;
    const LoadedCheckpoint loaded = load_checkpoint(folder / name);
    const test::SampleCheckpoint expected(*step, kLoopWidth);
    if (loaded.state != expected.content.state) throw DamagedError(name + ": the state is not what was saved");
    newest = *step;
  }
  std::cout << newest << "\n";
}

void write(const fs::path& file) {
  std::vector<unsigned char> bytes(96);
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<unsigned char>(i);
  std::vector<TensorView> tensors;
  for (const Dtype dtype :
       {Dtype::kF64, Dtype::kF32, Dtype::kF16, Dtype::kBF16, Dtype::kI64, Dtype::kI32, Dtype::kI16, Dtype::kI8, Dtype::kU8}) {
    tensors.push_back({"t." + std::string(dtype_name(dtype)), dtype, {3, 4}, bytes.data()});
  }
  const std::vector<unsigned char> flags{1, 0, 1};
  tensors.push_back({"flags", Dtype::kBool, {3}, flags.data()});
  tensors.push_back({"scalar é", Dtype::kI64, {}, bytes.data()});
  tensors.push_back({"empty", Dtype::kF32, {0, 5}, bytes.data()});
  write_safetensors(file, tensors, {{"format", "pt"}, {"note", "a \"quoted\" é"}});
}

void list(const fs::path& path) {
  const SafetensorsFile file = SafetensorsFile::open(path);
  nlohmann::json out{{"metadata", file.metadata()}, {"tensors", nlohmann::json::object()}};
  for (const TensorView& tensor : file.tensors()) {
    const auto bytes = std::span(static_cast<const std::byte*>(tensor.data), tensor.bytes());
    std::string hex;
    for (const std::byte b : bytes)
      hex += "0123456789abcdef"[std::to_integer<int>(b) >> 4], hex += "0123456789abcdef"[std::to_integer<int>(b) & 15];
    out["tensors"][tensor.name] = {{"dtype", dtype_name(tensor.dtype)}, {"shape", tensor.shape}, {"hex", hex}};
  }
  std::cout << out.dump() << "\n";
}

void run(std::vector<std::string> arguments) {
  MakeFolder make_folder = make_pending_folder;
  if (arguments.at(0) == "published-first") {
    make_folder = test::make_published_first;
    arguments.erase(arguments.begin());
  }
  const std::string& command = arguments.at(0);
  const fs::path path = arguments.at(1);
  if (command == "save") {
    const std::int64_t width = arguments.size() > 3 ? std::stoll(arguments[3]) : 6;
    save_checkpoint(path, test::SampleCheckpoint(std::stoll(arguments.at(2)), width).content, make_folder);
  } else if (command == "loop") {
    loop(path, make_folder);
  } else if (command == "verify") {
    verify(path);
  } else if (command == "write") {
    write(path);
  } else if (command == "list") {
    list(path);
  } else {
    throw InputError("unknown command " + command);
  }
}

}  // namespace

int main(int argc, char** argv) { return test::run_main(argc, argv, run); }
