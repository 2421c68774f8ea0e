// Writes the files that fuzzing begins with, in a folder for each target: make_seeds FOLDER
//
// They are small files of every kind that the parsers know. They are generated and not kept,
// because this code says what they are. Files that fuzzing has found are kept in corpus/.
#include <png.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "jpegs.h"
#include "shards.h"
#include "tars.h"
#include "test.h"

namespace pretexture {
namespace {

using namespace test;

class Folder {
 public:
  explicit Folder(const std::string& path) : path_(path) {
    if (mkdir(path.c_str(), 0777) != 0 && errno != EEXIST) Fail();
  }
  void Add(const std::string& name, const Bytes& data) const {
    std::FILE* const file = std::fopen((path_ + "/" + name).c_str(), "wb");
    if (file == nullptr) Fail();
    if (std::fwrite(data.data(), 1, data.size(), file) != data.size()) Fail();
    if (std::fclose(file) != 0) Fail();
  }

 private:
  [[noreturn]] void Fail() const {
    std::perror(path_.c_str());
    std::exit(1);
  }
  std::string path_;
};

// Follows an image in the input: all columns and rows, or some.
const Bytes kWhole = {0, 0, 0, 0, 3};
const Bytes kPart = {9, 4, 7, 3, 0};

void AddImage(const Folder& folder, const std::string& name, const Bytes& data) {
  folder.Add(name, data + kWhole);
  folder.Add(name + "-part", data + kPart);
}

void AddJpegs(const Folder& folder) {
  struct Kind {
    const char* name;
    J_COLOR_SPACE stored;
    std::vector<std::pair<int, int>> sampling;
  };
  const std::vector<Kind> kinds = {
      {"444", JCS_YCbCr, {{1, 1}, {1, 1}, {1, 1}}},
      {"422", JCS_YCbCr, {{2, 1}, {1, 1}, {1, 1}}},
      {"420", JCS_YCbCr, {{2, 2}, {1, 1}, {1, 1}}},
      {"440", JCS_YCbCr, {{1, 2}, {1, 1}, {1, 1}}},
      {"411", JCS_YCbCr, {{4, 1}, {1, 1}, {1, 1}}},
      {"410", JCS_YCbCr, {{4, 2}, {1, 1}, {1, 1}}},
      {"uneven", JCS_YCbCr, {{2, 2}, {2, 1}, {1, 2}}},
      {"rgb", JCS_RGB, {{1, 1}, {1, 1}, {1, 1}}},
      {"grey", JCS_GRAYSCALE, {}},
      {"cmyk", JCS_CMYK, {{1, 1}, {1, 1}, {1, 1}, {1, 1}}},
      {"ycck", JCS_YCCK, {{2, 2}, {1, 1}, {1, 1}, {2, 2}}},
  };
  for (const Kind& kind : kinds) {
    JpegOptions options;
    options.stored = kind.stored;
    options.sampling = kind.sampling;
    options.quality = 60;
    const std::string name = kind.name;
    AddImage(folder, name, EncodeJpeg(35, 18, options));
    options.restart_blocks = 2;
    AddImage(folder, name + "-restarts", EncodeJpeg(40, 20, options));
    options.restart_blocks = 0;
    options.optimized = true;
    AddImage(folder, name + "-optimized", EncodeJpeg(19, 33, options));
    options.progressive = true;
    AddImage(folder, name + "-progressive", EncodeJpeg(20, 20, options));
    options.optimized = false;
    options.arithmetic = true;
    AddImage(folder, name + "-progressive-arithmetic", EncodeJpeg(20, 20, options));
    options.progressive = false;
    AddImage(folder, name + "-arithmetic", EncodeJpeg(20, 20, options));
  }
  const Bytes image = EncodeJpeg(30, 20);
  const size_t frame = FindMarkers(image, 0xc0).front();
  Bytes other = image;
  other[frame + 4] = 12;
  AddImage(folder, "12-bits", other);
  for (const size_t cut : {2, 3, 20, 200}) {
    const Bytes part(image.begin(), image.end() - static_cast<std::ptrdiff_t>(cut));
    const std::string name = "cut-by-" + std::to_string(cut);
    AddImage(folder, name, part);
    AddImage(folder, name + "-ff-ff", part + Bytes{0xff, 0xff});
    AddImage(folder, name + "-ff-ff-00", part + Bytes{0xff, 0xff, 0});
    AddImage(folder, name + "-end", part + Bytes{0xff, 0xff, 0xd9});
  }
  Random random(7);
  for (int i = 0; i < 12; ++i) {
    CraftedJpeg jpeg = LongSymbols(&random);
    jpeg.restart_blocks = i % 3;
    AddImage(folder, "long-symbols-" + std::to_string(i), PutTogether(jpeg));
  }
}

void AddStreams(const Folder& folder) {
  Random random(8);
  for (int i = 0; i < 40; ++i) {
    Bytes input;
    for (int size = random.Between(50, 600); size > 0; --size) {
      input.push_back(static_cast<uint8_t>(random.Next()));
    }
    folder.Add("random-" + std::to_string(i), input);
  }
}

Bytes EncodePng(int color, int depth, int interlace, bool transparent) {
  constexpr png_uint_32 kWidth = 11, kHeight = 9;
  Bytes out;
  png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, nullptr, nullptr, nullptr);
  png_infop info = png_create_info_struct(png);
  png_set_write_fn(
      png, &out,
      [](png_structp p, png_bytep data, size_t size) {
        Append(static_cast<Bytes*>(png_get_io_ptr(p)), Bytes(data, data + size));
      },
      nullptr);
  png_set_IHDR(png, info, kWidth, kHeight, depth, color, interlace, PNG_COMPRESSION_TYPE_DEFAULT,
               PNG_FILTER_TYPE_DEFAULT);
  Bytes pixels = TestPixels(kWidth * 4, kHeight, 2);
  if (color == PNG_COLOR_TYPE_PALETTE) {
    std::vector<png_color> palette(size_t{1} << depth);
    for (size_t i = 0; i < palette.size(); ++i) {
      palette[i] = {pixels[i], pixels[i + 1], pixels[i + 2]};
    }
    png_set_PLTE(png, info, palette.data(), static_cast<int>(palette.size()));
  }
  if (transparent) {
    const png_color_16 clear = {1, 2, 3, 4, 1};
    png_set_tRNS(png, info, pixels.data(), 2, &clear);
  }
  std::vector<png_bytep> rows;
  for (png_uint_32 y = 0; y < kHeight; ++y) rows.push_back(pixels.data() + size_t{8} * kWidth * y);
  png_set_rows(png, info, rows.data());
  png_write_png(png, info, PNG_TRANSFORM_IDENTITY, nullptr);
  png_destroy_write_struct(&png, &info);
  return out;
}

void AddPngs(const Folder& folder) {
  struct Kind {
    const char* name;
    int color;
    std::initializer_list<int> depths;
  };
  const Kind kinds[] = {
      {"grey", PNG_COLOR_TYPE_GRAY, {1, 2, 4, 8, 16}},
      {"grey-alpha", PNG_COLOR_TYPE_GRAY_ALPHA, {8, 16}},
      {"palette", PNG_COLOR_TYPE_PALETTE, {1, 2, 4, 8}},
      {"rgb", PNG_COLOR_TYPE_RGB, {8, 16}},
      {"rgba", PNG_COLOR_TYPE_RGB_ALPHA, {8, 16}},
  };
  for (const Kind& kind : kinds) {
    for (const int depth : kind.depths) {
      for (const int interlace : {PNG_INTERLACE_NONE, PNG_INTERLACE_ADAM7}) {
        for (const bool transparent : {false, true}) {
          if (transparent && (kind.color & PNG_COLOR_MASK_ALPHA)) continue;
          AddImage(folder,
                   std::string(kind.name) + "-" + std::to_string(depth) +
                       (interlace ? "-interlaced" : "") + (transparent ? "-transparent" : ""),
                   EncodePng(kind.color, depth, interlace, transparent));
        }
      }
    }
  }
}

void AddExamples(const Folder& folder) {
  const Bytes image = Entry("i", BytesFeature(Text("pixels")));
  const Bytes label = Entry("l", Int64Feature(300));
  const Bytes more = Entry("other", Field(2, Field(1, Bytes(8, 1)))) + VarintField(9, 1);
  const std::pair<const char*, Bytes> examples[] = {
      {"both", image + label},
      {"more", more + label + more + image},
      {"no-label", image},
      {"minus-one", image + Entry("l", Int64Feature(-1))},
      {"unpacked", image + Entry("l", Field(3, VarintField(1, 5) + VarintField(1, 6)))},
      {"packed", image + Entry("l", Field(3, Field(1, {5, 6, 7})))},
      {"bytes", image + Entry("l", BytesFeature(Text("cat")))},
      {"floats", image + Entry("l", Field(2, Field(1, Bytes(4, 1))))},
      {"empty", image + Entry("l", {}) + Entry("l", Field(3, {}))},
      {"twice", image + image + label + Entry("l", Int64Feature(2))},
      {"many", image + Entry("l", BytesFeature(Text("a")) + Int64Feature(1))},
      {"no-image", label},
  };
  for (const auto& example : examples) {
    for (const int rule : {0, 17, 8}) {
      folder.Add(std::string(example.first) + "-" + std::to_string(rule),
                 Field(1, example.second) + Bytes{static_cast<uint8_t>(rule)});
    }
  }
}

void AddShards(const Folder& folder) {
  const Bytes record = Text("record");
  Bytes damaged = Shard({record, record});
  damaged[12] ^= 1;
  const std::pair<const char*, Bytes> shards[] = {
      {"one", Shard({record})},
      {"three", Shard({record, {}, Bytes(40, 7)})},
      {"long", Shard({Bytes(300, 1), Bytes(5000, 2), Bytes(10, 3)})},
      {"damaged", damaged},
      {"cut", Bytes(damaged.begin(), damaged.end() - 3)},
      {"gzip", Text("\x1f\x8b\x08") + Bytes(20, 0)},
      {"page", Text("<!DOCTYPE html><html>")},
      {"numbers", Text("0 120\n120 300\n")},
      {"zeros", Bytes(40, 0)},
  };
  for (const auto& shard : shards) folder.Add(shard.first, shard.second + Bytes{0, 6});
}

void AddTars(const Folder& folder) {
  const Bytes image = Member("a/1.jpg", Bytes(600, 9)), label = Member("a/1.cls", Text("12"));
  const std::pair<const char*, Bytes> tars[] = {
      {"plain", image + label + kEnd},
      {"folder", Member("a/", {}, '5') + image + Member("a/1.json", Text("{\"label\": 3}")) + kEnd},
      {"gnu", Member("././@LongLink", Text(std::string(120, 'n') + ".jpg"), 'L') + image + kEnd},
      {"pax", Member("p", Text(Pax("path", "b.jpg") + Pax("size", "600")), 'x') + image + kEnd},
      {"global", Member("p", Text(Pax("comment", "x")), 'g') + image + kEnd},
      {"sparse", Member("s.jpg", Bytes(9), 'S') + kEnd},
      {"binary",
       Header("b.jpg", std::string("\x80\0\0\0\0\0\0\0\0\0\0\x03", 12)) + Bytes(512) + kEnd},
      {"links", Header("l.jpg", Octal(9), '2') + label + kEnd},
      {"joined", image + kEnd + image + kEnd},
      {"cut", image + label},
  };
  for (const auto& tar : tars) folder.Add(tar.first, tar.second + Bytes{0, 88});
}

void AddPermutations(const Folder& folder) {
  const auto file = [](uint64_t n, uint64_t k, std::initializer_list<uint64_t> values) {
    Bytes out = LittleEndian(n, 4) + LittleEndian(k, 4);
    for (const uint64_t value : values) Append(&out, LittleEndian(value, 4));
    return out;
  };
  folder.Add("two", file(2, 3, {1, 2, 3, 3, 1, 2}));
  folder.Add("one", file(1, 2, {2, 1}));
  folder.Add("repeated", file(1, 3, {1, 1, 3}));
  folder.Add("from-zero", file(1, 3, {0, 1, 2}));
  folder.Add("short", file(3, 2, {1, 2, 2, 1}));
  folder.Add("negative", file(uint64_t{0} - 1, 2, {1, 2}));
  folder.Add("huge", file(0x7fffffff, 0x7fffffff, {1, 2}));
}

// loader/shards/index.py describes the format.
void AddIndexes(const Folder& folder) {
  const auto file = [](const std::vector<std::vector<uint64_t>>& shards, uint64_t sizes_off = 0) {
    Bytes begins = LittleEndian(0, 8), offsets, lengths, sizes;
    uint64_t records = 0;
    for (const std::vector<uint64_t>& shard : shards) {
      uint64_t offset = 0;
      for (const uint64_t length : shard) {
        Append(&offsets, LittleEndian(offset, 8));
        Append(&lengths, LittleEndian(length, 4));
        offset += length + 16;
      }
      records += shard.size();
      Append(&begins, LittleEndian(records, 8));
      Append(&sizes, LittleEndian(offset + sizes_off, 2));
    }
    const Bytes body = begins + offsets + lengths;
    return Text("PTXINDX2") + LittleEndian(shards.size(), 8) + LittleEndian(records, 8) +
           LittleEndian(MaskCrc(Crc32c(ToSpan(body))), 4) + Bytes(4, 0) + body + sizes +
           Bytes{static_cast<uint8_t>(shards.size())};
  };
  folder.Add("one", file({{10}}));
  folder.Add("three", file({{10, 0}, {200}, {1, 2, 3}}));
  folder.Add("longer", file({{10, 20}}, 1));
  folder.Add("none", file({}));
  folder.Add("old", Text("PK\3\4") + Bytes(30, 0));
}

// loader/shards/image_folder.py and webdataset.py describe the formats.
void AddLists(const Folder& folder) {
  const auto checked = [](const Bytes& fields, const Bytes& content) {
    return fields + LittleEndian(MaskCrc(Crc32c(ToSpan(content))), 4) + LittleEndian(0, 4) +
           content;
  };
  const auto numbers = [](std::initializer_list<uint64_t> values) {
    Bytes out;
    for (const uint64_t value : values) Append(&out, LittleEndian(value, 8));
    return out;
  };
  const Bytes parts[] = {Text(std::string("\0a\0b\0", 5)),
                         numbers({1, 2, 3, 4, 5, 6}),
                         Text(std::string("a\0b\0", 4)),
                         numbers({0, 1, 2}),
                         Text(std::string("1.jpg\0002.jpg\0", 12)),
                         numbers({9, 8, 7, 6})};
  Bytes fields = Text("PTXFILE1"), content;
  for (const Bytes& part : parts) {
    Append(&fields, LittleEndian(part.size(), 8));
    Append(&content, part);
  }
  folder.Add("files", checked(fields, content) + Bytes{1});

  const Bytes tars = numbers({0, 1, 2}) + numbers({0, 512}) + LittleEndian(100, 4) +
                     LittleEndian(200, 4) + LittleEndian(3, 4) + LittleEndian(4, 4);
  const Bytes sizes = LittleEndian(1024, 2) + LittleEndian(0xffff, 2) + Bytes{2};
  folder.Add("tars", checked(Text("PTXTARS1") + numbers({2, 2}), tars) + sizes + Bytes{0});
}

}  // namespace
}  // namespace pretexture

int main(int argc, char** argv) {
  using namespace pretexture;
  if (argc != 2) {
    std::fprintf(stderr, "usage: make_seeds FOLDER\n");
    return 2;
  }
  const std::string root = argv[1];
  const Folder made(root);
  AddExamples(Folder(root + "/example"));
  AddStreams(Folder(root + "/huffman"));
  AddIndexes(Folder(root + "/index"));
  AddJpegs(Folder(root + "/jpeg"));
  AddLists(Folder(root + "/lists"));
  AddPermutations(Folder(root + "/permutations"));
  AddPngs(Folder(root + "/png"));
  AddTars(Folder(root + "/tar"));
  AddShards(Folder(root + "/tfrecord"));
}
