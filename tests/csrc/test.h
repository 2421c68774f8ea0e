// A small test framework.
//
//   TEST(a_name_that_tells_the_behaviour) { CHECK(…); CHECK_EQ(a, b); CHECK_THROWS(…, "part"); }
//
// main.cc runs all tests of an executable, or those whose name contains its first argument.
#pragma once

#include <cstdint>
#include <exception>
#include <functional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "span.h"

namespace pretexture {
namespace test {

using Bytes = std::vector<uint8_t>;

inline Span ToSpan(const Bytes& data) { return {data.data(), data.size()}; }

struct Test {
  const char* name;
  void (*run)();
};

inline std::vector<Test>& Tests() {
  static std::vector<Test> tests;
  return tests;
}

struct Registration {
  Registration(const char* name, void (*run)()) { Tests().push_back({name, run}); }
};

struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

[[noreturn]] inline void Fail(const char* file, int line, const std::string& what) {
  throw Failure(std::string(file) + ":" + std::to_string(line) + ": " + what);
}

template <typename A, typename B>
void CheckEqual(const char* file, int line, const char* text, const A& a, const B& b) {
  if (a == b) return;
  std::ostringstream what;
  what << text << ": '" << a << "' is not '" << b << "'";
  Fail(file, line, what.str());
}

// The message of what `run` throws, or an empty string if it throws nothing.
inline std::string Thrown(const std::function<void()>& run) {
  try {
    run();
  } catch (const std::exception& error) {
    return error.what();
  }
  return {};
}

inline void CheckContains(const char* file, int line, const std::string& text,
                          const std::string& part) {
  if (text.find(part) == std::string::npos) {
    Fail(file, line, "'" + text + "' does not contain '" + part + "'");
  }
}

// A random number generator that is the same on every machine.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 2 + 1) {}
  uint32_t Next() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return static_cast<uint32_t>(state_ >> 32);
  }
  // A number in low..high.
  int Between(int low, int high) {
    return low + static_cast<int>(Next() % static_cast<uint32_t>(high - low + 1));
  }
  float Float(float low, float high) {
    return low + (high - low) * static_cast<float>(Next() * 0x1p-32);
  }

 private:
  uint64_t state_;
};

// Damages data like damaged files: bits flip, and bytes are lost, added or changed.
inline void Mutate(Random* random, std::vector<uint8_t>* data) {
  for (int times = random->Between(1, 4); times > 0 && !data->empty(); --times) {
    const auto place = data->begin() + random->Between(0, static_cast<int>(data->size()) - 1);
    switch (random->Between(0, 4)) {
      case 0:
        *place = static_cast<uint8_t>(*place ^ 1u << random->Between(0, 7));
        break;
      case 1:
        *place = static_cast<uint8_t>(random->Next());
        break;
      case 2:
        *place = 0xff;
        break;
      case 3: {
        const auto left = static_cast<int>(data->end() - place);
        data->erase(place, place + random->Between(1, left < 16 ? left : 16));
        break;
      }
      default:
        data->insert(place, static_cast<size_t>(random->Between(1, 9)),
                     static_cast<uint8_t>(random->Next()));
    }
  }
}

}  // namespace test
}  // namespace pretexture

#define TEST(name)                                                                \
  static void name();                                                             \
  static const ::pretexture::test::Registration registration_##name{#name, name}; \
  static void name()

#define CHECK(condition)                                                        \
  do {                                                                          \
    if (!(condition)) ::pretexture::test::Fail(__FILE__, __LINE__, #condition); \
  } while (false)

#define CHECK_EQ(a, b) ::pretexture::test::CheckEqual(__FILE__, __LINE__, #a, a, b)

#define CHECK_THROWS(statement, part)                   \
  ::pretexture::test::CheckContains(__FILE__, __LINE__, \
                                    ::pretexture::test::Thrown([&] { statement; }), part)
