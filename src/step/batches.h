// Batches on their way from the loader to the model: onto the device plainly, or into the buffers that a captured graph reads.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "data/batch.h"
#include "models/model.h"

namespace meristem {

// A micro-batch on the device.
struct DeviceBatch {
  Batch batch;
  at::Tensor source_S;  // int32: each row's source
};

// Of its own memory: the host batch may go before the device has read it. One copy, from pinned memory where the device is a GPU, so that
// the host does not wait for what is queued there.
DeviceBatch to_device(const HostBatch& host, at::Device device);

// So many of them, each with its share of the rows, which differ by one at most.
std::vector<DeviceBatch> shares_of(const HostBatch& host, std::int64_t shares, at::Device device);

// Two slots, each a buffer in host memory with a twin on the device. Who may touch which, when, is settled here.
class SlotCopies {
 public:
  virtual ~SlotCopies() = default;
  // The slot's host buffer, at least `words` long; waits until the copy last sent from it is done.
  virtual std::int32_t* host(int slot, std::int64_t words) = 0;
  // Starts the copy to its twin, once whoever took the twin's last content is done with it.
  virtual void send(int slot, std::int64_t words) = 0;
  // Queues on the current stream: wait for that copy, then target = the twin's content.
  virtual void take(int slot, const at::Tensor& target) = 0;
};

// The buffers of one shape; they stay where they are for good.
struct StaticInputs {
  at::Tensor words;    // int32: inputs, targets, positions [N], source [S], offsets
  DeviceBatch inputs;  // views
  std::string shape;   // "8x1024", or with documents "8x1024, 64 documents"
};

// Puts host batches where a captured graph reads them: packed into one of two pinned buffers, copied beside the computation, and put in
// place when the computation's turn comes.
//
//   host       pack k+1 -> pinned[1]                pack k+2 -> pinned[0]
//   copies     pinned[0] -> staging[0]     pinned[1] -> staging[1]
//   compute    ... step k-1 ... | staging[0] -> inputs | step k ... | staging[1] -> inputs | step k+1 ...
class InputPipeline {
 public:
  InputPipeline(std::unique_ptr<SlotCopies> copies, at::Device device) : copies_(std::move(copies)), device_(device) {}

  // The buffers of the batch's shape, which hold it for everything that is queued on the current stream from now on. `batch` may go.
  const StaticInputs& load(const HostBatch& batch);

 private:
  StaticInputs& inputs_of(const HostBatch& batch);

  std::unique_ptr<SlotCopies> copies_;
  at::Device device_;
  int next_ = 0;
  std::map<std::string, StaticInputs> inputs_;  // by shape
};

// How many documents the buffers hold: the sequences where each is one document, else the documents rounded up to a power of two, so that
// batches of about as many documents share a graph; the rest are empty.
std::int64_t document_capacity(const HostBatch& batch);

}  // namespace meristem
