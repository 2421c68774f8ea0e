// The only file that knows Python: the module pretexture.loader._core, which loader/_core.pyi
// documents.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "batcher.h"
#include "crc32c.h"
#include "decoder.h"
#include "error.h"
#include "example.h"
#include "kernels.h"
#include "order.h"
#include "philox.h"
#include "render.h"
#include "tar.h"
#include "tfrecord.h"

namespace py = pybind11;

namespace pretexture {
namespace {

// Gives up the GIL while it exists.
//
// Before version 3.14, Python ends a thread that asks for the GIL while the interpreter ends, by an
// exception that runs through all of the thread's functions. This library has functions that no
// exception may leave, so the thread waits here for the end of the process.
class WithoutGil {
 public:
  WithoutGil() : state_(PyEval_SaveThread()) {}
  ~WithoutGil() {
    try {
      PyEval_RestoreThread(state_);
    } catch (...) {
      for (;;) pause();
    }
  }
  WithoutGil(const WithoutGil&) = delete;
  WithoutGil& operator=(const WithoutGil&) = delete;

 private:
  PyThreadState* const state_;
};

Span AsSpan(const py::buffer_info& info) {
  if (info.ndim > 1 || (info.ndim == 1 && info.strides[0] != info.itemsize)) {
    throw py::value_error("expected contiguous bytes");
  }
  return {static_cast<const uint8_t*>(info.ptr), static_cast<size_t>(info.size * info.itemsize)};
}

py::bytes ToBytes(Span span) {
  return py::bytes(reinterpret_cast<const char*>(span.data), span.size);
}

// Hands a vector over to NumPy without copying it.
template <typename T>
py::array_t<T> ToArray(std::vector<T> values, const std::vector<py::ssize_t>& shape) {
  auto* owner = new std::vector<T>(std::move(values));
  py::capsule base(owner, [](void* p) { delete static_cast<std::vector<T>*>(p); });
  return py::array_t<T>(shape, owner->data(), base);
}

template <typename T>
py::array_t<T> ToArray(std::vector<T> values) {
  const auto size = static_cast<py::ssize_t>(values.size());
  return ToArray(std::move(values), {size});
}

// The names that Python gives the values of an enum.
template <typename T>
struct Names;
template <>
struct Names<Method> {
  static constexpr std::pair<const char*, Method> kAll[] = {{"bilinear", Method::kBilinear},
                                                            {"nearest", Method::kNearest},
                                                            {"bicubic", Method::kBicubic},
                                                            {"area", Method::kArea}};
};
template <>
struct Names<Coords> {
  static constexpr std::pair<const char*, Coords> kAll[] = {{"half_pixel", Coords::kHalfPixel},
                                                            {"tf1", Coords::kTf1}};
};
template <>
struct Names<DType> {
  static constexpr std::pair<const char*, DType> kAll[] = {
      {"float32", DType::kFloat32}, {"float16", DType::kFloat16}, {"uint8", DType::kUint8}};
};
template <>
struct Names<Layout> {
  static constexpr std::pair<const char*, Layout> kAll[] = {{"example", Layout::kExample},
                                                            {"tar", Layout::kTar},
                                                            {"file", Layout::kFile},
                                                            {"function", Layout::kFunction}};
};
template <>
struct Names<Shuffle> {
  static constexpr std::pair<const char*, Shuffle> kAll[] = {
      {"none", Shuffle::kNone}, {"global", Shuffle::kGlobal}, {"window", Shuffle::kWindow}};
};

// Converts a Python value to the type of `out`.
template <typename T>
void Read(const py::handle& value, T* out) {
  if constexpr (std::is_enum_v<T>) {
    const auto name = value.cast<std::string>();
    for (const auto& [known, number] : Names<T>::kAll) {
      if (name == known) {
        *out = number;
        return;
      }
    }
    throw py::value_error("the core does not know '" + name + "'");
  } else {
    *out = value.cast<T>();
  }
}

// Reads an operation of type T from its dataclass in loader/language/ops.py, whose values Python
// has checked.
template <typename T>
Op ReadFields(const py::handle& from) {
  T op{};
  const auto read = [&](const auto&... fields) {
    if (py::len(py::module_::import("dataclasses").attr("fields")(from)) != sizeof...(fields)) {
      throw py::value_error("the core knows other fields of this operation");
    }
    (Read(from.attr(fields.first), &(op.*fields.second)), ...);
  };
  std::apply(read, T::Fields());
  return op;
}

// Reads an operation whose type is one of the variant's, by the name of its dataclass.
template <typename... T>
Op ReadOp(const py::handle& from, const std::variant<T...>*) {
  const auto name = from.attr("__class__").attr("__name__").cast<std::string>();
  std::optional<Op> found;
  ((name == T::kName ? void(found = ReadFields<T>(from)) : void()), ...);
  if (!found) throw py::value_error("the core does not know the operation " + name);
  return *std::move(found);
}

std::vector<Op> ReadOps(const py::iterable& list) {
  std::vector<Op> ops;
  for (const py::handle& op : list) ops.push_back(ReadOp(op, static_cast<const Op*>(nullptr)));
  return ops;
}

int Product(const std::vector<int>& dims) {
  int product = 1;
  for (const int d : dims) {
    if (d < 1 || __builtin_mul_overflow(product, d, &product)) {
      throw py::value_error("a record has too many views");
    }
  }
  return product;
}

// The shape of the array that a branch's views become.
struct ImageShape {
  bool channels_first;
  std::vector<int> views;  // dimensions
  int height, width;

  std::vector<py::ssize_t> operator()(std::vector<py::ssize_t> dims) const {
    dims.insert(dims.end(), views.begin(), views.end());
    if (channels_first) dims.push_back(3);
    dims.push_back(height);
    dims.push_back(width);
    if (!channels_first) dims.push_back(3);
    return dims;
  }
};

// The branches of a plan, and the type and shapes of the arrays that their views and labels become.
struct Arrays {
  std::string dtype;
  std::vector<Branch> branches;
  std::vector<ImageShape> images;  // by branch
  std::vector<int> labels;         // dimensions

  Arrays(const py::object& plan, const std::string& dtype_name, const std::string& layout)
      : dtype(dtype_name), labels(plan.attr("label_dims").cast<std::vector<int>>()) {
    for (const py::handle& from : plan.attr("branches")) {
      ImageShape shape{layout == "NCHW", from.attr("views").cast<std::vector<int>>(),
                       from.attr("height").cast<int>(), from.attr("width").cast<int>()};
      Format format{{}, shape.channels_first, Product(shape.views), shape.height, shape.width};
      Read(py::str(dtype), &format.dtype);
      branches.push_back({Plan(ReadOps(from.attr("ops"))), format});
      images.push_back(std::move(shape));
    }
  }

  // The array of each branch, as `make` makes it from the number of the branch; alone if there is
  // only one branch.
  template <typename Make>
  py::object Images(Make make) const {
    if (images.size() == 1) return make(0);
    py::tuple all(images.size());
    for (size_t b = 0; b < images.size(); ++b) all[b] = make(b);
    return all;
  }

  std::vector<py::ssize_t> Label(std::vector<py::ssize_t> dims) const {
    dims.insert(dims.end(), labels.begin(), labels.end());
    return dims;
  }
};

// A path as Python represents it, with surrogates for bytes that are not UTF-8.
py::str PathText(const std::string& path) {
  PyObject* const text =
      PyUnicode_DecodeFSDefaultAndSize(path.data(), static_cast<py::ssize_t>(path.size()));
  if (text == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::str>(text);
}

py::tuple Scan(const std::vector<std::string>& paths, int threads) {
  RecordIndex index;
  bool interrupted = false;
  {
    const WithoutGil without_gil;
    index = ScanShards(paths, threads, [&] {
      const py::gil_scoped_acquire acquire;
      interrupted = interrupted || PyErr_CheckSignals() != 0;
      return !interrupted;
    });
  }
  if (interrupted) throw py::error_already_set();
  py::list faults;
  for (const ShardFault& fault : index.faults) {
    faults.append(py::make_tuple(PathText(paths[fault.shard]), fault.offset, fault.reason,
                                 fault.unavailable));
  }
  return py::make_tuple(ToArray(std::move(index.offsets)), ToArray(std::move(index.lengths)),
                        ToArray(std::move(index.counts)), faults);
}

// What ScanTars finds, an archive at a time.
py::list ScanTarFiles(const std::vector<std::string>& paths, int threads) {
  std::vector<TarIndex> archives;
  bool interrupted = false;
  {
    const WithoutGil without_gil;
    archives = ScanTars(paths, threads, [&] {
      const py::gil_scoped_acquire acquire;
      interrupted = interrupted || PyErr_CheckSignals() != 0;
      return !interrupted;
    });
  }
  if (interrupted) throw py::error_already_set();
  py::list list;
  for (TarIndex& archive : archives) {
    py::object fault = py::none();
    if (!archive.fault.empty()) {
      fault = py::make_tuple(archive.fault_offset, PathText(archive.fault), archive.unavailable);
    }
    list.append(py::make_tuple(py::bytes(archive.names), std::move(archive.offsets),
                               std::move(archive.sizes), py::bytes(archive.text),
                               std::move(archive.text_begin), fault));
  }
  return list;
}

// Like TensorFlow's operation of that name, it decodes PNGs, too.
py::array_t<uint8_t> DecodeJpeg(const py::buffer& data, const py::object& region, bool plain,
                                uint64_t max_pixels, bool fast_dct) {
  const py::buffer_info info = data.request();
  ImageDecoder decoder(DecodeOptions{max_pixels, nullptr, fast_dct});
  const ImageSize size = decoder.Open(AsSpan(info));
  Rect rect{0, 0, size.width, size.height};
  if (!region.is_none()) {
    const auto [top, left, height, width] = region.cast<std::tuple<int, int, int, int>>();
    if (top < 0 || left < 0 || height < 1 || width < 1 || height > size.height - top ||
        width > size.width - left) {
      throw py::value_error("the region is not within the image");
    }
    rect = {left, top, left + width, top + height};
  }
  Region decoded;
  {
    const WithoutGil without_gil;
    decoded = decoder.Decode(rect, nullptr, plain);
  }
  py::array_t<uint8_t> result({rect.height(), rect.width(), 3});
  for (int y = 0; y < rect.height(); ++y) {
    std::copy_n(decoded.Row(rect.y0 + y), static_cast<size_t>(rect.width()) * 3,
                result.mutable_data(y, 0, 0));
  }
  return result;
}

// Renders one record at a time, for the tests that compare the core with the reference.
class PyRenderer {
 public:
  PyRenderer(const py::object& plan, uint64_t seed, const std::string& dtype,
             const std::string& layout, const std::string& kernels)
      : arrays_(plan, dtype, layout),
        seed_(seed),
        renderer_(arrays_.branches, kernels.empty() ? BestKernels() : KernelsByName(kernels),
                  false) {}

  py::tuple Views(const py::buffer& encoded, int32_t class_label, uint32_t record, uint32_t epoch) {
    const py::buffer_info info = encoded.request();
    std::vector<uint8_t*> out;
    const py::object images = arrays_.Images([&](size_t b) {
      py::array image(py::dtype(arrays_.dtype), arrays_.images[b]({}));
      out.push_back(static_cast<uint8_t*>(image.mutable_data()));
      return image;
    });
    std::vector<int32_t> labels;
    renderer_.Render(AsSpan(info), {seed_, epoch, record}, out.data(), &labels);
    if (labels.empty()) labels.push_back(class_label);
    return py::make_tuple(images, ToArray(std::move(labels), arrays_.Label({})));
  }

 private:
  Arrays arrays_;
  uint64_t seed_;
  Renderer renderer_;
};

// A Python function as a ShardOpener. An exception that it raises becomes Unavailable.
ShardOpener Opener(py::function function) {
  return [function = std::move(function)](size_t shard) {
    const py::gil_scoped_acquire acquire;
    try {
      return function(shard).cast<int>();
    } catch (py::error_already_set& error) {
      // Not what(), which adds the type and a traceback.
      throw Unavailable(py::str(error.value()).cast<std::string>());
    }
  };
}

// A Python function of a record's number as a RecordFunction; it returns (image, label, name). An
// OSError that it raises becomes Unavailable.
RecordFunction Function(py::function function) {
  return [function = std::move(function)](uint32_t number, Scratch* buffer, Record* record) {
    const py::gil_scoped_acquire acquire;
    try {
      const auto [image, label, name] =
          function(number).cast<std::tuple<py::bytes, int32_t, py::bytes>>();
      const auto bytes = static_cast<std::string_view>(image);
      uint8_t* const data = buffer->Get(bytes.size());
      std::copy(bytes.begin(), bytes.end(), data);
      record->data = record->example.image = {data, bytes.size()};
      record->label = label;
      record->name = static_cast<std::string>(name);
    } catch (py::error_already_set& error) {
      if (error.matches(PyExc_MemoryError)) throw std::bad_alloc();
      const auto reason = py::str(error.value()).cast<std::string>();
      if (error.matches(PyExc_OSError)) throw Unavailable(reason);
      throw Error(reason);
    }
  };
}

// Records, with the arrays that they refer to.
class PyRecords {
 public:
  explicit PyRecords(const py::dict& from) {
    Read(from["layout"], &records.layout);
    Read(from["paths"], &records.paths);
    Read(from["shard_begin"], &records.shard_begin);
    if (records.layout == Layout::kFunction) {
      records.function = Function(from["function"].cast<py::function>());
      return;
    }
    const uint64_t count = records.shard_begin.empty() ? 0 : records.shard_begin.back();
    records.offsets = Keep<uint64_t>(from["offsets"], count);
    records.lengths = Keep<uint32_t>(from["lengths"], count);
    if (!from["open"].is_none()) records.opener = Opener(from["open"].cast<py::function>());
    if (records.layout == Layout::kExample) {
      Read(from["verify_crc"], &records.verify_crc);
      Read(from["image_key"], &records.image_key);
      Read(from["label_key"], &records.rule.key);
      Read(from["label_offset"], &records.rule.offset);
      Read(from["label_required"], &records.rule.required);
      return;
    }
    records.labels = Keep<int32_t>(from["labels"], count);
    if (records.layout == Layout::kTar) return;
    const auto names = from["names"].cast<py::bytes>();
    const auto begin = Keep<uint64_t>(from["name_begin"], count);
    const auto text = static_cast<std::string_view>(names);
    // The last byte is a zero, so each name ends within the text.
    if (count > 0 && (text.empty() || text.back() != 0 ||
                      *std::max_element(begin, begin + count) >= text.size())) {
      throw Error("the names of the files are damaged");
    }
    records.names = text.data();
    records.name_begin = begin;
    records.modified = Keep<int64_t>(from["modified"], count);
    kept_.push_back(names);
  }

  Records records;

 private:
  // The values of an array, which this object keeps.
  template <typename T>
  const T* Keep(const py::handle& from, uint64_t count) {
    auto array = from.cast<py::array_t<T, py::array::c_style>>();
    if (array.ndim() != 1 || static_cast<uint64_t>(array.size()) != count) {
      throw Error("the index of the records is damaged");
    }
    kept_.push_back(array);
    return array.data();
  }

  std::vector<py::object> kept_;
};

// The files of a row index; none from None.
RowIndexFiles ReadRowFiles(const py::object& from) {
  RowIndexFiles files;
  if (from.is_none()) return files;
  Read(from["paths"], &files.paths);
  Read(from["folder"], &files.folder);
  return files;
}

// The numbers of images with and without points.
py::tuple IndexShardRows(const py::dict& from, const py::object& files, size_t shard, int threads,
                         uint64_t max_pixels) {
  const PyRecords records(from);
  const RowIndexFiles rows = ReadRowFiles(files);
  if (shard >= records.records.paths.size()) throw py::index_error("there is no such shard");
  RowCounts counts;
  {
    const WithoutGil without_gil;
    counts = IndexRows(rows, records.records, shard, threads, DecodeOptions{max_pixels});
  }
  return py::make_tuple(counts.with, counts.without);
}

class PyBatcher {
 public:
  PyBatcher(const py::object& plan, const py::dict& records, const py::dict& config)
      : arrays_(plan, config["dtype"].cast<std::string>(), config["layout"].cast<std::string>()),
        records_(records),
        process_(getpid()) {
    BatcherOptions o;
    o.branches = arrays_.branches;
    o.label_values = Product(arrays_.labels);
    Read(config["seed"], &o.order.seed);
    const std::vector<uint64_t>& begin = records_.records.shard_begin;
    o.order.records = begin.empty() ? 0 : static_cast<uint32_t>(begin.back());
    Read(config["shuffle"], &o.order.shuffle);
    Read(config["block"], &o.order.block);
    Read(config["blocks"], &o.order.blocks);
    Read(config["shard"], &o.share.worker);
    Read(config["shards"], &o.share.workers);
    Read(config["batch_size"], &o.share.batch_size);
    Read(config["drop_remainder"], &o.share.drop_remainder);
    std::tie(o.share.first_epoch, o.share.first_position) =
        config["begin"].cast<std::tuple<uint32_t, uint32_t>>();
    Read(config["run_ahead"], &o.run_ahead);
    Read(config["skip_errors"], &o.skip_errors);
    Read(config["threads"], &o.threads);
    Read(config["prefetch"], &o.prefetch);
    Read(config["max_pixels"], &o.max_pixels);
    Read(config["fast_dct"], &o.fast_dct);
    o.rows = ReadRowFiles(config["rows"]);
    batcher_ = std::make_unique<Batcher>(records_.records, std::move(o));
  }

  ~PyBatcher() {
    if (getpid() != process_) {
      // A forked child does not have the threads, so they cannot be joined.
      batcher_.release();
      return;
    }
    Close();
  }

  void Seek(uint32_t epoch, uint32_t batch) {
    CheckProcess();
    const WithoutGil without_gil;
    batcher_->Seek(epoch, batch);
  }

  // (image, label, index, None), or (None, None, None, fault).
  py::tuple Next() {
    CheckProcess();
    const Inside inside(this);
    std::shared_ptr<Batch> batch;
    while (!batch) {
      {
        const WithoutGil without_gil;
        batch = batcher_->Next(std::chrono::milliseconds(50));
      }
      if (!batch && PyErr_CheckSignals() != 0) throw py::error_already_set();
    }
    if (batch->fault_place != UINT32_MAX) {
      return py::make_tuple(py::none(), py::none(), py::none(), ToTuple(batch->fault));
    }
    const auto size = static_cast<py::ssize_t>(batch->size);
    auto* owner = new std::shared_ptr<uint8_t>(std::move(batch->images));
    py::capsule base(owner, [](void* p) { delete static_cast<std::shared_ptr<uint8_t>*>(p); });
    const py::object images = arrays_.Images([&](size_t b) {
      return py::array(py::dtype(arrays_.dtype), arrays_.images[b]({size}),
                       owner->get() + batcher_->ImageOffset(b), base);
    });
    return py::make_tuple(images, ToArray(std::move(batch->label), arrays_.Label({size})),
                          ToArray(std::move(batch->index)), py::none());
  }

  py::dict GetStats() const {
    CheckProcess();
    const Stats s = batcher_->GetStats();
    py::dict d;
    d["records"] = s.records;
    d["bytes"] = s.bytes;
    d["skipped"] = s.skipped;
    d["warnings"] = s.warnings;
    d["read_seconds"] = double(s.read) * 1e-9;
    d["decode_seconds"] = double(s.decode) * 1e-9;
    d["resample_seconds"] = double(s.resample) * 1e-9;
    d["color_seconds"] = double(s.color) * 1e-9;
    d["jumps"] = s.jumps;
    d["bytes_jumped"] = s.bytes_jumped;
    d["wait_seconds"] = double(s.waiting) * 1e-9;
    return d;
  }

  py::list TakeSkipped() {
    py::list list;
    if (getpid() != process_) return list;  // A thread of the parent may hold its lock.
    for (const RecordFault& fault : batcher_->TakeSkipped()) list.append(ToTuple(fault));
    return list;
  }

  std::string TakeRowFault() {
    return getpid() == process_ ? batcher_->TakeRowFault() : std::string();
  }

  void Forget(size_t shard) {
    if (getpid() == process_) batcher_->Forget(shard);
  }

  // Waits until no other thread is in Next. A thread there asks for the GIL, and once the
  // interpreter is being finalised, it would not return.
  void Close() {
    if (getpid() != process_) return;
    const WithoutGil without_gil;
    batcher_->Close();
    std::unique_lock<std::mutex> lock(inside_mutex_);
    left_.wait(lock, [&] { return inside_ == (Inside::here == this ? 1 : 0); });
  }

 private:
  // Exists while a thread is in Next.
  class Inside {
   public:
    explicit Inside(PyBatcher* batcher) : batcher_(batcher), before_(here) {
      const std::lock_guard<std::mutex> lock(batcher_->inside_mutex_);
      ++batcher_->inside_;
      here = batcher;
    }
    ~Inside() {
      const std::lock_guard<std::mutex> lock(batcher_->inside_mutex_);
      --batcher_->inside_;
      here = before_;
      batcher_->left_.notify_all();
    }
    Inside(const Inside&) = delete;
    Inside& operator=(const Inside&) = delete;

    // The batcher in whose Next this thread is. A signal handler may close it from there.
    static thread_local const PyBatcher* here;

   private:
    PyBatcher* const batcher_;
    const PyBatcher* const before_;
  };

  static py::tuple ToTuple(const RecordFault& fault) {
    return py::make_tuple(PathText(fault.path), fault.offset, fault.record, fault.reason);
  }

  void CheckProcess() const {
    if (getpid() != process_) {
      throw std::runtime_error(
          "this Loader was created before a fork and its threads are in the parent; create it in "
          "the "
          "process that uses it");
    }
  }

  Arrays arrays_;
  PyRecords records_;
  pid_t process_;
  std::unique_ptr<Batcher> batcher_;
  std::mutex inside_mutex_;
  std::condition_variable left_;
  int inside_ = 0;  // threads in Next
};

thread_local const PyBatcher* PyBatcher::Inside::here = nullptr;

}  // namespace

PYBIND11_MODULE(_core, m) {
  m.doc() = "The compiled core of pretexture.loader.";
  py::register_exception<Error>(m, "CoreError", PyExc_ValueError);
  py::register_exception<Unavailable>(m, "CoreUnavailable", PyExc_OSError);

  m.def("crc32c", [](const py::buffer& data) {
    const py::buffer_info info = data.request();
    return Crc32c(AsSpan(info));
  });
  m.def("crc32c_portable", [](const py::buffer& data) {
    const py::buffer_info info = data.request();
    return Crc32cPortable(AsSpan(info));
  });
  m.def("masked_crc32c", [](const py::buffer& data) {
    const py::buffer_info info = data.request();
    return MaskCrc(Crc32c(AsSpan(info)));
  });
  m.def("philox", [](uint64_t key, const std::array<uint32_t, 4>& counter) {
    const Words w = Philox(key, counter);
    return py::make_tuple(w[0], w[1], w[2], w[3]);
  });
  m.def("record_at", [](uint64_t seed, uint32_t epoch, uint32_t records, const std::string& shuffle,
                        uint32_t block, uint32_t blocks, uint32_t position) {
    Order order;
    order.seed = seed;
    order.records = records;
    Read(py::str(shuffle), &order.shuffle);
    order.block = block;
    order.blocks = blocks;
    if (position >= records) throw py::index_error("the position is beyond the epoch");
    return order.RecordAt(epoch, position);
  });
  m.def("index_rows", &IndexShardRows, py::arg("records"), py::arg("files"), py::arg("shard"),
        py::arg("threads"), py::arg("max_pixels") = DecodeOptions().max_pixels);
  m.def("close_oldest_file", &ShardFiles::CloseOldest);
  m.def("scan_tars", &ScanTarFiles, py::arg("paths"), py::arg("threads"));
  m.def("scan_shards", &Scan, py::arg("paths"), py::arg("threads"));
  m.def(
      "read_record",
      [](const std::string& path, uint64_t offset, uint32_t length, bool verify_crc) {
        Scratch buffer;
        Span data;
        {
          const WithoutGil without_gil;
          data = ReadRecord(File(path), offset, length, verify_crc, &buffer);
        }
        return ToBytes(data);
      },
      py::arg("path"), py::arg("offset"), py::arg("length"), py::arg("verify_crc"));
  m.def(
      "read_member",
      [](const std::string& path, uint64_t offset, uint32_t length) {
        Scratch buffer;
        Span data;
        {
          const WithoutGil without_gil;
          data = ReadMember(File(path), offset, length, &buffer);
        }
        return ToBytes(data);
      },
      py::arg("path"), py::arg("offset"), py::arg("length"));
  m.def("feature_names", [](const py::buffer& data) {
    const py::buffer_info info = data.request();
    return FeatureNames(AsSpan(info));
  });
  m.def(
      "class_label",
      [](const py::buffer& data, const std::string& image_key, const std::string& label_key,
         int label_offset, bool required) {
        const py::buffer_info info = data.request();
        const Span span = AsSpan(info);
        const Example example = ParseExample(span, image_key, label_key);
        return ClassLabel(span, example, {label_key, label_offset, required});
      },
      py::arg("data"), py::arg("image_key"), py::arg("label_key"), py::arg("label_offset"),
      py::arg("required"));
  m.def(
      "parse_example",
      [](const py::buffer& data, const std::string& image_key, const std::string& label_key) {
        const py::buffer_info info = data.request();
        const Example example = ParseExample(AsSpan(info), image_key, label_key);
        py::object label = py::none();
        if (example.label) label = py::int_(*example.label);
        return py::make_tuple(ToBytes(example.image), label);
      },
      py::arg("data"), py::arg("image_key"), py::arg("label_key"));
  m.attr("MAX_PIXELS") = DecodeOptions().max_pixels;
  m.def("decode_jpeg", &DecodeJpeg, py::arg("data"), py::arg("region") = py::none(),
        py::arg("plain") = false, py::arg("max_pixels") = DecodeOptions().max_pixels,
        py::arg("fast_dct") = false);
  m.def(
      "image_size",
      [](const py::buffer& data, uint64_t max_pixels) {
        const py::buffer_info info = data.request();
        const ImageSize size = ImageDecoder(DecodeOptions{max_pixels}).Open(AsSpan(info));
        return py::make_tuple(size.height, size.width);
      },
      py::arg("data"), py::arg("max_pixels") = DecodeOptions().max_pixels);
  m.def("kernels", [] {
    py::list names;
    for (const Kernels* kernels : AvailableKernels()) names.append(kernels->name);
    return names;
  });

  py::class_<PyRenderer>(m, "Renderer")
      .def(py::init<const py::object&, uint64_t, const std::string&, const std::string&,
                    const std::string&>(),
           py::arg("plan"), py::kw_only(), py::arg("seed"), py::arg("dtype"), py::arg("layout"),
           py::arg("kernels") = "")
      .def("views", &PyRenderer::Views, py::arg("encoded"), py::arg("class_label"),
           py::arg("record"), py::arg("epoch"));

  py::class_<PyBatcher>(m, "Batcher")
      .def(py::init<const py::object&, const py::dict&, const py::dict&>(), py::arg("plan"),
           py::arg("records"), py::arg("config"))
      .def("seek", &PyBatcher::Seek, py::arg("epoch"), py::arg("batch"))
      .def("next", &PyBatcher::Next)
      .def("stats", &PyBatcher::GetStats)
      .def("take_skipped", &PyBatcher::TakeSkipped)
      .def("take_row_fault", &PyBatcher::TakeRowFault)
      .def("forget", &PyBatcher::Forget, py::arg("shard"))
      .def("close", &PyBatcher::Close);
}

}  // namespace pretexture
