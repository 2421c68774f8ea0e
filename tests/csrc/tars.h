// Tar archives for tests, built byte by byte.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>

#include "shards.h"

namespace pretexture {
namespace test {

// The header of a file, as POSIX describes it.
inline Bytes Header(const std::string& name, const std::string& size, char type = '0') {
  Bytes header(512);
  std::memcpy(header.data(), name.data(), std::min<size_t>(name.size(), 100));
  std::memcpy(header.data() + 124, size.data(), std::min<size_t>(size.size(), 12));
  header[156] = static_cast<uint8_t>(type);
  std::memcpy(header.data() + 257, "ustar\00000", 8);
  std::memset(header.data() + 148, ' ', 8);
  uint32_t sum = 0;
  for (const uint8_t byte : header) sum += byte;
  std::snprintf(reinterpret_cast<char*>(header.data()) + 148, 8, "%06o", sum);
  return header;
}

inline std::string Octal(uint64_t size) {
  char text[24];
  std::snprintf(text, sizeof(text), "%011llo", static_cast<unsigned long long>(size));
  return text;
}

inline Bytes Member(const std::string& name, const Bytes& data, char type = '0') {
  Bytes member = Header(name, Octal(data.size()), type) + data;
  member.resize((member.size() + 511) / 512 * 512);
  return member;
}

// A record of a pax header, whose own length is the number at its beginning.
inline std::string Pax(const std::string& key, const std::string& value) {
  const std::string rest = " " + key + "=" + value + "\n";
  size_t size = rest.size() + 1;
  if (std::to_string(size).size() > 1) ++size;
  return std::to_string(size) + rest;
}

const Bytes kEnd(1024);

}  // namespace test
}  // namespace pretexture
