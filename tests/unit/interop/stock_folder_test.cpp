// Folders in and out: which row goes where, sharded or not, tied or not; and folders that are wrong.
#include <cstring>
#include <fstream>
#include <functional>

#include "core/errors.h"
#include "core/file.h"
#include "interop/element_types.h"
#include "interop/hf_folder.h"
#include "interop/stock.h"
#include "support/catch.h"
#include "support/temp_dir.h"

namespace {

using namespace meristem;
namespace fs = std::filesystem;

const Family& llama_class() { return *family_of("llama"); }

ModelConfig small_model(bool tied) {
  ModelConfig model;
  model.vocab_size = 13;
  model.width = 8;
  model.blocks = 2;
  model.attention.heads = 4;
  model.attention.kv_heads = 2;
  model.attention.head_dim = 4;
  model.feed_forward.inner = 6;
  model.tie_embeddings = tied;
  return model;
}

// A folder whose tensors hold numbers that tell where they came from. `change` may alter tensors before they are written.
struct Folder {
  test::TempDir root;
  std::vector<WeightPart> parts;
  std::vector<std::vector<float>> values;

  explicit Folder(bool tied, const std::function<void(std::vector<TensorView>&)>& change = {}, Dtype dtype = Dtype::kF32) {
    const ModelConfig model = small_model(tied);
    parts = stock_parts(llama_class(), model);
    float next = 1;
    std::vector<TensorView> views;
    std::vector<std::vector<std::byte>> bytes;
    for (const WeightPart& part : parts) {
      auto& numbers = values.emplace_back(static_cast<std::size_t>(part.elements()));
      for (float& number : numbers) number = next++ / 8;
      auto& raw = bytes.emplace_back(numbers.size() * dtype_bytes(dtype));
      narrow(numbers, dtype, raw);
      views.push_back({part.theirs, dtype, part.shape, raw.data()});
    }
    if (change) change(views);
    write_safetensors(root / "model.safetensors", views, {{"format", "pt"}});
    auto json = stock_config_json(llama_class(), model, 32, {});
    json["dtype"] = dtype == Dtype::kBF16 ? "bfloat16" : "float32";
    std::ofstream(root / "config.json") << json.dump();
  }

  const std::vector<float>& of(const std::string& theirs) const {
    for (std::size_t i = 0; i < parts.size(); ++i) {
      if (parts[i].theirs == theirs) return values[i];
    }
    throw std::out_of_range(theirs);
  }
};

const std::vector<float>& tensor(const ImportedModel& llama, const std::string& name) {
  for (std::size_t i = 0; i < llama.weights.views.size(); ++i) {
    if (llama.weights.views[i].name == name) return llama.weights.bytes[i];
  }
  throw std::out_of_range(name);
}

std::string refusal(const fs::path& folder) {
  try {
    import_stock(folder);
  } catch (const Error& error) {
    return error.what();
  }
  return "accepted";
}

bool says(const std::string& message, const std::string& part) {
  INFO(message);
  return message.find(part) != std::string::npos;
}

TEST_CASE("q, k, v and gate, up lie one under the other") {
  const Folder folder(false);
  const ImportedModel llama = import_stock(folder.root.path());
  std::vector<float> qkv;
  for (const char* part : {"q", "k", "v"}) {
    const auto& rows = folder.of(std::string("model.layers.1.self_attn.") + part + "_proj.weight");
    qkv.insert(qkv.end(), rows.begin(), rows.end());
  }
  CHECK(tensor(llama, "blocks.1.attention.qkv.weight") == qkv);
  std::vector<float> gate_up = folder.of("model.layers.0.mlp.gate_proj.weight");
  const auto& up = folder.of("model.layers.0.mlp.up_proj.weight");
  gate_up.insert(gate_up.end(), up.begin(), up.end());
  CHECK(tensor(llama, "blocks.0.feed_forward.gate_up.weight") == gate_up);
  CHECK(tensor(llama, "head.weight") == folder.of("lm_head.weight"));
  CHECK(llama.weights.views.size() == 2 * 6 + 3);
}

TEST_CASE("interleaved pairs become halves in queries and keys alone") {
  const Folder folder(true);
  const ImportedModel halves = import_stock(folder.root.path()), turned = import_stock(folder.root.path(), true);
  const auto& before = tensor(halves, "blocks.0.attention.qkv.weight");
  const auto& after = tensor(turned, "blocks.0.attention.qkv.weight");
  // head_dim 4: rows 0 1 2 3 of a head are the pairs (0, 1) and (2, 3), which go to (0, 2) and (1, 3).
  const std::vector<std::int64_t> place{0, 2, 1, 3};
  const std::int64_t width = 8, turned_rows = (4 + 2) * 4, rows = (4 + 2 + 2) * 4;
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::int64_t to = row < turned_rows ? row / 4 * 4 + place[static_cast<std::size_t>(row % 4)] : row;
    CHECK(std::equal(before.begin() + row * width, before.begin() + (row + 1) * width, after.begin() + to * width));
  }
  CHECK(tensor(halves, "blocks.0.attention.output.weight") == tensor(turned, "blocks.0.attention.output.weight"));
}

TEST_CASE("an untouched round trip is bit-identical, in one file or many") {
  for (const bool tied : {false, true}) {
    for (const Dtype dtype : {Dtype::kF32, Dtype::kBF16, Dtype::kF16}) {
      for (const std::uint64_t shard_bytes : {std::uint64_t{1} << 40, std::uint64_t{300}}) {
        const Folder folder(tied, {}, dtype);
        const ImportedModel llama = import_stock(folder.root.path());
        const test::TempDir scratch;
        write_safetensors(scratch / "ours.safetensors", llama.weights.views);
        const HfExport options{folder.root.path(), dtype == Dtype::kF16 ? "fp16" : "", shard_bytes};
        const HfExported done = export_stock(SafetensorsFile::open(scratch / "ours.safetensors"), llama_class(), llama.config.model, 16,
                                             options, scratch / "out");
        CHECK(done.overflows == 0);
        CHECK((done.files > 3) == (shard_bytes == 300));
        const TensorFolder before = TensorFolder::open(folder.root.path()), after = TensorFolder::open(scratch / "out");
        CHECK(before.names() == after.names());
        for (const std::string& name : before.names()) {
          const TensorView &a = before.at(name), &b = after.at(name);
          CHECK((a.dtype == b.dtype && a.shape == b.shape && std::memcmp(a.data, b.data, a.bytes()) == 0));
        }
        CHECK(read_stock_config(scratch / "out").max_positions == 32);
      }
    }
  }
}

TEST_CASE("folders that are wrong are refused by file and tensor") {
  const auto dropped = [](std::vector<TensorView>& views) { views.erase(views.begin() + 3); };
  CHECK(says(refusal(Folder(false, dropped).root.path()), "tensor model.layers.0.self_attn.k_proj.weight is missing"));
  const auto bias = [](std::vector<TensorView>& views) {
    views.push_back({"model.layers.0.self_attn.q_proj.bias", views[0].dtype, {1}, views[0].data});
  };
  CHECK(says(refusal(Folder(false, bias).root.path()),
             "model.safetensors: tensor model.layers.0.self_attn.q_proj.bias: a model of this config has no"));
  const auto frequencies = [](std::vector<TensorView>& views) {
    views.push_back({"model.layers.0.self_attn.rotary_emb.inv_freq", views[0].dtype, {1}, views[0].data});
  };
  CHECK(refusal(Folder(false, frequencies).root.path()) == "accepted");
  const auto shape = [](std::vector<TensorView>& views) { std::swap(views[2].shape[0], views[2].shape[1]); };
  CHECK(says(refusal(Folder(false, shape).root.path()),
             "tensor model.layers.0.self_attn.q_proj.weight: found shape [8, 16], config.json gives [16, 8]"));
  const auto quantized = [](std::vector<TensorView>& views) { views[2].dtype = Dtype::kI8; };
  CHECK(says(refusal(Folder(false, quantized).root.path()), "found I8, allowed: F32, BF16, F16"));
  const auto same_head = [](std::vector<TensorView>& views) {
    views.push_back({"lm_head.weight", views[0].dtype, views[0].shape, views[0].data});
  };
  CHECK(refusal(Folder(true, same_head).root.path()) == "accepted");
  static const std::vector<float> other(13 * 8, 1.0f);
  const auto other_head = [](std::vector<TensorView>& views) {
    views.push_back({"lm_head.weight", views[0].dtype, views[0].shape, other.data()});
  };
  CHECK(says(refusal(Folder(true, other_head).root.path()), "tie_word_embeddings: true"));
  const test::TempDir empty;
  fs::copy(Folder(true).root / "config.json", empty / "config.json");
  CHECK(says(refusal(empty.path()), "has neither model.safetensors"));
}

TEST_CASE("an index that does not agree with its shards is damage") {
  const Folder folder(true);
  fs::rename(folder.root / "model.safetensors", folder.root / "a.safetensors");
  const auto with_index = [&](const nlohmann::json& map) {
    write_file_durably(folder.root / "model.safetensors.index.json", nlohmann::json{{"weight_map", map}}.dump());
    return refusal(folder.root.path());
  };
  nlohmann::json map;
  for (const WeightPart& part : folder.parts) map[part.theirs] = "a.safetensors";
  CHECK(with_index(map) == "accepted");
  auto wrong = map;
  wrong["model.extra"] = "a.safetensors";
  CHECK(says(with_index(wrong), "tensor model.extra is missing, which"));
  wrong = map;
  wrong.erase("model.norm.weight");
  CHECK(says(with_index(wrong), "tensor model.norm.weight is not this file's"));
  wrong = map;
  wrong["model.norm.weight"] = "../a.safetensors";
  CHECK(says(with_index(wrong), "weight_map.model.norm.weight: "));
  CHECK(says(with_index(nlohmann::json::object()), "names no tensor"));
}

TEST_CASE("what a class has no place for is not exported") {
  const Folder folder(true);
  const ImportedModel llama = import_stock(folder.root.path());
  const test::TempDir scratch;
  auto views = llama.weights.views;
  write_safetensors(scratch / "ours.safetensors", views);
  const SafetensorsFile weights = SafetensorsFile::open(scratch / "ours.safetensors");
  CHECK_THROWS_AS(export_stock(weights, llama_class(), llama.config.model, 16, {{}, "int8", 1000}, scratch / "out"), InputError);
  views.push_back({"blocks.0.attention.gate", Dtype::kF32, {1}, views[0].data});
  write_safetensors(scratch / "more.safetensors", views);
  CHECK_THROWS_AS(
      export_stock(SafetensorsFile::open(scratch / "more.safetensors"), llama_class(), llama.config.model, 16, {}, scratch / "out"),
      InputError);
  CHECK_FALSE(fs::exists(scratch / "out"));
  export_stock(weights, llama_class(), llama.config.model, 16, {}, scratch / "out");
  CHECK_THROWS_AS(export_stock(weights, llama_class(), llama.config.model, 16, {}, scratch / "out"), InputError);
}

}  // namespace
