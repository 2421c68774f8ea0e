#include "tar.h"

#include <cstdio>
#include <cstring>

#include "error.h"
#include "tars.h"
#include "test.h"

namespace pretexture {
namespace {

using namespace test;

std::vector<std::string> Names(const TarIndex& index) {
  std::vector<std::string> names;
  for (size_t at = 0; at < index.names.size(); at += names.back().size() + 1) {
    names.emplace_back(index.names.c_str() + at);
  }
  return names;
}

TEST(a_scan_finds_every_file_and_reading_gives_it_back) {
  Bytes archive = Member("folder/", {}, '5');
  std::vector<Bytes> files;
  // Sizes at which a file ends within or near the scan's window of 4096 bytes.
  for (const size_t size : {0, 1, 511, 512, 513, 2559, 2560, 3583, 3584, 3585, 10000, 70000}) {
    files.emplace_back(size, static_cast<uint8_t>(size));
    Append(&archive, Member("folder/" + std::to_string(size) + ".jpg", files.back()));
  }
  const TemporaryFile file(archive + kEnd);
  const TarIndex index = ScanTar(file.path());
  CHECK_EQ(index.fault, "");
  CHECK_EQ(index.sizes.size(), files.size());
  CHECK_EQ(Names(index)[3], "folder/512.jpg");
  Scratch buffer;
  for (size_t i = 0; i < files.size(); ++i) {
    const Span data = ReadMember(File(file.path()), index.offsets[i],
                                 static_cast<uint32_t>(index.sizes[i]), &buffer);
    CHECK(Bytes(data.data, data.data + data.size) == files[i]);
  }
}

TEST(the_contents_of_labels_are_kept) {
  const Bytes archive = Member("1.jpg", Bytes(700, 7)) + Member("1.cls", Text("12")) +
                        Member("2.JSON", Text("{}")) + Member("3.cls", {}) + kEnd;
  const TemporaryFile file(archive);
  const TarIndex index = ScanTar(file.path());
  CHECK_EQ(index.text, "12{}");
  CHECK(index.text_begin == (std::vector<uint64_t>{0, 0, 2, 4, 4}));
}

TEST(a_label_is_read_across_the_end_of_the_window) {
  const std::string text(9000, 'x');
  const TemporaryFile file(Member("1.json", Text(text)) + kEnd);
  CHECK_EQ(ScanTar(file.path()).text, text);
}

TEST(sizes_may_be_octal_or_bytes) {
  const Bytes data(300, 1);
  Bytes padded = data;
  padded.resize(512);
  const std::string binary("\x80\0\0\0\0\0\0\0\0\0\x01\x2c", 12);
  for (const std::string& size :
       {Octal(300), std::string("00000000454 "), std::string("        454"), binary}) {
    const TemporaryFile file(Header("1.jpg", size) + padded + kEnd);
    const TarIndex index = ScanTar(file.path());
    CHECK_EQ(index.fault, "");
    CHECK_EQ(index.sizes.at(0), uint64_t{300});
    Scratch buffer;
    CHECK_EQ(ReadMember(File(file.path()), 0, 300, &buffer).size, size_t{300});
  }
  for (const std::string& size : {std::string("x"), std::string("0000000454x"),
                                  std::string(12, '\xff'), "\x80" + std::string(11, '\xff')}) {
    const TemporaryFile file(Header("1.jpg", size) + padded + kEnd);
    const TarIndex index = ScanTar(file.path());
    CHECK(!index.fault.empty());
    CHECK_EQ(index.sizes.size(), size_t{0});
  }
}

TEST(pax_headers_and_gnu_names_are_read) {
  const std::string long_name = std::string(200, 'n') + ".jpg";
  const TemporaryFile file(
      Member("pax", Text(Pax("path", "a.cls") + Pax("path", "b.jpg") + Pax("comment", "=x\ny")),
             'x') +
      Member("short", Bytes(3, 1)) + Member("././@LongLink", Text(long_name), 'L') +
      Member("././@LongLink", Text("target"), 'K') + Member("cut", Bytes(3, 2)) +
      Member("plain", Bytes(3, 3)) + kEnd);
  const TarIndex index = ScanTar(file.path());
  CHECK_EQ(index.fault, "");
  CHECK(Names(index) == (std::vector<std::string>{"b.jpg", long_name, "plain"}));
}

TEST(a_malformed_pax_header_is_a_fault) {
  for (const std::string& records :
       {std::string("13 path=a.cls"), std::string("99 path=a.cls\n"), std::string("0 path=a\n"),
        std::string("path=a\n"), std::string("5 a="), std::string("99999999999999999999 a=b\n"),
        std::string("4 a\n"), Pax("size", "x"), Pax("size", ""), Pax("path", ""),
        Pax("path", std::string(2, '\0')), Pax("size", "99999999999999999999")}) {
    const TemporaryFile file(Member("pax", Text(records), 'x') + Member("1.jpg", Bytes(3)) + kEnd);
    const TarIndex found = ScanTar(file.path());
    CHECK_EQ(found.fault, "a pax header is malformed");
    CHECK_EQ(found.fault_offset, uint64_t{0});
  }
}

TEST(a_size_in_a_pax_header_alone_is_a_fault) {
  const TemporaryFile file(Member("pax", Text(Pax("size", "3")), 'x') + Header("1.jpg", Octal(0)) +
                           Bytes(512) + kEnd);
  CHECK_EQ(ScanTar(file.path()).fault,
           "the file 1.jpg has another size in its pax header than in its own");
}

TEST(links_and_devices_have_no_data) {
  Bytes archive;
  for (const char type : {'1', '2', '3', '4', '5', '6'}) {
    Append(&archive, Header("x.jpg", Octal(5000), type));
  }
  const TemporaryFile file(archive + Member("1.jpg", Bytes(3)) + kEnd);
  const TarIndex index = ScanTar(file.path());
  CHECK_EQ(index.fault, "");
  CHECK(Names(index) == std::vector<std::string>{"1.jpg"});
}

TEST(a_checksum_of_signed_bytes_is_right_too) {
  Bytes header = Header("\xff\xfe.jpg", Octal(0));
  int32_t sum = 0;
  std::memset(header.data() + 148, ' ', 8);
  for (const uint8_t byte : header) sum += static_cast<int8_t>(byte);
  std::snprintf(reinterpret_cast<char*>(header.data()) + 148, 8, "%06o",
                static_cast<unsigned>(sum));
  const TemporaryFile file(header + kEnd);
  CHECK_EQ(ScanTar(file.path()).fault, "");
}

TEST(a_changed_archive_is_unavailable) {
  TemporaryFile file(Member("1.jpg", Bytes(600, 1)) + kEnd);
  Scratch buffer;
  const auto read = [&](uint64_t offset, uint32_t length) {
    ReadMember(File(file.path()), offset, length, &buffer);
  };
  read(0, 600);
  CHECK_THROWS(read(0, 601), "replaced");
  CHECK_THROWS(read(512, 600), "replaced");
  CHECK_THROWS(read(0, 5000), "truncated");
  CHECK_THROWS(read(~uint64_t{0} - 100, 600), "truncated");
  file.Write(Member("1.jpg", Bytes(800, 1)) + kEnd);
  CHECK_THROWS(read(0, 600), "replaced");
}

TEST(damaged_archives_never_crash_the_scan_or_the_reader) {
  const Bytes whole = Member("pax", Text(Pax("path", "1.cls") + Pax("size", "3")), 'x') +
                      Member("1.cls", Text("123")) + Member("2.jpg", Bytes(900, 9)) + kEnd;
  Random random(5);
  TemporaryFile file;
  for (int round = 0; round < 3000; ++round) {
    Bytes damaged = whole;
    for (uint32_t n = random.Next() % 6; n > 0; --n) {
      damaged[random.Next() % damaged.size()] = static_cast<uint8_t>(random.Next());
    }
    damaged.resize(random.Next() % 2 ? damaged.size() : random.Next() % damaged.size());
    file.Write(damaged);
    const TarIndex index = ScanTar(file.path());
    for (size_t i = 0; i < index.offsets.size(); ++i) {
      CHECK(index.offsets[i] + 512 + index.sizes[i] <= damaged.size());
      Scratch buffer;
      ReadMember(File(file.path()), index.offsets[i], static_cast<uint32_t>(index.sizes[i]),
                 &buffer);
    }
  }
}

}  // namespace
}  // namespace pretexture
