// Tar archives: finding the files in them, and reading one.
//
// An archive is a sequence of blocks of 512 bytes: for each file a header and then its data, filled
// up to a whole block; at the end two blocks of zeros. Long names and large sizes are in headers of
// their own before the file's: GNU tar's, or those of POSIX (pax).
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "file.h"
#include "scratch.h"
#include "span.h"

namespace pretexture {

// The files in an archive, in its order. Folders, links and devices are left out.
struct TarIndex {
  std::vector<uint64_t> offsets;  // of the header right before the data, from the archive's start
  std::vector<uint64_t> sizes;    // of the data, bytes
  std::string names;              // each ends with a zero byte
  // The contents of the files whose names end with .cls or .json, one after the other.
  std::string text;
  // By file: where its contents begin in `text`; one more entry for the end.
  std::vector<uint64_t> text_begin{0};
  // Why the scan ended before the end of the archive, and at which offset. Empty if it did not.
  std::string fault;
  uint64_t fault_offset = 0;
  // Whether the scan ended because the file could not be read, whatever its contents are.
  bool unavailable = false;
};

// Finds the files in the archive at `path`. Returns early, with those found so far, once `stop` is
// true.
TarIndex ScanTar(const std::string& path, const std::atomic<bool>* stop = nullptr);

// Scans several archives; the arguments and exceptions are those of ScanShards.
std::vector<TarIndex> ScanTars(const std::vector<std::string>& paths, int threads,
                               const std::function<bool()>& keep_on);

// Reads the file whose header is at `offset` into `buffer` and returns its data, `length` bytes
// within the buffer. Throws Unavailable if the archive has changed since it was indexed.
Span ReadMember(const File& file, uint64_t offset, uint32_t length, Scratch* buffer);

}  // namespace pretexture
