// Scans of several files at once.
#pragma once

#include <atomic>
#include <cstddef>
#include <functional>

namespace pretexture {

// Calls `scan` with each number below `files`, on `threads` threads, or fewer if the system has no
// more; it should return early once the flag is true. Calls `keep_on` about twenty times a second
// on the calling thread; once that returns false, the scans end and the result is incomplete.
// Throws Unavailable if not even one thread can be started.
void ScanEach(size_t files, int threads, const std::function<bool()>& keep_on,
              const std::function<void(size_t file, const std::atomic<bool>* stop)>& scan);

}  // namespace pretexture
