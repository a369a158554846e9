#include "distributed/ranks.h"

#include <cstdlib>

#include <torch/torch.h>

#include "core/errors.h"
#include "support/catch.h"
#include "support/message_of.h"
#include "support/ranks_in_threads.h"

namespace meristem {
namespace {

using test::as_ranks;
using test::message_of;

// The environment of a launcher for the time of a test.
class Environment {
 public:
  using Variables = std::map<std::string, std::string>;
  explicit Environment(const Variables& variables) {
    for (const char* name : kAll) ::unsetenv(name);
    for (const auto& [name, value] : variables) ::setenv(name.c_str(), value.c_str(), 1);
  }
  ~Environment() {
    for (const char* name : kAll) ::unsetenv(name);
  }

 private:
  static constexpr const char* kAll[] = {"RANK",
                                         "WORLD_SIZE",
                                         "LOCAL_RANK",
                                         "MASTER_ADDR",
                                         "MASTER_PORT",
                                         "TORCHELASTIC_USE_AGENT_STORE",
                                         "TORCHELASTIC_RESTART_COUNT",
                                         "SLURM_PROCID",
                                         "SLURM_STEP_NUM_TASKS",
                                         "SLURM_LOCALID",
                                         "SLURM_RESTART_COUNT"};
};

TEST_CASE("who a process is stands in the environment of torchrun or of a Slurm step") {
  {
    const Environment none(Environment::Variables{});
    CHECK(rank_place().size == 1);
    CHECK(rank_place().rank == 0);
  }
  {
    const Environment torchrun({{"RANK", "3"},
                                {"WORLD_SIZE", "8"},
                                {"LOCAL_RANK", "1"},
                                {"MASTER_ADDR", "node7"},
                                {"MASTER_PORT", "29501"},
                                {"TORCHELASTIC_USE_AGENT_STORE", "True"},
                                {"TORCHELASTIC_RESTART_COUNT", "2"}});
    const RankPlace place = rank_place();
    CHECK((place.rank == 3 && place.size == 8 && place.local_rank == 1 && place.master == "node7" && place.port == 29501));
    CHECK((place.agent_hosts_store && place.restarts == 2));
  }
  {
    const Environment slurm(
        {{"SLURM_PROCID", "1"}, {"SLURM_STEP_NUM_TASKS", "2"}, {"SLURM_LOCALID", "0"}, {"MASTER_ADDR", "a"}, {"MASTER_PORT", "1234"}});
    CHECK((rank_place().rank == 1 && rank_place().size == 2 && rank_place().local_rank == 0));
  }
  {
    const Environment batch_script(Environment::Variables{{"SLURM_PROCID", "0"}});
    CHECK(rank_place().size == 1);
  }
}

TEST_CASE("an environment that contradicts itself is refused by the variable's name") {
  const auto refusal = [](const Environment::Variables& variables) {
    const Environment environment(variables);
    return message_of<InputError>([] { rank_place(); });
  };
  using Catch::Contains;
  CHECK_THAT(refusal(Environment::Variables{{"RANK", "2"}, {"WORLD_SIZE", "2"}}), Contains("RANK") && Contains("from 0 to 1"));
  CHECK_THAT(refusal(Environment::Variables{{"RANK", "x"}, {"WORLD_SIZE", "2"}}), Contains("RANK") && Contains("'x'"));
  CHECK_THAT(refusal(Environment::Variables{{"RANK", "0"}}), Contains("WORLD_SIZE: is not set"));
  CHECK_THAT(refusal(Environment::Variables{{"WORLD_SIZE", "2"}}), Contains("RANK: is not set"));
  CHECK_THAT(refusal({{"RANK", "0"}, {"WORLD_SIZE", "2"}}), Contains("MASTER_ADDR"));
  CHECK_THAT(refusal({{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "a"}, {"MASTER_PORT", "99999"}}), Contains("MASTER_PORT"));
}

TEST_CASE("sums, exact joins of bits, and words") {
  as_ranks(3, [](std::shared_ptr<Ranks> ranks) {
    const at::Tensor x = torch::full({5}, static_cast<double>(ranks->rank() + 1), torch::kFloat);
    ranks->sum(x).wait();
    RANK_CHECK(torch::equal(x, torch::full({5}, 6.0f)));
    const at::Tensor half = torch::full({3}, 0.5, torch::kBFloat16);
    ranks->sum(half).wait();
    RANK_CHECK(torch::equal(half, torch::full({3}, 1.5, torch::kBFloat16)));

    // A negative zero and a NaN of one rank arrive as they are.
    const at::Tensor bits = torch::zeros({3}, torch::kFloat);
    bits[ranks->rank()] = ranks->rank() == 0 ? -0.0f : ranks->rank() == 1 ? std::numeric_limits<float>::quiet_NaN() : 1.5f;
    ranks->join_bits(bits);
    RANK_CHECK(std::signbit(bits[0].item<float>()));
    RANK_CHECK(std::isnan(bits[1].item<float>()));
    RANK_CHECK(bits[2].item<float>() == 1.5f);

    for (int round = 0; round < 4; ++round) {
      const std::vector<std::string> said = ranks->meet("words", "rank " + std::to_string(ranks->rank()) + " in " + std::to_string(round));
      RANK_CHECK(said.size() == 3);
      RANK_CHECK(said[2] == "rank 2 in " + std::to_string(round));
    }
    RANK_CHECK(ranks->first_says("choice", ranks->first() ? "yes" : "no") == "yes");
  });
}

TEST_CASE("facts that differ are refused on all ranks, with the rank that differs") {
  as_ranks(3, [](std::shared_ptr<Ranks> ranks) {
    ranks->agree("same", {{"the config", "abc"}});
    const std::string other = ranks->rank() == 1 ? "second" : "first";
    const std::string message = message_of<InputError>([&] { ranks->agree("start", {{"the data of source one", other}}); });
    RANK_CHECK(test::contains(message, "the data of source one") && test::contains(message, "rank 1") && test::contains(message, "second"));
  });
}

TEST_CASE("a rank that fails is named to those who wait for it") {
  const auto body = [](std::shared_ptr<Ranks> ranks) {
    if (ranks->rank() == 1) {
      ranks->fail("no room on disk\nand more");
      return;
    }
    RANK_CHECK(message_of<SystemError>([&] { ranks->meet("checkpoint", ""); }) == "rank 1 failed: no room on disk");
  };
  as_ranks(2, body, {}, /*leaves=*/false);
}

TEST_CASE("missing ranks and a port in use are said") {
  ParallelConfig config;
  config.join_seconds = 1;
  const std::uint16_t port = test::free_port();
  const std::string missing = message_of<SystemError>([&] { Ranks::join({0, 3, 0, "127.0.0.1", port, false, 0}, at::kCPU, config); });
  CHECK_THAT(missing, Catch::Contains("rank 1, 2 of 3 have not come within 1 s"));
  const std::string no_master = message_of<SystemError>([&] { Ranks::join({1, 2, 1, "127.0.0.1", port, false, 0}, at::kCPU, config); });
  CHECK_THAT(no_master, Catch::Contains("rank 0 cannot be reached at 127.0.0.1"));

  const int taken = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = ::htons(port);
  REQUIRE(::bind(taken, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
  REQUIRE(::listen(taken, 1) == 0);
  const std::string in_use = message_of<InputError>([&] { Ranks::join({0, 2, 0, "127.0.0.1", port, false, 0}, at::kCPU, config); });
  CHECK_THAT(in_use, Catch::Contains("MASTER_PORT") && Catch::Contains("in use"));
  ::close(taken);
}

}  // namespace
}  // namespace meristem
