// Huffman decoding of sequential JPEGs (ITU-T T.81, annex F.2.2), in place of libjpeg's.
//
// More than half of the time of decoding a JPEG is spent on its Huffman codes. libjpeg reads a code
// and then the bits of its value, and checks each time whether there are enough bits. Here a table
// entry gives the length of both together, so that the place of the next code is known before the
// value of this one, and bits are loaded eight bytes at a time. Blocks outside the wanted region
// are skipped without storing their coefficients, or, if it is known where a row begins, without
// being read at all.
//
// This decoder only handles sound data. At anything else it gives up, and libjpeg decodes the image
// from the start, with its own warnings and errors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>

// jpeglib.h needs the names that cstdio declares.
#include <jpeglib.h>

#include "row_points.h"

namespace pretexture {

// A Huffman table, looked up by the next bits of the coded data.
class HuffmanTable {
 public:
  static constexpr int kLook = 10;  // bits; with more, the tables do not fit in the nearest cache

  struct Symbol {
    uint8_t total;   // bits of the code and of its value; 0 if there is no such code
    uint8_t length;  // bits of the code
    uint8_t size;    // bits of the value
    uint8_t run;     // of zeros before the value
  };

  // The AC symbols that are complete within the next kLook bits: at most two coefficients, and
  // perhaps the end of the block after them.
  struct Step {
    uint64_t fields;  // in one number, so that two steps can be added

    // The values of the coefficients, or 0 if there is none.
    int16_t first() const { return static_cast<int16_t>(fields); }
    int16_t second() const { return static_cast<int16_t>(fields >> 16); }
    // Their places, counted from the last coefficient before them.
    int first_place() const { return static_cast<uint8_t>(fields >> 32); }
    int second_place() const { return static_cast<uint8_t>(fields >> 40); }
    // The place of the last of them, plus kEnd if the block ends; or kOther if no symbol is
    // complete.
    int advance() const { return static_cast<uint8_t>(fields >> 48); }
    int total() const { return static_cast<int>(fields >> 56); }  // bits
  };
  static constexpr int kEnd = 64, kOther = 128;

  // Does nothing if it already holds this table.
  void Build(const JHUFF_TBL& table, bool ac);

  // `bits` are the next bits of the coded data, the first one highest.
  Step Next(uint64_t bits) const { return steps_[bits >> (64 - kLook)]; }
  Symbol Find(uint64_t bits) const {
    const Symbol symbol = short_[bits >> (64 - kLook)];
    return symbol.total != 0 ? symbol : FindLong(bits);
  }

 private:
  static Symbol Describe(int length, int symbol);
  Symbol FindLong(uint64_t bits) const;
  void BuildSteps();

  Step steps_[1 << kLook];
  Symbol short_[1 << kLook];  // codes of up to kLook bits
  // By length: codes of this length are below `end_`, left-aligned in 16 bits, and the symbol of a
  // code is number `first_` + code.
  uint32_t end_[17];
  int first_[17];
  bool built_ = false;  // from the following
  uint8_t bits_[17];
  uint8_t symbols_[256];
};

// Decodes the MCUs of one image at a time.
class HuffmanDecoder {
 public:
  using GiveUp = void (*)(j_decompress_ptr);
  using DecodeMcu = boolean (*)(j_decompress_ptr, JBLOCKROW*);

  // Replaces libjpeg's function by `decode`, which must call Decode. To be called after
  // jpeg_start_decompress. Returns false, and does nothing, if this decoder cannot decode the
  // image.
  //
  // `give_up` is called if the data are not sound, and must not return. `rows`, if it is not null,
  // must live until the image is decoded: points in it are jumped to, and points that it lacks are
  // added.
  bool Attach(j_decompress_ptr info, DecodeMcu decode, GiveUp give_up, RowPoints* rows = nullptr);

  // Whether libjpeg's header says that Attach can succeed.
  static bool Handles(j_decompress_ptr info);

  // Columns of MCUs outside [begin, end) are skipped. By default none are.
  void Want(unsigned begin, unsigned end) {
    begin_ = begin;
    end_ = end;
  }

  // Decodes the next MCU into `blocks`, which must be zero, or skips it if `blocks` is null.
  void Decode(JBLOCKROW* blocks);

  // Skips all MCUs that are left, but reads them.
  void Finish() { ReadUpTo(columns_ * total_rows_); }

  uint64_t jumps() const { return jumps_; }                // in all images
  uint64_t bytes_jumped() const { return bytes_jumped_; }  // coded data that were not read

  // These are public only for the functions in huffman.cc.
  struct Block {
    const HuffmanTable *dc, *ac;
    int component;
  };
  // A position in the coded data.
  struct Bits {
    const uint8_t* next;
    const uint8_t* last;  // the end of the data
    uint64_t bits;        // the next bits, the first one highest
    int count;            // number of valid bits in `bits`, including `added`
    int added;            // zeros appended after the last bit before a marker
  };
  struct Mcu {
    Bits bits;
    Block block[D_MAX_BLOCKS_IN_MCU];
    int blocks;
    int predicted[MAX_COMPS_IN_SCAN];
  };

 private:
  void ReadUpTo(unsigned mcu);
  void ReadMcu(JBLOCKROW* blocks);
  void Restart();
  void ExpectPoint(unsigned number);
  RowPoint Here() const;
  void AddPoint();
  void Jump(unsigned number);

  HuffmanTable dc_[NUM_HUFF_TBLS], ac_[NUM_HUFF_TBLS];
  Mcu mcu_;
  j_decompress_ptr info_ = nullptr;
  GiveUp give_up_ = nullptr;
  const uint8_t* codes_ = nullptr;  // the coded data
  unsigned restart_interval_ = 0, restart_in_ = 0, restart_ = 0;
  unsigned columns_ = 0, total_rows_ = 0;  // of MCUs
  unsigned begin_ = 0, end_ = 0;           // wanted columns
  // The MCU that libjpeg asks for next, and its column. What is not wanted is read only when
  // something behind it is, so `read_`, the number of MCUs that were read, may be less.
  unsigned next_ = 0, column_ = 0, read_ = 0;
  RowPoints* rows_ = nullptr;
  unsigned point_ = 0, point_mcu_ = 0;  // the next point, and the MCU behind it
  uint64_t jumps_ = 0, bytes_jumped_ = 0;
};

}  // namespace pretexture
