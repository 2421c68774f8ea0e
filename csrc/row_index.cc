#include "row_index.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <system_error>
#include <thread>
#include <utility>

#include "crc32c.h"
#include "decoder.h"
#include "error.h"
#include "file.h"

namespace pretexture {
namespace {

// A file begins with these eight bytes, the number of the shard's records and the bytes that
// follow; the numbers have 64 bits and, like all others, the lowest byte first.
constexpr char kMagic[] = "PTXROWS1";
constexpr size_t kHeader = 24;
// Points of an image: CRC-32C of what follows (4 bytes), ImageKey (4), size of the points (3), and
// the points as RowPoints encodes them.
constexpr size_t kEntry = 11;
// A slot has 0.58% of the size of its record, but at most kMostBytes.
constexpr uint64_t kShare = 58, kOf = 10'000;
constexpr size_t kMostBytes = size_t{1} << 17;
// The row index may take one part in so many of the free space.
constexpr uint64_t kFreeShare = 4;
constexpr size_t kBlock = size_t{1} << 20;  // bytes that are merged at a time

void Store(uint64_t value, size_t bytes, uint8_t* to) {
  for (size_t i = 0; i < bytes; ++i) to[i] = static_cast<uint8_t>(value >> (8 * i));
}

uint64_t Load(const uint8_t* from, size_t bytes) {
  uint64_t value = 0;
  for (size_t i = 0; i < bytes; ++i) value |= uint64_t{from[i]} << (8 * i);
  return value;
}

bool WriteAll(int file, uint64_t offset, const uint8_t* data, size_t size) {
  while (size > 0) {
    const ssize_t done = pwrite(file, data, size, static_cast<off_t>(offset));
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) return false;
    data += done;
    size -= static_cast<size_t>(done);
    offset += static_cast<uint64_t>(done);
  }
  return true;
}

// What the bytes of a slot say. Their checksum has been verified, but they may be about another
// image.
struct Entry {
  uint32_t image = 0;
  Span points;
};

// Returns false if they are not an entry.
bool Parse(Span slot, Entry* entry) {
  if (slot.size < kEntry) return false;
  entry->image = static_cast<uint32_t>(Load(slot.data + 4, 4));
  entry->points = {slot.data + kEntry, static_cast<size_t>(Load(slot.data + 8, 3))};
  return entry->points.size > 0 && entry->points.size <= slot.size - kEntry &&
         Load(slot.data, 4) == Crc32c({slot.data + 4, kEntry - 4 + entry->points.size});
}

// A folder's free space for this user, bytes.
uint64_t FreeSpace(const std::string& folder) {
  struct statvfs status = {};
  if (statvfs(folder.c_str(), &status) != 0) return 0;
  return uint64_t{status.f_bavail} * status.f_frsize;
}

// A file in `folder` with the name of `prefix` and six letters, which `path` is set to.
int MakeTemporary(const std::string& folder, const char* prefix, std::string* path) {
  *path = folder + "/" + prefix + "XXXXXX";
  return mkostemp(path->data(), O_CLOEXEC);
}

}  // namespace

uint32_t ImageKey(uint32_t crc, Span data, Span image) {
  uint8_t bytes[20];
  Store(crc, 4, bytes);
  Store(static_cast<uint64_t>(image.data - data.data), 8, bytes + 4);
  Store(image.size, 8, bytes + 12);
  return Crc32c({bytes, sizeof(bytes)});
}

RowIndex::RowIndex(RowIndexFiles files, const Records& records, uint32_t workers)
    : where_(std::move(files)),
      records_(records),
      workers_(workers),
      files_(where_.paths, [this](size_t shard) { return OpenFile(shard); }) {
  const size_t shards = records_.paths.size();
  if (where_.paths.size() != shards) throw Error("the row index is of other shards");
  missing_ = std::make_unique<std::atomic<bool>[]>(shards);
  unwritten_ = std::make_unique<std::atomic<uint32_t>[]>(shards);
  begin_.push_back(0);
  for (size_t shard = 0; shard < shards; ++shard) {
    const uint64_t end = records_.shard_begin[shard + 1];
    uint64_t size = 0;
    if (end > records_.shard_begin[shard]) {
      const Slot last = SlotOf(static_cast<uint32_t>(end - 1));
      size = last.begin + last.size;
    }
    begin_.push_back(begin_.back() + size);
  }
}

RowIndex::~RowIndex() {
  if (new_ >= 0) close(new_);
}

RowIndex::Slot RowIndex::SlotOf(uint32_t record) const {
  const uint64_t offset = records_.offsets[record];
  const uint64_t begin = offset * kShare / kOf;
  const uint64_t end = (offset + records_.lengths[record]) * kShare / kOf;
  return {begin, static_cast<size_t>(std::min<uint64_t>(end - begin, kMostBytes))};
}

// Throws Unavailable if there is no file of this shard.
int RowIndex::OpenFile(size_t shard) const {
  const int flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW;
  int file;
  do {
    file = open(where_.paths[shard].c_str(), flags);
  } while (file < 0 && (errno == EMFILE || errno == ENFILE) && ShardFiles::CloseOldest());
  if (file < 0) throw Unavailable(std::strerror(errno));
  uint8_t header[kHeader];
  struct stat status = {};
  const uint64_t size = begin_[shard + 1] - begin_[shard];
  bool right = false;
  try {
    right = fstat(file, &status) == 0 && S_ISREG(status.st_mode) &&
            static_cast<uint64_t>(status.st_size) == kHeader + size &&
            ReadAt(file, 0, header, kHeader) == kHeader && std::memcmp(header, kMagic, 8) == 0 &&
            Load(header + 8, 8) == records_.shard_begin[shard + 1] - records_.shard_begin[shard] &&
            Load(header + 16, 8) == size;
  } catch (const Unavailable&) {  // It cannot be read.
  }
  if (right) return file;
  close(file);
  throw Unavailable("it is not the row index of this shard");
}

bool RowIndex::Read(size_t shard, uint32_t record, uint32_t image, RowPoints* points) {
  const Slot slot = SlotOf(record);
  if (slot.size <= kEntry) return false;
  points->Clear(slot.size - kEntry);
  if (missing_[shard]) return !failed_;  // Without either, points have no use.
  uint8_t stack[1024];
  std::vector<uint8_t> heap(slot.size > sizeof(stack) ? slot.size : 0);
  uint8_t* const data = heap.empty() ? stack : heap.data();
  try {
    const std::shared_ptr<File> file = files_.Get(shard);
    if (file->Read(kHeader + slot.begin, data, slot.size) != slot.size) return true;
  } catch (const Unavailable&) {
    missing_[shard] = true;
    return !failed_;
  }
  Entry entry;
  if (Parse({data, slot.size}, &entry) && entry.image == image) {
    points->Decode(entry.points.data, entry.points.size);
  }
  return true;
}

void RowIndex::Add(size_t shard, uint32_t record, uint32_t image, const RowPoints& points) {
  if (points.points.empty() || !Prepare()) return;
  const std::vector<uint8_t> encoded = points.Encode();
  const Slot slot = SlotOf(record);
  if (kEntry + encoded.size() > slot.size) return;
  std::vector<uint8_t> data(kEntry);
  Store(image, 4, data.data() + 4);
  Store(encoded.size(), 3, data.data() + 8);
  data.insert(data.end(), encoded.begin(), encoded.end());
  Store(Crc32c({data.data() + 4, data.size() - 4}), 4, data.data());
  if (!WriteAll(new_, begin_[shard] + slot.begin, data.data(), data.size())) {
    Fail("cannot be written", errno);
    return;
  }
  const uint64_t records = records_.shard_begin[shard + 1] - records_.shard_begin[shard];
  const uint64_t enough = std::max<uint64_t>(1, records / workers_ / 2);
  if (++unwritten_[shard] < enough || !write_.try_lock()) return;
  const std::lock_guard<std::mutex> lock(write_, std::adopt_lock);
  WriteShard(shard);
}

void RowIndex::Write(std::chrono::milliseconds patience) {
  const auto end = std::chrono::steady_clock::now() + patience;
  const std::lock_guard<std::mutex> lock(write_);
  // Processes that end at the same time begin at different shards.
  const size_t shards = where_.paths.size(), first = static_cast<size_t>(getpid()) * 31;
  for (size_t i = 0; i < shards && std::chrono::steady_clock::now() < end; ++i) {
    WriteShard((first + i) % shards);
  }
}

// Makes the temporary file, unless there is one. Returns false if points cannot be kept.
bool RowIndex::Prepare() {
  if (failed_) return false;
  if (new_ >= 0) return true;
  const std::lock_guard<std::mutex> lock(prepare_);
  if (failed_) return false;
  if (new_ >= 0) return true;
  const uint64_t needed = begin_.back(), free = FreeSpace(where_.folder);
  if (free > 0 && needed > free / kFreeShare) {
    Fail("would take " + std::to_string((needed + 999'999) / 1'000'000) + " MB of the " +
             std::to_string(free / 1'000'000) + " MB that are free",
         0);
    return false;
  }
  std::string path;
  const int file = MakeTemporary(where_.folder, "rows-new-", &path);
  if (file < 0) {
    Fail("cannot be written", errno);
    return false;
  }
  unlink(path.c_str());  // so that it goes when this process ends, however it ends
  new_ = file;
  return true;
}

// Writes the file of a shard, if it has new points. Called under `write_`.
void RowIndex::WriteShard(size_t shard) {
  if (failed_ || unwritten_[shard].exchange(0) == 0) return;
  std::string path;
  const int file = MakeTemporary(where_.folder, "rows-part-", &path);
  if (file < 0) {
    Fail("cannot be written", errno);
    return;
  }
  int error = 0;
  try {
    Merge(shard, file);
  } catch (const std::system_error& failure) {
    error = failure.code().value();
  } catch (const std::bad_alloc&) {
    error = ENOMEM;
  }
  if (close(file) != 0 && error == 0) error = errno;
  if (error == 0 && rename(path.c_str(), where_.paths[shard].c_str()) != 0) error = errno;
  if (error != 0) {
    unlink(path.c_str());
    Fail("cannot be written", error);
    return;
  }
  files_.Forget(shard);
  missing_[shard] = false;
}

// Writes a shard's file to the descriptor `to`: for each record its old points or its new ones.
// Throws std::system_error.
void RowIndex::Merge(size_t shard, int to) const {
  const auto first = static_cast<uint32_t>(records_.shard_begin[shard]);
  const auto end = static_cast<uint32_t>(records_.shard_begin[shard + 1]);
  const uint64_t size = begin_[shard + 1] - begin_[shard];
  std::unique_ptr<File> old;
  try {
    old = std::make_unique<File>(OpenFile(shard));
  } catch (const Unavailable&) {  // There are no old points.
  }
  std::vector<uint8_t> before, after, merged;
  const auto put = [&](uint64_t offset, const uint8_t* data, size_t bytes) {
    if (!WriteAll(to, offset, data, bytes)) {
      throw std::system_error(errno, std::generic_category());
    }
  };
  uint8_t header[kHeader];
  std::memcpy(header, kMagic, 8);
  Store(end - first, 8, header + 8);
  Store(size, 8, header + 16);
  put(0, header, kHeader);
  for (uint32_t record = first; record < end;) {
    // Some records at a time, at least one.
    const uint64_t begin = SlotOf(record).begin;
    uint32_t last = record;
    while (last + 1 < end && SlotOf(last + 1).begin - begin < kBlock) ++last;
    const Slot final = SlotOf(last);
    const size_t bytes = static_cast<size_t>(final.begin - begin) + final.size;
    before.assign(bytes, 0);
    after.assign(bytes, 0);
    merged.assign(bytes, 0);
    // What has been read is checked below, and the rest is zeros.
    try {
      if (old) old->Read(kHeader + begin, before.data(), bytes);
    } catch (const Unavailable&) {
    }
    try {
      ReadAt(new_, begin_[shard] + begin, after.data(), bytes);
    } catch (const Unavailable&) {
    }
    for (; record <= last; ++record) {
      const Slot slot = SlotOf(record);
      const size_t at = static_cast<size_t>(slot.begin - begin);
      Entry was, is;
      const bool has_old = Parse({before.data() + at, slot.size}, &was);
      const bool has_new = Parse({after.data() + at, slot.size}, &is);
      if (!has_old && !has_new) continue;
      // Of one image, the longer entry has more points.
      const bool longer = was.image == is.image && was.points.size >= is.points.size;
      const bool keep = has_old && (!has_new || longer);
      std::copy_n((keep ? before : after).data() + at, kEntry + (keep ? was : is).points.size,
                  &merged[at]);
    }
    put(kHeader + begin, merged.data(), bytes);
  }
}

void RowIndex::Fail(const std::string& what, int error) {
  const std::lock_guard<std::mutex> lock(fault_mutex_);
  if (failed_.exchange(true)) return;
  fault_ = "the row index in " + where_.folder + " " + what;
  if (error != 0) fault_ += std::string(": ") + std::strerror(error);
}

std::string RowIndex::TakeFault() {
  const std::lock_guard<std::mutex> lock(fault_mutex_);
  return std::exchange(fault_, {});
}

RowCounts IndexRows(RowIndexFiles files, const Records& records, size_t shard, int threads,
                    const DecodeOptions& options) {
  RowIndex index(std::move(files), records, 1);
  ShardFiles shards(records.paths, records.opener);
  std::atomic<uint64_t> next{records.shard_begin[shard]}, with{0}, without{0};
  std::mutex mutex;
  std::string unavailable;  // what is, and why
  const auto work = [&] {
    ImageDecoder decoder(options);
    Scratch buffer;
    Record read;
    RowPoints points;
    for (uint64_t at; (at = next++) < records.shard_begin[shard + 1] && !options.Stopped();) {
      const auto number = static_cast<uint32_t>(at);
      points.Clear(0);
      try {
        records.Read(number, &shards, &buffer, &read);
        const uint32_t image = records.ImageKeyOf(read);
        if (index.Read(shard, number, image, &points)) {
          decoder.Open(read.example.image);
          decoder.FindRows(&points);
          if (points.changed) index.Add(shard, number, image, points);
        }
      } catch (const Unavailable& error) {
        const std::lock_guard<std::mutex> lock(mutex);
        unavailable = records.PathOf(number) + ": " + error.what();
        return;
      } catch (const std::exception&) {  // A Loader will say what is wrong with the record.
        points.Clear(0);
      }
      ++(points.points.empty() ? without : with);
      buffer.Settle();
    }
  };
  std::vector<std::thread> others;
  for (int i = 1; i < threads; ++i) {
    try {
      others.emplace_back(work);
    } catch (const std::system_error&) {
      break;  // Those that there are do it.
    }
  }
  work();
  for (std::thread& thread : others) thread.join();
  if (!unavailable.empty()) throw Unavailable(unavailable);
  index.Write(std::chrono::hours(24));
  const std::string fault = index.TakeFault();
  if (!fault.empty()) throw Unavailable(fault);
  return {with, without};
}

}  // namespace pretexture
