#include "scan.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "error.h"

namespace pretexture {

void ScanEach(size_t files, int threads, const std::function<bool()>& keep_on,
              const std::function<void(size_t file, const std::atomic<bool>* stop)>& scan) {
  std::atomic<size_t> next{0};
  std::atomic<bool> stop{false};
  std::mutex mutex;
  std::condition_variable ended;
  size_t running = 0;
  const auto work = [&] {
    for (size_t i; !stop && (i = next++) < files;) scan(i, &stop);
    const std::lock_guard<std::mutex> lock(mutex);
    --running;
    ended.notify_all();
  };
  std::vector<std::thread> pool;
  std::unique_lock<std::mutex> lock(mutex);
  try {
    for (int i = 0; i < std::max(1, threads); ++i) {
      pool.emplace_back(work);
      ++running;
    }
  } catch (const std::system_error&) {
    if (pool.empty()) throw Unavailable("no thread can be started to look for records");
  }
  while (!ended.wait_for(lock, std::chrono::milliseconds(50), [&] { return running == 0; })) {
    lock.unlock();
    if (!keep_on()) stop = true;
    lock.lock();
  }
  lock.unlock();
  for (std::thread& thread : pool) thread.join();
}

}  // namespace pretexture
