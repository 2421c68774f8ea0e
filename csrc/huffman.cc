#include "huffman.h"

#include <algorithm>
#include <climits>
#include <cstring>

#if defined(__x86_64__)
#define PRETEXTURE_BMI2 __attribute__((target("bmi2")))
#endif
#define PRETEXTURE_INLINE inline __attribute__((always_inline))

namespace pretexture {
namespace {

// The only thing used of libjpeg's internals: in every release of libjpeg-turbo, an entropy decoder
// begins with these two function pointers.
struct EntropyDecoder {
  void (*start_pass)(j_decompress_ptr);
  HuffmanDecoder::DecodeMcu decode_mcu;
};

// The place of each coefficient in the order in which they are coded. As in libjpeg, coefficients
// that broken data place after the last one go to the last place.
constexpr uint8_t kZigzag[DCTSIZE2 + 16] = {
    0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,  12, 19, 26, 33,
    40, 48, 41, 34, 27, 20, 13, 6,  7,  14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36,
    29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54,
    47, 55, 62, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63};

constexpr int kRefilled = 56;  // bits available after a Refill, at least
constexpr int kLongest = 31;   // bits of a symbol, at most: 16 of its code, 15 of its value

// Whether there is a marker after the codes, other than a restart marker, which may be among them.
// libjpeg reads ahead up to a marker, and if the data end before one, it fails even if it needs no
// more data. Any number of 0xff bytes may precede a marker; if a zero follows, libjpeg reads them
// as one byte of data.
bool EndInMarker(const uint8_t* codes, const uint8_t* last) {
  for (; last - codes >= 2; --last) {
    const uint8_t kind = last[-1];
    if (last[-2] == 0xff && kind != 0 && kind != 0xff && (kind & 0xf8) != JPEG_RST0) return true;
  }
  return false;
}

// Loads byte by byte, up to a marker, and then appends zeros.
HuffmanDecoder::Bits RefillSlowly(HuffmanDecoder::Bits b) {
  while (b.count <= 56) {
    uint64_t byte = 0;
    if (b.next < b.last && *b.next != 0xff) {
      byte = *b.next++;
    } else if (b.last - b.next >= 2 && b.next[1] == 0) {
      byte = 0xff;
      b.next += 2;
    } else {
      b.added += 8;
    }
    b.bits |= byte << (56 - b.count);
    b.count += 8;
  }
  return b;
}

// Loads bits until there are at least kRefilled. Doing this always is faster than checking whether
// it is necessary, because the processor cannot predict that branch.
PRETEXTURE_INLINE void Refill(HuffmanDecoder::Bits& b) {
  if (b.last - b.next >= 8) {
    uint64_t bytes;
    std::memcpy(&bytes, b.next, 8);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    bytes = __builtin_bswap64(bytes);
#endif
    // No byte is 0xff, because no byte of the inverse is zero.
    if (((~bytes - 0x0101010101010101u) & bytes & 0x8080808080808080u) == 0) {
      b.bits |= bytes >> b.count;
      b.next += (63 - b.count) >> 3;
      b.count |= 56;
      return;
    }
  }
  b = RefillSlowly(b);  // by value, so that `b` can stay in registers
}

PRETEXTURE_INLINE void Skip(HuffmanDecoder::Bits& b, int count) {
  b.bits <<= count;
  b.count -= count;
}

// The value of a symbol whose code is at the start of `bits` (T.81, F.2.2.1, EXTEND).
PRETEXTURE_INLINE int Value(uint64_t bits, HuffmanTable::Symbol symbol) {
  const uint64_t at = bits << symbol.length;
  const int value = static_cast<int>(at >> 1 >> (63 - symbol.size));
  const int negative = ~static_cast<int>(static_cast<int64_t>(at) >> 63);
  return value - (negative & ((1 << symbol.size) - 1));
}

// kMore: at least kLongest bits of the last Refill are left. kRefill: perhaps fewer are left.
enum class After { kMore, kRefill, kEnd, kUnsound };

// Reads one symbol, or those of a Step. `k` is the place of the last coefficient so far.
template <bool kStore>
PRETEXTURE_INLINE After Advance(HuffmanDecoder::Bits& b, const HuffmanTable& table, JCOEF* out,
                                int& k) {
  const HuffmanTable::Step step = table.Next(b.bits);
  const int last = k + step.advance();
  // A block that has its last coefficient ends without a code.
  const bool whole = last < DCTSIZE2;
  const bool ends =
      step.advance() >= HuffmanTable::kEnd && last < HuffmanTable::kEnd + DCTSIZE2 - 1;
  if (__builtin_expect(whole || ends, 1)) {
    if (kStore) {
      // In this order, because if there is no second value, it is 0 and its place is arbitrary.
      out[kZigzag[k + step.second_place()]] = step.second();
      out[kZigzag[k + step.first_place()]] = step.first();
    }
    Skip(b, step.total());
    k = last;
    return whole ? After::kMore : After::kEnd;
  }
  const HuffmanTable::Symbol symbol = table.Find(b.bits);
  if (symbol.total == 0) return After::kUnsound;
  const int value = Value(b.bits, symbol);
  Skip(b, symbol.total);
  if (symbol.size == 0 && symbol.run != 15) return After::kEnd;
  k += symbol.run + 1;
  if (kStore && symbol.size != 0) out[kZigzag[k]] = static_cast<JCOEF>(value);
  return symbol.total <= kRefilled - kLongest ? After::kMore : After::kRefill;
}

// Decodes an MCU. Returns false if the data are not sound. Without kStore, nothing is stored.
template <bool kStore>
PRETEXTURE_INLINE bool DecodeMcu(HuffmanDecoder::Mcu& mcu, JBLOCKROW* blocks) {
  HuffmanDecoder::Bits b = mcu.bits;
  for (int i = 0; i < mcu.blocks; ++i) {
    const HuffmanDecoder::Block block = mcu.block[i];
    JCOEF* const out = kStore ? *blocks[i] : nullptr;

    Refill(b);
    const HuffmanTable::Symbol symbol = block.dc->Find(b.bits);
    if (symbol.total == 0) return false;
    int& predicted = mcu.predicted[block.component];
    predicted = static_cast<int>(static_cast<unsigned>(predicted) +
                                 static_cast<unsigned>(Value(b.bits, symbol)));
    if (kStore) out[0] = static_cast<JCOEF>(predicted);
    Skip(b, symbol.total);

    for (int k = 0; k < DCTSIZE2 - 1;) {
      Refill(b);
      After after = Advance<kStore>(b, *block.ac, out, k);
      // There are enough bits for a second symbol, except after one of more than 25 bits, which is
      // rare.
      if (after == After::kMore && k < DCTSIZE2 - 1) {
        after = Advance<kStore>(b, *block.ac, out, k);
      }
      if (after == After::kEnd) break;
      if (after == After::kUnsound) return false;
    }
  }
  mcu.bits = b;
  return b.added <= b.count;  // no appended zero was read as data
}

bool StorePlain(HuffmanDecoder::Mcu& mcu, JBLOCKROW* blocks) {
  return DecodeMcu<true>(mcu, blocks);
}
bool StepPlain(HuffmanDecoder::Mcu& mcu, JBLOCKROW*) { return DecodeMcu<false>(mcu, nullptr); }

#if defined(PRETEXTURE_BMI2)
// BMI2 shifts by a variable amount in one instruction.
PRETEXTURE_BMI2 bool StoreBmi2(HuffmanDecoder::Mcu& mcu, JBLOCKROW* blocks) {
  return DecodeMcu<true>(mcu, blocks);
}
PRETEXTURE_BMI2 bool StepBmi2(HuffmanDecoder::Mcu& mcu, JBLOCKROW*) {
  return DecodeMcu<false>(mcu, nullptr);
}
#endif

struct Functions {
  bool (*store)(HuffmanDecoder::Mcu&, JBLOCKROW*) = StorePlain;
  bool (*step)(HuffmanDecoder::Mcu&, JBLOCKROW*) = StepPlain;

  Functions() {
#if defined(PRETEXTURE_BMI2)
    if (__builtin_cpu_supports("bmi2")) {
      store = StoreBmi2;
      step = StepBmi2;
    }
#endif
  }
};
const Functions kFunctions;

}  // namespace

HuffmanTable::Symbol HuffmanTable::Describe(int length, int symbol) {
  const int size = symbol & 15;
  return {static_cast<uint8_t>(length + size), static_cast<uint8_t>(length),
          static_cast<uint8_t>(size), static_cast<uint8_t>(symbol >> 4)};
}

void HuffmanTable::Build(const JHUFF_TBL& table, bool ac) {
  if (built_ && std::memcmp(bits_, table.bits, sizeof(bits_)) == 0 &&
      std::memcmp(symbols_, table.huffval, sizeof(symbols_)) == 0) {
    return;
  }
  built_ = true;
  std::memcpy(bits_, table.bits, sizeof(bits_));
  std::memcpy(symbols_, table.huffval, sizeof(symbols_));
  std::memset(short_, 0, sizeof(short_));
  // libjpeg has checked that the codes fit in their lengths and that there are at most 256.
  uint32_t code = 0;
  int number = 0;
  for (int length = 1; length <= 16; ++length, code <<= 1) {
    first_[length] = number - static_cast<int>(code);
    for (int i = 0; i < bits_[length]; ++i, ++code, ++number) {
      if (length > kLook) continue;
      const Symbol symbol = Describe(length, symbols_[number]);
      std::fill_n(short_ + (code << (kLook - length)), 1 << (kLook - length), symbol);
    }
    end_[length] = code << (16 - length);
  }
  if (ac) BuildSteps();
}

// Many images come with tables of their own, so this must be fast: most of it runs without branches
// that depend on the codes.
void HuffmanTable::BuildSteps() {
  constexpr int kSize = 1 << kLook;
  const auto make = [](int second, int place, int advance, int total) {
    return static_cast<uint64_t>(static_cast<uint16_t>(second)) << 16 |
           static_cast<uint64_t>(place) << 40 | static_cast<uint64_t>(advance) << 48 |
           static_cast<uint64_t>(total) << 56;
  };
  // For the next bits, one coefficient as the second one of a step: alone, and with the end of the
  // block if that follows. 0 for anything else.
  uint64_t alone[kSize] = {}, ended[kSize] = {};
  const Symbol* const end = std::find_if(
      short_, short_ + kSize, [](Symbol s) { return s.total != 0 && s.size == 0 && s.run != 15; });
  const int end_code = static_cast<int>(end - short_);
  const int end_length = end == short_ + kSize ? 2 * kLook : end->total;
  for (int i = 0; i < kSize;) {
    const Symbol symbol = short_[i];
    if (symbol.total == 0) {
      ++i;
    } else if (symbol.size == 0 || symbol.total > kLook) {
      const int count = 1 << (kLook - symbol.length);
      if (symbol.size == 0 && symbol.run != 15) {
        std::fill_n(ended + i, count, make(0, 0, kEnd, symbol.total));
      }
      i += count;
    } else {
      const int count = 1 << (kLook - symbol.total), k = symbol.run + 1;
      const int value = Value(static_cast<uint64_t>(i) << (64 - kLook), symbol);
      const uint64_t step = make(value, k, k, symbol.total);
      std::fill_n(alone + i, count, step);
      std::fill_n(ended + i, count, step);
      if (symbol.total + end_length <= kLook) {
        std::fill_n(ended + i + (end_code >> symbol.total),
                    1 << (kLook - symbol.total - end_length), step + make(0, 0, kEnd, end_length));
      }
      i += count;
    }
  }
  // The same for the next `left` bits, at 2^left and after.
  uint64_t after[kSize];
  for (int left = 0; left < kLook; ++left) {
    for (int i = 0; i < 1 << left; ++i) {
      const uint64_t one = alone[i << (kLook - left)], two = ended[i << (kLook - left)];
      const uint64_t fitting = static_cast<int>(one >> 56) <= left ? one : 0;
      after[(1 << left) + i] = static_cast<int>(two >> 56) <= left ? two : fitting;
    }
  }
  for (int i = 0; i < kSize; ++i) {
    const uint64_t step = alone[i];
    const int left = kLook - static_cast<int>(step >> 56);
    const uint64_t first = (step >> 16 & 0xffff) | (step >> 40 & 0xff) << 32 | (step >> 40 << 40);
    const uint64_t next = after[(1 << left & (kSize - 1)) + (i & ((1 << left) - 1))];
    // The end of the block comes at once; the place given is one that holds no coefficient yet.
    const uint64_t other = ended[i] ? ended[i] | uint64_t{0x0101} << 32 : make(0, 0, kOther, 0);
    steps_[i].fields = step ? first + next : other;
  }
}

HuffmanTable::Symbol HuffmanTable::FindLong(uint64_t bits) const {
  const uint32_t next = static_cast<uint32_t>(bits >> 48);
  for (int length = kLook + 1; length <= 16; ++length) {
    if (next < end_[length]) {
      return Describe(length, symbols_[first_[length] + static_cast<int>(next >> (16 - length))]);
    }
  }
  return {};
}

bool HuffmanDecoder::Handles(j_decompress_ptr info) {
  return !info->progressive_mode && !info->arith_code && !jpeg_has_multiple_scans(info) &&
         info->data_precision == 8;
}

bool HuffmanDecoder::Attach(j_decompress_ptr info, DecodeMcu decode, GiveUp give_up,
                            RowPoints* rows) {
  const uint8_t* const codes = info->src->next_input_byte;
  const size_t size = info->src->bytes_in_buffer;
  // jpegli, which can replace libjpeg-turbo, has no entropy decoder of this kind.
  if (info->entropy == nullptr || !Handles(info) || info->Ss != 0 || info->Se != DCTSIZE2 - 1 ||
      info->Ah != 0 || info->Al != 0 || !EndInMarker(codes, codes + size)) {
    return false;
  }
  mcu_.blocks = info->blocks_in_MCU;
  for (int i = 0; i < mcu_.blocks; ++i) {
    const int component = info->MCU_membership[i];
    const jpeg_component_info* const c = info->cur_comp_info[component];
    const JHUFF_TBL* const dc = info->dc_huff_tbl_ptrs[c->dc_tbl_no];
    const JHUFF_TBL* const ac = info->ac_huff_tbl_ptrs[c->ac_tbl_no];
    if (dc == nullptr || ac == nullptr) return false;
    dc_[c->dc_tbl_no].Build(*dc, false);
    ac_[c->ac_tbl_no].Build(*ac, true);
    mcu_.block[i] = {&dc_[c->dc_tbl_no], &ac_[c->ac_tbl_no], component};
  }
  mcu_.bits = {codes, codes + size, 0, 0, 0};
  std::memset(mcu_.predicted, 0, sizeof(mcu_.predicted));
  info_ = info;
  give_up_ = give_up;
  codes_ = codes;
  restart_interval_ = restart_in_ = info->restart_interval;
  restart_ = 0;
  columns_ = info->MCUs_per_row;
  total_rows_ = info->MCU_rows_in_scan;
  next_ = column_ = read_ = 0;
  Want(0, columns_);
  rows_ = rows;
  if (rows_ != nullptr && !rows_->Fit(total_rows_, columns_, info->comps_in_scan)) rows_ = nullptr;
  ExpectPoint(1);
  reinterpret_cast<EntropyDecoder*>(info->entropy)->decode_mcu = decode;
  return true;
}

// Reads the next MCU; stores it in `blocks` if they are not null.
PRETEXTURE_INLINE void HuffmanDecoder::ReadMcu(JBLOCKROW* blocks) {
  if (restart_interval_ != 0) {
    if (restart_in_ == 0) Restart();
    --restart_in_;
  }
  const bool sound =
      blocks != nullptr ? kFunctions.store(mcu_, blocks) : kFunctions.step(mcu_, nullptr);
  if (!sound) give_up_(info_);
  if (++read_ == point_mcu_) AddPoint();
}

void HuffmanDecoder::Decode(JBLOCKROW* blocks) {
  if (blocks != nullptr && column_ >= begin_ && column_ < end_) {
    if (read_ != next_) ReadUpTo(next_);
    ReadMcu(blocks);
  }
  ++next_;
  if (++column_ < columns_) return;
  column_ = 0;
  // Every row is read to its end, as libjpeg does it, unless it is known to be sound.
  if (read_ != next_ && (rows_ == nullptr || !rows_->Reach(next_))) ReadUpTo(next_);
}

// Reads the MCUs before number `mcu`, or jumps over some of them.
void HuffmanDecoder::ReadUpTo(unsigned mcu) {
  if (rows_ != nullptr && mcu >= point_mcu_) {
    const auto known = static_cast<unsigned>(rows_->points.size());
    const unsigned number = std::min(rows_->Before(mcu), known);
    if (number >= point_) Jump(number);
  }
  while (read_ < mcu) ReadMcu(nullptr);
}

// Makes `number` the next point that comes.
void HuffmanDecoder::ExpectPoint(unsigned number) {
  point_ = number;
  point_mcu_ = rows_ == nullptr ? UINT_MAX : rows_->Mcu(number);
}

// The state before the next MCU.
RowPoint HuffmanDecoder::Here() const {
  const Bits& b = mcu_.bits;
  const int left = b.count - b.added;  // bits that are loaded and not used
  const uint8_t* byte = b.next;
  const int bytes = (left + 7) / 8;
  for (int i = 0; i < bytes; ++i) {
    // 0xff is followed by a zero that does not count.
    byte -= byte - codes_ >= 2 && byte[-1] == 0 && byte[-2] == 0xff ? 2 : 1;
  }
  RowPoint point;
  point.place = static_cast<uint64_t>(byte - codes_) * 8 + static_cast<uint64_t>(8 * bytes - left);
  for (size_t i = 0; i < point.predicted.size(); ++i) {
    point.predicted[i] = static_cast<int16_t>(mcu_.predicted[i]);
  }
  return point;
}

// Keeps the point that is here, or compares it with the one that is known.
void HuffmanDecoder::AddPoint() {
  const RowPoint point = Here();
  bool fits = true;
  for (size_t i = 0; i < point.predicted.size(); ++i) {
    fits = fits && point.predicted[i] == mcu_.predicted[i];  // else the data are broken
  }
  if (fits) rows_->Add(point_, point);
  ExpectPoint(point_ + 1);
}

// Continues at a known point.
void HuffmanDecoder::Jump(unsigned number) {
  const RowPoint& point = rows_->points[number - 1];
  Bits& b = mcu_.bits;
  const uint64_t byte = point.place / 8;
  if (byte >= static_cast<uint64_t>(b.last - codes_)) return;
  ++jumps_;
  const uint64_t before = Here().place / 8;
  if (byte > before) bytes_jumped_ += byte - before;
  read_ = rows_->Mcu(number);
  ExpectPoint(number + 1);
  b = {codes_ + byte, b.last, 0, 0, 0};
  // Refill needs room for at least one bit, so nothing is loaded if the byte begins here.
  if (const int bit = static_cast<int>(point.place % 8); bit != 0) {
    b = RefillSlowly(b);
    Skip(b, bit);
  }
  for (size_t i = 0; i < point.predicted.size(); ++i) mcu_.predicted[i] = point.predicted[i];
  if (restart_interval_ == 0) return;
  // A restart that is due before the next MCU has not happened yet.
  const unsigned restarts = (read_ - 1) / restart_interval_;
  restart_ = restarts % 8;
  restart_in_ = (restarts + 1) * restart_interval_ - read_;
}

// The marker must be next, after less than a byte of padding.
void HuffmanDecoder::Restart() {
  Bits& b = mcu_.bits;
  b = RefillSlowly(b);
  const bool sound = b.added > 0 && b.count - b.added < 8 && b.last - b.next >= 2 &&
                     b.next[0] == 0xff && b.next[1] == JPEG_RST0 + restart_;
  if (!sound) give_up_(info_);
  b = {b.next + 2, b.last, 0, 0, 0};
  std::memset(mcu_.predicted, 0, sizeof(mcu_.predicted));
  restart_ = (restart_ + 1) % 8;
  restart_in_ = restart_interval_;
}

}  // namespace pretexture
