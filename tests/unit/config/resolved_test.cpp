// What a config is once it is resolved, how it is written and read again, and the page that the schema writes.
#include <fmt/format.h>

#include "core/file.h"
#include "support/catch.h"
#include "unit/config/refused.h"

namespace meristem {
namespace {

TEST_CASE("a derived value keeps the bounds of a given one") {
  const std::string data = "data: {sequence_length: 64, sources: {text: {path: data/text}}}\nschedule: {steps: 100}\n";
  const auto model = [&](const std::string& keys) { return refused("model: {vocab_size: 512, " + keys + "}\n" + data); };
  CHECK(model("width: 65536, attention: {heads: 16}") == "accepted");
  CHECK(says(model("width: 65536, attention: {heads: 8}"),
             "run.yaml:1: model.attention.head_dim: comes to 8192; allowed: a whole number of at least 0, at most 4096"));
  CHECK(says(model("width: 12888, attention: {heads: 2}"), "model.attention.head_dim: comes to 6444"));
}

TEST_CASE("a run's tokens are counted in 64 bits") {
  const std::string long_run = "model: {vocab_size: 512}\ndata: {sequence_length: 64, sources: {text: {path: data/text}}}\n";
  CHECK(says(refused(long_run + "schedule: {steps: 1e15}\nbatch: {tokens: 64000}\n"),
             "run.yaml:3: schedule.steps: found 1000000000000000 updates of 64000 tokens"));
  CHECK(says(refused(long_run + "schedule: {steps: 9007199254740992}\nbatch: {tokens: 640000000000}\n"), "schedule.steps: found"));
  CHECK(refused(long_run + "schedule: {steps: \"1e18 tokens\"}\nbatch: {tokens: 64}\n") == "accepted");
}

TEST_CASE("what was resolved reads back equal") {
  for (const char* growth : {"growth: {from_blocks: 2, add_blocks: 1}\n", "growth: {operator: stack, from_blocks: 2}\n",
                             "growth: {operator: map, from_blocks: 2, maps: [[0, 1, 1, 0]]}\n",
                             "growth: {from_blocks: 2, add_blocks: 2, schedule: {kind: at_steps, at_steps: [50]}}\n"}) {
    INFO(growth);
    const std::string dumped = dump_config(parse_config(small_config(growth), "run.yaml"));
    CHECK(dump_config(parse_config(dumped, "again")) == dumped);
  }
}

// A config with `text`, written as YAML, as the name of a training source and as a path.
std::string named(const std::string& text) {
  return "model: {vocab_size: 512, width: 64, blocks: 4}\ndata:\n  sequence_length: 64\n  sources:\n    ? " + text +
         "\n    : {path: " + text + "}\nschedule: {steps: 100}\n";
}

TEST_CASE("text that is accepted is dumped and reads back equal") {
  std::vector<std::string> texts{R"("a \"b\" \\ 'c'")",
                                 "' leading and trailing '",
                                 "'null'",
                                 R"("~")",
                                 "'---'",
                                 "'{'",
                                 "'# no comment'",
                                 "'a: b'",
                                 "'- a'",
                                 "'%YAML'",
                                 "'<<'",
                                 "'?'",
                                 "'&a'",
                                 "'*a'",
                                 "'!a'",
                                 "'a''b'",
                                 "'1e3'",
                                 "'true'",
                                 "a\n      b",
                                 "'a.b[0]'"};
  for (const int code : {0x20, 0x7F, 0x80, 0x85, 0x9F, 0xA0, 0x2028, 0x2029, 0xFEFF, 0xFFFE, 0xFFFF, 0x1F600}) {
    for (const char* around : {"\"a\\U{:08x}b\"", "\"\\U{:08x}b\"", "\"a\\U{:08x}\""})
      texts.push_back(fmt::format(fmt::runtime(around), code));
  }
  texts.push_back("'" + std::string(200, '"') + "'");  // YAML reads a key of more than 1024 only behind a question mark
  for (const std::string& text : texts) {
    INFO(text);
    const std::string dumped = dump_config(parse_config(named(text), "run.yaml"));
    CHECK(dump_config(parse_config(dumped, "again")) == dumped);
  }
}

TEST_CASE("text that could not be read back is refused with its line") {
  for (int code = 0; code < 0x20; ++code) {
    const std::string text = fmt::format("\"a\\x{:02x}b\"", code);
    INFO(text);
    CHECK(says(refused(named(text)), "run.yaml:6: data.sources: found the name 'a\\x"));
    CHECK(says(refused(small_config("run: {name: " + text + "}\n")), "run.yaml:6: run.name: found"));
    CHECK(
        says(refused(small_config("phases: [{name: p, mixture: {" + text + ": 1}}]\n")), "run.yaml:6: phases[0].mixture: found the name"));
    CHECK(says(refused("model: {vocab_size: 512}\ndata:\n  sources: {a: {path: a}}\n  validation: {" + text + ": {path: a}}\n"),
               "run.yaml:4: data.validation: found the name"));
  }
  CHECK(says(refused(named("'" + std::string(201, 'a') + "'")), "allowed: names of 1 to 200 bytes without control characters"));
  CHECK(says(refused(named("''")), "data.sources: found an empty name"));
  for (const char* text : {"\"a\\Nb\"", "\"a\\_b\""}) {
    CHECK(says(refused(named(text)), "run.yaml:5: text that is not UTF-8"));
    CHECK(says(refused(small_config("run: {name: " + std::string(text) + "}\n")), "run.yaml:6: text that is not UTF-8"));
  }
  // What is written in few bytes may not take more than a config may have.
  std::string many = "model: {vocab_size: 512, width: 64, blocks: 4}\nschedule: {steps: 100}\ndata: {sequence_length: 64, sources: {";
  for (int i = 0; i < 20000; ++i) many += fmt::format("s{}: {{path: a}}, ", i);
  CHECK(says(refused(many + "}}\n"), "with all its defaults written out; allowed: 1048576"));
}

TEST_CASE("Muon without settings has the defaults, and says so when it is dumped") {
  const RunConfig config = parse_config(small_config("optimizer: {kind: muon}\n"), "run.yaml");
  CHECK(config.optimizer.muon->momentum == 0.95);
  CHECK(config.optimizer.muon->scale == MuonScale::kMoonlight);
  CHECK_FALSE(config.optimizer.muon->lr);  // follows optimizer.lr, whatever that is changed to
  const std::string dumped = dump_config(config);
  CHECK(dumped.find("scale: \"moonlight\"") != std::string::npos);
  CHECK(dump_config(parse_config(dumped, "again")) == dumped);
  CHECK_FALSE(parse_config(small_config(""), "run.yaml").optimizer.muon);
}

TEST_CASE("one word for kernels is the path of every operator, and leaves the graph as it is") {
  const KernelsConfig kernels = parse_config(small_config("kernels: library\n"), "run.yaml").kernels;
  CHECK((kernels.attention == "library" && kernels.experts == "library" && kernels.graph == "auto"));
  CHECK(parse_config(small_config("kernels: {graph: on, adamw: fused}\n"), "run.yaml").kernels.graph == "on");
  CHECK(says(refused(small_config("kernels: off\n")), "kernels: found off; allowed: reference, library, fused, auto"));
  CHECK(says(refused(small_config("kernels: {graph: fused}\n")), "kernels.graph: found fused; allowed: off, on, auto"));
}

TEST_CASE("null stands for nothing only where nothing is the default") {
  CHECK(refused(small_config("growth: null\noptimizer: null\nlogging: {sample_every: null}\n")) == "accepted");
  CHECK(says(refused(small_config("batch: {tokens: null}\n")), "batch.tokens: found null; allowed: a whole number"));
  CHECK(says(refused(small_config("optimizer: {clip_norm: null}\n")), "optimizer.clip_norm: found null"));
  CHECK(says(refused(small_config("optimizer: {betas: null}\n")), "optimizer.betas: found null"));
  CHECK(says(refused(small_config("run: {deterministic: null}\n")), "run.deterministic: found null"));
  CHECK(says(refused(small_config("run: {name: null}\n")), "run.name: found null"));
}

TEST_CASE("a dreamer's plan, depth attention and experts have defaults of their own") {
  const RunConfig config = parse_config(
      "model: {vocab_size: 64, width: 512, architecture: dreamer, blocks: 2, depth_attention: {}}\ndata: {sources: {a: {path: b}}}\n",
      "run.yaml");
  CHECK(config.model.depth_plan.text == "(0-1)x8");
  CHECK(config.model.depth_plan.plan.num_calls() == 16);
  CHECK(config.model.depth_attention->heads == 2);
  CHECK(config.model.depth_attention->keys == DepthKeys::kStates);
  CHECK(config.model.depth_attention->position == DepthPosition::kRope);
  CHECK(dump_config(parse_config(dump_config(config), "again")) == dump_config(config));
}

TEST_CASE("a choice that may be left empty dumps empty where nothing derives it") {
  const RunConfig config = parse_config(small_config("precision: {compute: bf16, residual: \"\"}\n"), "run.yaml");
  CHECK(config.precision.residual == Precision::kBf16);
  const std::string joint = "model: {vocab_size: 64, depth_attention: {kind: joint, keys: \"\"}}\ndata: {sources: {a: {path: b}}}\n";
  const std::string dumped = dump_config(parse_config(joint, "run.yaml"));
  CHECK(says(dumped, "    keys: \"\"\n    position: \"\"\n"));
  CHECK(dump_config(parse_config(dumped, "again")) == dumped);
}

TEST_CASE("docs/configuration.md is what the schema says") {
  const std::string page = read_file(MERISTEM_SOURCE_DIR "/docs/configuration.md");
  INFO("write it anew: meristem config-reference > docs/configuration.md");
  CHECK((page == configuration_reference()));
}

TEST_CASE("the reference has every section and every kind of key") {
  const std::string page = configuration_reference();
  for (const char* part :
       {"## run", "## model", "## growth", "## data", "## phases", "## optimizer", "## schedule", "## batch", "## precision", "## kernels",
        "## checkpoint", "## logging", "`model.attention.heads`", "`data.sources.NAME.path`", "`data.validation.NAME.path`",
        "`phases[].mixture.NAME`", "`checkpoint.async`", "`growth.operator`"}) {
    INFO(part);
    CHECK(page.find(part) != std::string::npos);
  }
}

}  // namespace
}  // namespace meristem
