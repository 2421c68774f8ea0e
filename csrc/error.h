// Errors in data, and where they are.
#pragma once

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>

namespace pretexture {

// What is wrong with some data. The caller knows where they are and adds that.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A fault of the machine, not of a record: a file cannot be opened or read, or was replaced after
// it was indexed. The record may be sound, so it is not replaced by another one.
class Unavailable : public Error {
 public:
  using Error::Error;
};

// A record that cannot be used, and why.
struct RecordFault {
  std::string path;
  std::optional<uint64_t> offset;  // bytes from the start of the file; nothing if it is the record
  uint32_t record = 0;             // number in the dataset
  std::string reason;
};

}  // namespace pretexture
