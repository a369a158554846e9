#include "distributed/forecast.h"

#include <algorithm>

#include "support/catch.h"

using namespace meristem;

namespace {

// Links without latency, one rank a machine.
Links network(double bytes_per_second) {
  Links links;
  links.node_size = 1;
  links.network = bytes_per_second;
  links.start = links.node_hop = links.network_hop = 0;
  return links;
}

// Two calls of 1 s forward and 2 s backward, a head of 3 s, and 100 parameters a block, in buckets of so many.
UpdateWork two_blocks(double bucket_elements) {
  UpdateWork work;
  work.calls = {{1, 2}, {1, 2}};
  work.head = {3, 0};
  for (double left = 200; left > 0; left -= bucket_elements) {
    const std::int64_t last = left - bucket_elements >= 100 ? 1 : 0;
    work.buckets.push_back({std::min(left, bucket_elements), last, 1, last});
  }
  work.micro_batch_tokens = work.flops_per_second = 10;
  return work;
}

Exchange exchange(bool sharded) {
  Exchange exchange;
  exchange.sharded = sharded;
  return exchange;
}

}  // namespace

TEST_CASE("one rank communicates nothing") {
  for (const bool sharded : {false, true}) {
    UpdateWork work = two_blocks(100);
    work.optimizer_seconds = 6;
    const UpdateForecast forecast = forecast_update(work, 1, exchange(sharded), network(100));
    CHECK(forecast.compute == Approx(9));
    CHECK(forecast.optimizer == Approx(6));
    CHECK(forecast.exposed == 0);
    CHECK(forecast.communication == 0);
    CHECK(forecast.step() == Approx(15));
  }
}

TEST_CASE("one bucket sticks out whole: it is complete when backward ends") {
  // 800 bytes, of which two ranks send each half twice, at 100 bytes a second.
  const UpdateForecast forecast = forecast_update(two_blocks(1000), 2, exchange(false), network(100));
  CHECK(forecast.exposed == Approx(8));
  CHECK(forecast.communication == Approx(8));
  CHECK(forecast.step() == Approx(17));
}

TEST_CASE("two buckets: the first hides behind the backward of the second") {
  // Communication takes longer: complete after 2 and 4 s, 4 s each, so 2-6 and 6-10, while backward ends after 4.
  const UpdateForecast slow = forecast_update(two_blocks(100), 2, exchange(false), network(100));
  CHECK(slow.exposed == Approx(6));
  // Backward takes longer: 2-2.4 and 4-4.4.
  const UpdateForecast fast = forecast_update(two_blocks(100), 2, exchange(false), network(1000));
  CHECK(fast.exposed == Approx(0.4));
  CHECK(fast.communication == Approx(0.8));
  // bf16 on the wire halves it.
  Exchange half = exchange(false);
  half.gradient_bytes = 2;
  CHECK(forecast_update(two_blocks(100), 2, half, network(100)).exposed == Approx(2));
}

TEST_CASE("only the last micro-batch communicates") {
  UpdateWork work = two_blocks(100);
  work.micro_batches = 4;
  const UpdateForecast forecast = forecast_update(work, 2, exchange(false), network(100));
  CHECK(forecast.compute == Approx(36));
  CHECK(forecast.exposed == Approx(6));
  CHECK(forecast.communication == Approx(8));
}

TEST_CASE("a bucket goes out when backward has run its share of a call") {
  UpdateWork work = two_blocks(50);
  CHECK(forecast_update(work, 2, exchange(false), network(100)).exposed == Approx(6));  // after 2, 2, 4, 4 s: busy from 2 to 10
  work.buckets[0].share = work.buckets[2].share = 0.5;
  CHECK(forecast_update(work, 2, exchange(false), network(100)).exposed == Approx(5));  // after 1, 2, 3, 4 s: busy from 1 to 9
}

TEST_CASE("gradients of the head come first, those of the embedding last") {
  UpdateWork work = two_blocks(100);
  work.buckets = {{100, 2, 1, 2}, {100, -1, 1, -1}};
  // The head's 0-4, the embedding's from backward's end at 4 to 8.
  CHECK(forecast_update(work, 2, exchange(false), network(100)).exposed == Approx(4));
  // Sharded: the embedding is gathered first and all waits for it, 2 s; the head's, 2-4, is there before the head. Then the reductions: 2
  // s.
  CHECK(forecast_update(work, 2, exchange(true), network(100)).exposed == Approx(4));
}

TEST_CASE("a sharded optimizer gathers weights behind the next forward") {
  // Gathered: block 0 after 2 s, block 1 after 4. Call 0 runs 2-3, call 1 4-5, the head 5-8. Backward 8-12; reduced 10-12 and 12-14.
  const UpdateForecast forecast = forecast_update(two_blocks(100), 2, exchange(true), network(100));
  CHECK(forecast.compute == Approx(9));
  CHECK(forecast.exposed == Approx(5));
  CHECK(forecast.communication == Approx(8));
  // bf16 weights: call 0 1-2, call 1 2-3, so a second of waiting there and two at the end.
  Exchange half = exchange(true);
  half.weight_bytes = 2;
  CHECK(forecast_update(two_blocks(100), 2, half, network(100)).exposed == Approx(3));
}

TEST_CASE("sharded or not, the same bytes travel, but where the sums must reach all ranks") {
  for (const std::int64_t node : {1, 8}) {
    Links links = network(100);
    links.node_size = node;
    links.node_all_reduce = links.node_shards = 1000;
    for (const std::int64_t ranks : {2, 4, 8, 16, 64}) {
      const auto busy = [&](const Exchange& exchange) { return forecast_update(two_blocks(70), ranks, exchange, links).communication; };
      INFO(ranks << " ranks, " << node << " a machine");
      CHECK(busy(exchange(true)) == Approx(busy(exchange(false))));
      Exchange gloo = exchange(true);
      gloo.reduces_to_owners = false;
      CHECK(busy(gloo) == Approx(1.5 * busy(exchange(false))));
    }
  }
}

TEST_CASE("messages have latency: a start, and a hop for each neighbour on the way") {
  Links links = network(100);
  links.start = 10;
  links.network_hop = 1;
  CHECK(collective_seconds(Collective::kReduceScatter, 400, 4, links) == Approx(10 + 3 + 3));
  CHECK(collective_seconds(Collective::kAllGather, 400, 4, links) == Approx(10 + 3 + 3));
  CHECK(collective_seconds(Collective::kAllReduce, 400, 4, links) == Approx(10 + 6 + 6));
  CHECK(collective_seconds(Collective::kAllReduce, 0, 1024, links) == Approx(10 + 2 * 10));  // a tree: 10 levels up and down
  CHECK(collective_seconds(Collective::kAllReduce, 400, 1, links) == 0);
  // Two machines of two: reduce-scatter inside, then half of the bytes between.
  links.node_size = 2;
  links.node_shards = 200;
  links.node_hop = 0.5;
  CHECK(collective_seconds(Collective::kReduceScatter, 400, 4, links) == Approx(10 + (0.5 + 1) + (1 + 1)));
  // Three ranks do not fill two machines: one ring over the network.
  CHECK(collective_seconds(Collective::kReduceScatter, 300, 3, links) == Approx(10 + 2 + 2));
  // The small vector of sums costs a start and its hops, even where all else hides.
  links = network(1e12);
  links.start = 0.25;
  CHECK(forecast_update(two_blocks(1000), 2, exchange(false), links).exposed == Approx(0.5));
}

// G = 2 N bytes of bf16 gradients, in milliseconds: eight GPUs over NVLink (275 GB/s of result a second), a flat ring over NICs of 50 GB/s,
// and eight NICs a machine behind NVLink.
TEST_CASE("the on-paper table of all-reduce times comes out") {
  struct Row {
    double bytes, nvlink, flat, machines, margin;
  };
  Links links = network(50e9);
  for (const Row& row : {Row{0.06e9, 0.2, 2.4, 0.3 + 0.2, 0.1}, Row{0.25e9, 0.9, 10, 1.25 + 0.9, 0.1}, Row{0.7e9, 2.5, 28, 3.5 + 2.5, 0.1},
                         Row{3.4e9, 12.4, 136, 17 + 12.4, 0.1}}) {
    const auto milliseconds = [&](std::int64_t ranks) { return 1e3 * collective_seconds(Collective::kAllReduce, row.bytes, ranks, links); };
    links.node_size = 1;
    CHECK(milliseconds(1 << 20) == Approx(row.flat).margin(row.margin));
    links.node_size = 8;
    links.node_all_reduce = 481.25e9;
    CHECK(milliseconds(8) == Approx(row.nvlink).margin(row.margin));
    CHECK(milliseconds(1 << 20) == Approx(row.machines).margin(row.margin));
  }
}

TEST_CASE("break-even: about 0.8k tokens a GPU over NVLink and 9k over a flat ring hide all but a block's part") {
  constexpr int kBlocks = 24;
  const double parameters = 1.7e9;
  UpdateWork work;
  for (std::int64_t b = 0; b < kBlocks; ++b) {
    work.calls.push_back({2 * parameters / kBlocks, 4 * parameters / kBlocks});
    work.buckets.insert(work.buckets.begin(), {parameters / kBlocks, b, 1, b});
  }
  work.flops_per_second = 0.45 * 989e12;
  Exchange bf16 = exchange(false);
  bf16.gradient_bytes = 2;
  const auto exposed_of_backward = [&](double tokens, std::int64_t ranks, const Links& links) {
    work.micro_batch_tokens = tokens;
    const UpdateForecast forecast = forecast_update(work, ranks, bf16, links);
    return forecast.exposed / (forecast.compute * 2 / 3);
  };
  Links nvlink = network(1);
  nvlink.node_size = 8;
  nvlink.node_all_reduce = 481.25e9;
  const double part = 1.0 / kBlocks;
  CHECK(exposed_of_backward(810, 8, nvlink) == Approx(part).margin(0.01));
  CHECK(exposed_of_backward(405, 8, nvlink) == Approx(1 + part).margin(0.01));
  CHECK(exposed_of_backward(8900, 1 << 20, network(50e9)) == Approx(part).margin(0.01));
  CHECK(exposed_of_backward(40000, 1 << 20, network(50e9)) < part);
}
