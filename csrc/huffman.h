// Huffman decoding of sequential JPEGs (ITU-T T.81, annex F.2.2), in the place of libjpeg's.
//
// More than half of the time of decoding a JPEG goes into its Huffman codes. libjpeg reads a code
// and then the bits of its value, each time asking whether there are enough. Here a table entry
// says how long both are together, so that the next code's place is known before this one's value
// is, and bits come in eight bytes at a time. Blocks that are not wanted are only stepped over.
//
// It reads what a sound stream holds. At anything else it gives up, and libjpeg is to decode the
// image from the start, with its own warnings and errors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>

// jpeglib.h needs the names that cstdio declares.
#include <jpeglib.h>

namespace pretexture {

// A Huffman table, by the next bits of the stream.
class HuffmanTable {
 public:
  static constexpr int kLook = 10;  // bits; with more the tables outgrow the nearest cache

  struct Symbol {
    uint8_t total;   // bits of the code and of its value; 0 if there is no such code
    uint8_t length;  // bits of the code
    uint8_t size;    // bits of the value
    uint8_t run;     // of zeros before the value
  };

  // The AC symbols that lie whole in the next kLook bits: at most two coefficients, and then
  // perhaps the end of the block.
  struct Step {
    uint64_t fields;  // so that steps add

    // 0 where there is none.
    int16_t first() const { return static_cast<int16_t>(fields); }
    int16_t second() const { return static_cast<int16_t>(fields >> 16); }
    // Where those stand, counted from the last coefficient before.
    int first_place() const { return static_cast<uint8_t>(fields >> 32); }
    int second_place() const { return static_cast<uint8_t>(fields >> 40); }
    // To the last of them; kEnd more if the block ends, kOther if this says nothing.
    int advance() const { return static_cast<uint8_t>(fields >> 48); }
    int total() const { return static_cast<int>(fields >> 56); }  // bits
  };
  static constexpr int kEnd = 64, kOther = 128;

  // Does nothing if it stands already.
  void Build(const JHUFF_TBL& table, bool ac);

  // For the next bits of the stream, the first one highest.
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
  // By length: the codes below `end_`, left-aligned in 16 bits; the symbol of a code is at
  // `first_` + code.
  uint32_t end_[17];
  int first_[17];
  bool built_ = false;  // from these:
  uint8_t bits_[17];
  uint8_t symbols_[256];
};

// Decodes the MCUs of one image at a time.
class HuffmanDecoder {
 public:
  using GiveUp = void (*)(j_decompress_ptr);
  using DecodeMcu = boolean (*)(j_decompress_ptr, JBLOCKROW*);

  // Puts `decode`, which is to call Decode, in the place of libjpeg's function; after
  // jpeg_start_decompress. False, and nothing done, where the image is of another kind.
  //
  // `give_up` is called where the stream is not sound, and must not return.
  bool Attach(j_decompress_ptr info, DecodeMcu decode, GiveUp give_up);

  // Columns of MCUs outside [begin, end) are not wanted; by default all are.
  void Want(unsigned begin, unsigned end) {
    begin_ = begin;
    end_ = end;
  }

  // The next MCU; `blocks` are zero. Null for one that is not wanted.
  void Decode(JBLOCKROW* blocks);

  // What follows is for the functions that decode.
  struct Block {
    const HuffmanTable *dc, *ac;
    int component;
  };
  // Where the stream is.
  struct Bits {
    const uint8_t* next;
    const uint8_t* last;  // behind the data
    uint64_t bits;        // the next ones, from the highest on
    int count;            // of `bits`, with those added
    int added;            // zeros behind the last real bit before a marker
  };
  struct Mcu {
    Bits bits;
    Block block[D_MAX_BLOCKS_IN_MCU];
    int blocks;
    int predicted[MAX_COMPS_IN_SCAN];
  };

 private:
  void Restart();

  HuffmanTable dc_[NUM_HUFF_TBLS], ac_[NUM_HUFF_TBLS];
  Mcu mcu_;
  j_decompress_ptr info_ = nullptr;
  GiveUp give_up_ = nullptr;
  unsigned restart_interval_ = 0, restart_in_ = 0, restart_ = 0;
  unsigned column_ = 0, columns_ = 0, begin_ = 0, end_ = 0;
};

}  // namespace pretexture
