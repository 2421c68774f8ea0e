"""The Loader: what comes out, in which order, and how an iteration begins, ends or is cut short."""

import collections
import gc
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
import weakref

import numpy as np
import pytest
from pretexture.loader import Batch, Loader, TFRecords, WindowShuffle, _core, presets

pytestmark = pytest.mark.usefixtures("no_hang")

PIPELINES = {
    "supervised": "inception(32)",
    "rotation": "inception(24)|rotate",
    "exemplar": "gray(0.66)|inception(24, views=3)|standardize",
    "jigsaw": "resize(72)|gray(0.66)|crop(63)|patches(3, jitter=4)|standardize|jigsaw",
    "slow distortion": "resize(40, randomize=True)|crop(32)|flip|distort(fast=False)",
    "evaluation": "resize_small(36)|crop(32)|normalize('imagenet')",
}
PLAIN = "inception(32)"


def epochs(shards, pipeline=PLAIN, batch_size=5, count=2, **kwargs):
    with Loader(TFRecords(shards), pipeline, batch_size, **kwargs) as loader:
        return [batch for _ in range(count) for batch in loader]


def numbers(batches):
    return [number for batch in batches for number in batch.index.tolist()]


def assert_same(batches, expected):
    assert len(batches) == len(expected)
    for a, b in zip(batches, expected):
        for left, right in zip(a, b):
            assert left.dtype == right.dtype
            np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("pipeline", PIPELINES.values(), ids=PIPELINES.keys())
def test_batches_are_the_same_bits_on_any_number_of_threads(pipeline, training, shards):
    expected = epochs(shards, pipeline, training=training, threads=1)
    for threads in (2, 4):
        assert_same(epochs(shards, pipeline, training=training, threads=threads), expected)


@pytest.mark.parametrize("prefetch", [1, 3, 50])
def test_batches_do_not_depend_on_prefetching(prefetch, shards):
    expected = epochs(shards, threads=1)
    assert_same(epochs(shards, threads=3, prefetch=prefetch), expected)


def test_batches_do_not_depend_on_the_instruction_set(shards, tmp_path):
    script = """
        import sys, numpy as np
        from pretexture.loader import Loader, TFRecords
        for number, pipeline in enumerate(PIPELINES):
            with Loader(TFRecords(SHARDS), pipeline, 5) as loader:
                np.save(f"{sys.argv[1]}-{number}.npy", np.stack([b.image for b in loader]))
    """
    script = script.replace("PIPELINES", repr(list(PIPELINES.values())))
    script = script.replace("SHARDS", repr(shards))
    results = []
    for kind in _core.kernels():
        path = str(tmp_path / kind)
        finish(run_script(script, path, environment={"PRETEXTURE_ISA": kind}))
        results.append([np.load(f"{path}-{i}.npy") for i in range(len(PIPELINES))])
    for others in results[1:]:
        for a, b in zip(others, results[0]):
            np.testing.assert_array_equal(a, b)


def test_an_instruction_set_that_cannot_be_used_is_refused_by_name(shards):
    script = """
        from pretexture.loader import Loader, TFRecords
        try:
            Loader(TFRecords(SHARDS), "crop(8)", 5)
        except ValueError as error:
            print(error)
    """
    script = script.replace("SHARDS", repr(shards))

    def said(kind):
        return finish(run_script(script, environment={"PRETEXTURE_ISA": kind}))

    unknown = "PRETEXTURE_ISA: 'avx3' is not an instruction set: known are avx512, avx2, baseline"
    assert unknown in said("avx3")
    for kind in {"avx512", "avx2"}.difference(_core.kernels()):
        lacking = f"PRETEXTURE_ISA: the instruction set {kind} is not available: this build and"
        assert lacking in said(kind)
    for kind in ("", *_core.kernels()):
        assert "PRETEXTURE_ISA" not in said(kind)


@pytest.mark.parametrize("drop_remainder", [True, False])
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_shapes_and_dtypes_are_those_of_the_specification(dtype, layout, drop_remainder, shards):
    for pipeline in PIPELINES.values():
        with Loader(
            TFRecords(shards),
            pipeline,
            8,
            dtype=dtype,
            layout=layout,
            drop_remainder=drop_remainder,
        ) as loader:
            spec = loader.element_spec
            batches = list(loader)
            assert isinstance(spec, Batch)
            assert len(batches) == len(loader) == (4 if drop_remainder else 5)
        for number, batch in enumerate(batches):
            assert isinstance(batch, Batch)
            for array, expected in zip(batch, spec):
                assert array.dtype == expected.dtype
                assert array.shape[1:] == expected.shape[1:]
                assert expected.shape[0] == (8 if drop_remainder else None)
                assert len(array) == (8 if number < 4 else 5)
                assert array.flags.c_contiguous


def test_layouts_and_dtypes_show_the_same_pixels(shards):
    for pipeline in PIPELINES.values():
        (floats, *_) = epochs(shards, pipeline)
        (halves, *_) = epochs(shards, pipeline, dtype="float16")
        np.testing.assert_array_equal(halves.image, floats.image.astype(np.float16))
        (planes, *_) = epochs(shards, pipeline, layout="NCHW")
        np.testing.assert_array_equal(np.moveaxis(planes.image, -3, -1), floats.image)


def test_uint8_is_the_pixels_before_normalisation(shards):
    text = "inception_crop|resize(24)|flip|distort"
    (plain, *_) = epochs(shards, text)
    (normalised, *_) = epochs(shards, text + "|normalize('imagenet')", dtype="uint8")
    np.testing.assert_array_equal(normalised.image, np.rint(plain.image.clip(0, 255)))


def test_an_epoch_of_training_is_a_permutation_and_each_epoch_another(shards):
    batches = epochs(shards, count=3, batch_size=1)
    orders = [numbers(batches)[i : i + 37] for i in (0, 37, 74)]
    for order in orders:
        assert sorted(order) == list(range(37))
    assert orders[0] != orders[1] != orders[2] != orders[0] != list(range(37))
    first = {b.index[0]: b.image for b in batches[:37]}
    assert sum(np.array_equal(b.image, first[b.index[0]]) for b in batches[37:74]) == 0


def test_another_seed_gives_another_order_and_other_draws(shards):
    a, b = (epochs(shards, batch_size=37, count=1, seed=seed)[0] for seed in (1, 2))
    assert a.index.tolist() != b.index.tolist()
    places = np.argsort(a.index), np.argsort(b.index)
    same = [np.array_equal(x, y) for x, y in zip(a.image[places[0]], b.image[places[1]])]
    assert not any(same)
    assert_same(epochs(shards, seed=2**64 - 1), epochs(shards, seed=2**64 - 1))


def test_evaluation_goes_through_the_files_in_order_and_repeats(shards):
    batches = epochs(shards, training=False)
    assert numbers(batches) == list(range(37)) * 2
    assert_same(batches[:8], batches[8:])
    assert [label for batch in batches[:8] for label in batch.label] == list(range(37))


def test_shuffling_can_be_chosen_apart_from_training(shards):
    assert numbers(epochs(shards, shuffle=False, batch_size=37, count=1)) == list(range(37))
    order = numbers(epochs(shards, training=False, shuffle=True, count=1))
    assert sorted(order) == list(range(37)) != order
    assert order == numbers(epochs(shards, drop_remainder=False, count=1))


def test_a_window_shuffle_keeps_blocks_together(shards):
    window = WindowShuffle(block=4, blocks=2)
    batches = epochs(shards, shuffle=window, batch_size=1, count=2)
    orders = numbers(batches)[:37], numbers(batches)[37:]
    assert orders[0] != orders[1]
    for order in orders:
        assert sorted(order) == list(range(37)) != order
        places = collections.defaultdict(list)
        for place, number in enumerate(order):
            places[number // 4].append(place)
        assert all(max(block) - min(block) < 8 for block in places.values())
    assert_same(epochs(shards, shuffle=window, batch_size=1, threads=4), batches)


@pytest.mark.parametrize("shuffle", [True, False, WindowShuffle(3, 4)])
@pytest.mark.parametrize("workers", [1, 2, 3, 5])
def test_workers_together_see_each_record_once(workers, shuffle, shards):
    together, counts = [], set()
    for worker in range(workers):
        batches = epochs(
            shards, shard=(worker, workers), drop_remainder=False, shuffle=shuffle, count=1
        )
        together += numbers(batches)
    assert sorted(together) == list(range(37))
    dropped = []
    for worker in range(workers):
        batches = epochs(shards, batch_size=3, shard=(worker, workers), shuffle=shuffle, count=1)
        counts.add(len(batches))
        dropped += numbers(batches)
    assert counts == {37 // workers // 3}
    assert len(set(dropped)) == len(dropped)


def test_what_a_worker_makes_is_what_one_alone_makes_of_the_record(shards):
    (alone,) = epochs(shards, batch_size=37, count=1)
    place = {number: i for i, number in enumerate(alone.index.tolist())}
    for batch in epochs(shards, shard=(1, 3), count=1):
        for image, number in zip(batch.image, batch.index.tolist()):
            np.testing.assert_array_equal(image, alone.image[place[number]])


def test_after_a_break_the_next_epoch_begins(shards):
    expected = epochs(shards, count=3)
    with Loader(TFRecords(shards), PLAIN, 5) as loader:
        for batch in loader:
            assert_same([batch], expected[:1])
            break
        assert_same([batch for _, batch in zip(range(3), loader)], expected[7:10])
        assert_same(list(loader), expected[14:])


def test_one_iteration_at_a_time(shards):
    with Loader(TFRecords(shards), PLAIN, 5) as loader:
        first = iter(loader)
        next(first)
        second = iter(loader)
        with pytest.raises(RuntimeError, match="another iteration of this Loader has begun"):
            next(first)
        assert next(second).index.shape == (5,)
        with pytest.raises(StopIteration):
            next(first)
        assert len(list(second)) == 6


def test_iterators_that_took_nothing_do_no_harm(shards):
    expected = epochs(shards, count=1)
    with Loader(TFRecords(shards), PLAIN, 5) as loader:
        for _ in range(3):
            iterator = iter(loader)
        assert_same(list(iterator), expected)
        with pytest.raises(StopIteration):
            next(iterator)


def test_a_closed_loader_says_so(shards):
    loader = Loader(TFRecords(shards), PLAIN, 5)
    iterator = iter(loader)
    batch = next(iterator)
    copy = batch.image.copy()
    loader.close()
    loader.close()
    for use in (lambda: next(iterator), lambda: iter(loader), lambda: loader.load_state_dict({})):
        with pytest.raises(RuntimeError, match="the Loader is closed"):
            use()
    np.testing.assert_array_equal(batch.image, copy)
    assert loader.stats.records >= 5
    assert loader.state_dict()["batch"] == 1


def test_an_exception_in_the_loop_closes_the_loader(shards):
    with pytest.raises(KeyError), Loader(TFRecords(shards), PLAIN, 5) as loader:
        for _ in loader:
            raise KeyError
    with pytest.raises(RuntimeError, match="closed"):
        iter(loader)


def threads_now():
    return len(os.listdir("/proc/self/task"))


def threads_return_to(count, seconds=5):
    deadline = time.monotonic() + seconds
    while threads_now() != count and time.monotonic() < deadline:
        time.sleep(0.001)
    return threads_now() == count


@pytest.fixture
def threads_before():
    if not os.path.isdir("/proc/self/task"):
        pytest.skip("needs Linux's /proc")
    gc.collect()  # Loaders that other tests dropped
    deadline = time.monotonic() + 1
    count = threads_now()
    while time.monotonic() < deadline:
        time.sleep(0.01)
        if threads_now() == count:
            break
        count = threads_now()
    return count


def test_loaders_leave_no_threads_behind(shards, threads_before):
    before = threads_before
    for round in range(20):
        loader = Loader(TFRecords(shards), PLAIN, 5, threads=3)
        assert threads_now() == before  # none before the first batch is asked for
        iterator = iter(loader)
        for _ in range(round % 4):
            next(iterator)
        assert threads_now() == before + 3
        loader.close()
        assert threads_return_to(before)


def test_a_loader_without_its_user_ends_its_threads(shards, threads_before):
    before = threads_before
    loader = Loader(TFRecords(shards), PLAIN, 5, threads=3)
    list(loader)
    del loader
    assert threads_return_to(before)


def test_a_loader_dropped_amid_an_iteration_ends_its_threads_at_once(shards, threads_before):
    before = threads_before
    gc.disable()
    try:
        loader = Loader(TFRecords(shards), PLAIN, 5, threads=3)
        for _ in loader:
            break
        del loader
        assert threads_return_to(before, 1)
    finally:
        gc.enable()
        gc.collect()


def test_an_iterator_keeps_its_loader_alive(shards):
    expected = epochs(shards, count=1)
    iterator = iter(Loader(TFRecords(shards), PLAIN, 5))
    gc.collect()
    assert_same(list(iterator), expected)


def test_a_loader_that_is_dropped_goes(shards):
    loader = Loader(TFRecords(shards), PLAIN, 5)
    reference = weakref.ref(loader)
    iterator = iter(loader)
    next(iterator)
    del loader, iterator
    gc.collect()
    assert reference() is None


WRONG = [
    ({"batch_size": 0}, "batch_size must be from 1 to"),
    ({"batch_size": 2.0}, "batch_size must be a whole number, not 2.0"),
    ({"batch_size": 38}, "37 records over 1 workers make no batch of 38; drop_remainder=False"),
    ({"seed": -1}, "seed must be from 0 to"),
    ({"seed": 2**64}, "seed must be from 0 to"),
    ({"shuffle": 5}, "shuffle must be True, False or a WindowShuffle, not 5"),
    ({"shard": (2, 2)}, "worker in shard must be from 0 to 1, not 2"),
    ({"shard": 3}, "shard must be"),
    ({"threads": 0}, "threads must be from 1 to 1024, not 0"),
    ({"threads": -1}, "threads must be from 1 to 1024, not -1"),
    ({"prefetch": 0}, "prefetch must be from 1"),
    ({"dtype": "float64"}, "dtype must be one of float32, float16, uint8, not 'float64'"),
    ({"layout": "CHWN"}, "layout must be one of NHWC, NCHW, not 'CHWN'"),
    ({"on_error": "ignore"}, "on_error must be one of raise, skip, not 'ignore'"),
    ({"backend": "magic"}, "backend must be one of .*native, .*reference.*, not 'magic'"),
]


@pytest.mark.parametrize(("arguments", "reason"), WRONG)
def test_wrong_arguments_are_refused_by_name(arguments, reason, shards):
    with pytest.raises(ValueError, match=reason):
        Loader(TFRecords(shards), PLAIN, **{"batch_size": 5, **arguments})


@pytest.mark.parametrize("name", ["EVAL", "EVAL_PATCHES"])
def test_a_preset_for_evaluation_warns_if_it_is_used_in_training(name, shards, recwarn):
    preset = getattr(presets, name)
    for pipeline, training in ((preset, False), (str(preset), True), (presets.MAE, True)):
        Loader(TFRecords(shards), pipeline, 5, training=training).close()
    assert not recwarn.list  # the text may be meant as it is
    Loader(TFRecords(shards), preset, 5).close()
    (warning,) = recwarn.list
    assert str(warning.message).startswith(f"presets.{name} with training=True takes random crops")
    assert warning.filename == __file__


def test_batches_and_records_are_printed_in_a_line(shards):
    records = TFRecords(shards)
    with Loader(records, "resize(9)|rotate", 5) as loader:
        assert repr(next(iter(loader))) == (
            "Batch(image=float32 [5, 4, 9, 9, 3], label=int32 [5, 4], index=int64 [5])"
        )
    with Loader(records, "(resize(9)|rotate) + 2*(resize(3))", 5, training=False) as loader:
        assert repr(next(iter(loader))).startswith(
            "Batch(image=(float32 [5, 4, 9, 9, 3], float32 [5, 2, 3, 3, 3]), label=int32 [5, 4]"
        )
        assert "ArraySpec(shape=(None, 2, 3, 3, 3), dtype='float32')" in repr(loader.element_spec)
    record = records[3]
    assert repr(record) == (
        f"Record(image=<{len(record.image):,} bytes>, label={record.label}, "
        f"path={record.path!r}, offset={record.offset})"
    )


def test_statistics_add_up(shards):
    records = TFRecords(shards)
    with Loader(records, PLAIN, 5, training=False, threads=2) as loader:
        assert loader.stats == type(loader.stats)(*[0] * len(loader.stats))
        for _ in range(2):
            for _ in loader:
                pass
        stats = loader.stats
    assert stats.records == 2 * 37
    assert stats.bytes == 2 * int(records.shard_index().lengths.sum())
    assert (stats.skipped, stats.warnings) == (0, 0)
    for name in ("read", "decode", "resample", "color"):
        assert 0 < getattr(stats, name + "_seconds") < 60
    assert stats.wait_seconds >= 0


# What needs a process of its own.


@pytest.fixture(scope="module")
def slow_shards(write_shards, tmp_path_factory):
    """Records that take a while: one large image many times over."""
    image = pytest.importorskip("PIL.Image")
    folder = tmp_path_factory.mktemp("slow")
    noise = np.random.RandomState(0).randint(0, 256, (60, 60, 3), np.uint8).astype(np.uint8)
    path = str(folder / "large.jpg")
    image.fromarray(noise).resize((3000, 3000), image.BICUBIC).save(path, quality=95)
    with open(path, "rb") as file:
        return write_shards(folder, [file.read()] * 100)


# Some seconds for one thread.
SLOW = "Loader(TFRecords(SHARDS), 'resize(8)', 100, threads=1, prefetch=1)"


def run_script(script, *args, environment=None):
    return subprocess.Popen(
        [sys.executable, "-X", "faulthandler", "-c", textwrap.dedent(script), *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **(environment or {})},
        universal_newlines=True,
    )


def finish(process, timeout=60):
    try:
        output, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert process.returncode == 0, errors
    return output


def test_other_threads_run_while_a_batch_is_awaited(slow_shards):
    loader = Loader(TFRecords(slow_shards), "resize(8)", 30, threads=1)
    times, done = [], threading.Event()

    def tick():
        while not done.is_set():
            times.append(time.perf_counter())
            time.sleep(0.001)

    ticker = threading.Thread(target=tick)
    begin = time.perf_counter()
    iterator = iter(loader)
    ticker.start()
    next(iterator)
    end = time.perf_counter()
    done.set()
    ticker.join()
    loader.close()
    pauses = np.diff([begin, *times, end])
    assert len(times) > 20
    assert pauses.max() < 0.5 * (end - begin)


def test_ctrl_c_ends_the_wait_for_a_batch_at_once(slow_shards):
    script = f"""
        import sys, time
        from pretexture.loader import Loader, TFRecords
        loader = {SLOW}
        iterator = iter(loader)
        print("waiting", flush=True)
        begin = time.perf_counter()
        try:
            next(iterator)
        except KeyboardInterrupt:
            print("interrupted", loader.state_dict()["batch"], flush=True)
    """
    process = run_script(script.replace("SHARDS", repr(slow_shards)))
    assert process.stdout.readline() == "waiting\n"
    time.sleep(0.3)
    begin = time.perf_counter()
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "interrupted 0\n"
    assert time.perf_counter() - begin < 1
    finish(process)  # the threads end with the record that they are at
    assert time.perf_counter() - begin < 3


def test_closing_wakes_a_thread_that_awaits_a_batch(slow_shards):
    loader = Loader(TFRecords(slow_shards), "resize(8)", 100, threads=1)
    caught = []

    def consume():
        try:
            next(iter(loader))
        except RuntimeError as error:
            caught.append(str(error))

    consumer = threading.Thread(target=consume)
    consumer.start()
    time.sleep(0.2)
    loader.close()
    consumer.join(5)
    assert not consumer.is_alive()
    assert len(caught) == 1
    assert "closed" in caught[0]


@pytest.mark.parametrize("end", ["pass", "raise SystemExit(0)", "sys.exit()", "del loader"])
def test_a_program_ends_though_its_loader_is_at_work(end, slow_shards):
    script = f"""
        import sys, time
        from pretexture.loader import Loader, TFRecords
        loader = Loader(TFRecords(SHARDS), "resize(8)", 1, threads=2)
        for batch in loader:
            break
        {end}
    """
    begin = time.perf_counter()
    finish(run_script(script.replace("SHARDS", repr(slow_shards))))
    assert time.perf_counter() - begin < 10


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="counts threads in /proc")
def test_threads_that_cannot_be_started_are_an_error_and_those_that_were_end(shards):
    script = """
        import os, resource, sys, time
        from pretexture.loader import Loader, TFRecords
        loader = Loader(TFRecords(sys.argv[1:]), "resize(8)", 1, threads=500)
        before = len(os.listdir("/proc/self/task"))
        used = int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (used + (200 << 20),) * 2)  # 25 stacks of 8 MB
        try:
            next(iter(loader))
        except RuntimeError as error:
            print(error)
        loader.close()
        # The system counts a thread for a moment after it has ended.
        deadline = time.monotonic() + 10
        while len(os.listdir("/proc/self/task")) > before and time.monotonic() < deadline:
            time.sleep(0.001)
        print(len(os.listdir("/proc/self/task")) - before)
        """
    error, threads = finish(run_script(script, *shards)).splitlines()
    assert re.match(r"only \d+ of 500 threads can be started \(.*\); ask for fewer", error)
    assert threads == "0"


def make(shards, pipeline=PLAIN, batch_size=5, **kwargs):
    return Loader(TFRecords(shards), pipeline, batch_size, **kwargs)


def test_a_misspelt_argument_is_all_that_is_said(shards, capfd):
    with pytest.raises(TypeError, match="bacth_size"):
        Loader(TFRecords(shards), "resize(8)", bacth_size=8)
    gc.collect()
    assert capfd.readouterr().err == ""


def test_threads_that_share_an_iterator_share_its_epoch(shards):
    with make(shards, "resize(8)", batch_size=4) as loader:
        for _ in range(5):
            batches, seen = iter(loader), []

            def take(batches=batches, seen=seen):
                seen.extend(batch.index.tolist() for batch in batches)

            threads = [threading.Thread(target=take) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            records = [record for batch in seen for record in batch]
            assert len(seen) == len(loader) == 9
            assert len(set(records)) == len(records) == 36


def test_a_loader_is_closed_while_threads_wait_for_a_batch(shards):
    loader = make(shards, "inception(128, views=64)", batch_size=16)
    batches, errors = iter(loader), []

    def wait():
        try:
            while True:
                next(batches)
        except (RuntimeError, StopIteration) as error:
            errors.append(type(error))

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    loader.close()
    for thread in threads:
        thread.join()
    assert len(errors) == 3


def test_a_batch_size_beyond_the_records_takes_no_memory_for_more(shards):
    with make(shards, "resize(224)", batch_size=100_000, drop_remainder=False) as loader:
        before = resident()
        (batch,) = loader
        assert len(batch.index) == 37
        assert resident() - before < 400  # of 100,000 images: 60 GB


def resident():
    """Megabytes."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 >> 20


@pytest.mark.parametrize(
    ("pipeline", "records"), [("inception(32768, views=4)", 30), ("resize(65535)", 37)]
)
def test_a_batch_beyond_the_machines_memory_is_refused_with_its_size(pipeline, records, shards):
    size = records * {30: 4 * 32768**2, 37: 65535**2}[records] * 3 * 4
    with pytest.raises(ValueError, match=r"takes [0-9.]+ [TG]B, and this machine has") as info:
        Loader(TFRecords(shards), pipeline, records, training=False)
    said = info.value.args[0]
    amount, unit = re.search(r"takes ([0-9.]+) ([TG]B)", said).groups()
    assert float(amount) * {"GB": 1e9, "TB": 1e12}[unit] == pytest.approx(size, rel=0.01)


DAEMON = """
import sys, threading
from pretexture.loader import Loader, TFRecords
loaders = [Loader(TFRecords(sys.argv[1:]), "inception(64, views=64)", 16, threads=1, prefetch=1,
                  seed=seed) for seed in range(3)]

def read(loader):
    try:
        while True:
            list(loader)
    except RuntimeError:
        pass

for loader in loaders:
    threading.Thread(target=read, args=[loader], daemon=True).start()
threading.Event().wait(0.3)
{end}
"""
ENDS = {
    "the end of the script": "pass",
    "sys.exit": "sys.exit(0)",
    "a fork that ends": "import os\nchild = os.fork()\nif child: sys.exit(os.waitpid(child, 0)[1])",
}


@pytest.mark.parametrize("end", ENDS)
def test_a_process_ends_while_threads_wait_for_batches(end, shards):
    script = DAEMON.format(end=ENDS[end])
    run = subprocess.run(
        [sys.executable, "-c", script, *shards], capture_output=True, text=True, timeout=100
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_a_process_ends_while_threads_are_in_the_core(shards):
    program = """
import sys, threading, time
from pretexture.loader import _core

def scan():
    while True:
        _core.scan_shards(sys.argv[1:], 1)

for _ in range(4):
    threading.Thread(target=scan, daemon=True).start()
time.sleep(0.3)
"""
    run = subprocess.run(
        [sys.executable, "-c", program, *shards], capture_output=True, text=True, timeout=100
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_local_shards_are_read_without_what_only_unix_has(shards):
    program = """
import sys
for name in ("fcntl", "resource"):
    sys.modules[name] = None  # as on Windows and in WebAssembly: importing it fails
from pretexture.loader import Loader, TFRecords
with Loader(TFRecords(sys.argv[1:]), "crop(8)", 4) as loader:
    print(next(iter(loader)).image.shape)
"""
    run = subprocess.run(
        [sys.executable, "-c", program, *shards], stdout=subprocess.PIPE, check=True
    )
    assert run.stdout.split() == b"(4, 8, 8, 3)".split()
