// What goes wrong with data: the reason, and where.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace pretexture {

// A reason alone; whoever knows the place adds it.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A fault of the machine, not of a record: a file that cannot be opened or read, or was replaced
// underneath, or too little memory. The record may be sound, so that no other takes its place.
class Unavailable : public Error {
 public:
  using Error::Error;
};

// A record that cannot be used.
struct RecordFault {
  std::string path;
  uint64_t offset = 0;
  uint32_t record = 0;
  std::string reason;
};

}  // namespace pretexture
