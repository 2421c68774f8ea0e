#include <cstdio>
#include <cstring>

#include "test.h"

int main(int argc, char** argv) {
  int failed = 0, ran = 0;
  for (const pretexture::test::Test& test : pretexture::test::Tests()) {
    if (argc > 1 && std::strstr(test.name, argv[1]) == nullptr) continue;
    ++ran;
    std::printf("%s\n", test.name);
    std::fflush(stdout);
    try {
      test.run();
    } catch (const std::exception& error) {
      std::printf("  FAILED  %s\n", error.what());
      ++failed;
    }
  }
  std::printf("%d of %d tests failed\n", failed, ran);
  return failed > 0 || ran == 0;
}
