// Measures how many records a second the threads of a Batcher take and hand over if a record is no
// work at all, which is what locks and queues cost.
//
//   hand_over [SECONDS [BATCH_SIZE]]
//
// Prints a line for each number of threads.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "batcher.h"

int main(int argc, char** argv) {
  using namespace pretexture;
  using Clock = std::chrono::steady_clock;
  const double seconds = argc > 1 ? std::atof(argv[1]) : 1;
  const int batch_size = argc > 2 ? std::atoi(argv[2]) : 256;
  constexpr uint32_t kRecords = 1'281'167;  // as in ImageNet
  const std::vector<uint64_t> offsets(kRecords);
  const std::vector<uint32_t> lengths(kRecords);
  Records records;
  records.paths = {""};
  records.shard_begin = {0, kRecords};
  records.offsets = offsets.data();
  records.lengths = lengths.data();
  for (const int threads : {1, 2, 4, 8, 16}) {
    BatcherOptions options;
    options.branches = {{Plan({op::Crop{0, 1, 1, false}}), Format{{}, false, 1, 1, 1}}};
    options.order.records = kRecords;
    options.order.shuffle = Shuffle::kGlobal;
    options.share.batch_size = static_cast<uint32_t>(batch_size);
    options.threads = threads;
    options.stand_in = [](uint32_t) {};
    Batcher batcher(records, options);
    batcher.Seek(0, 0);
    uint64_t taken = 0;
    const auto begin = Clock::now();
    std::chrono::duration<double> passed{};
    while (passed.count() < seconds) {
      for (int i = 0; i < 64; ++i) {
        if (const auto batch = batcher.Next(std::chrono::seconds(1))) taken += batch->size;
      }
      passed = Clock::now() - begin;
    }
    std::printf("%2d threads: %11.0f records/s\n", threads, double(taken) / passed.count());
  }
}
