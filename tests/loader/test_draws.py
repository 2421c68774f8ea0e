"""Random draws: published Philox vectors, keyed permutations, inception crops."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pretexture.loader.epoch.draws import (
    ORDER_BLOCKS,
    ORDER_RECORDS,
    Draws,
    below,
    inception_crop,
    permute,
    permute_inverse,
    philox,
    uniform,
)

words = st.integers(0, 2**32 - 1)
seeds = st.integers(0, 2**64 - 1)


@pytest.mark.parametrize(
    ("key", "counter", "expected"),
    [
        ("00000000 00000000", "00000000 " * 4, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff", "ffffffff " * 4, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            "a4093822 299f31d0",
            "243f6a88 85a308d3 13198a2e 03707344",
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_gives_the_known_answers_of_random123(key, counter, expected):
    k0, k1 = (int(word, 16) for word in key.split())
    c0, c1, c2, c3 = (int(word, 16) for word in counter.split())
    assert philox(k1 << 32 | k0, (c0, c1, c2, c3)) == tuple(
        int(word, 16) for word in expected.split()
    )


def test_a_draw_depends_on_everything_that_its_counter_names():
    names = ("seed", "epoch", "record", "stream", "view", "block")
    base = dict.fromkeys(names, 1)

    def draw(seed, epoch, record, stream, view, block):
        return Draws(seed, epoch, record).block(stream, view, block)

    assert len({draw(**base)} | {draw(**{**base, name: 2}) for name in names}) == len(names) + 1


@given(words, st.integers(1, 2**32 - 1))
def test_uniform_and_below_stay_in_their_ranges(word, n):
    assert 0 <= uniform(word) < 1
    assert 0 <= below(word, n) < n


@settings(max_examples=50, deadline=None)
@given(seeds, words, st.integers(1, 400))
def test_permute_is_a_permutation_and_has_an_inverse(seed, epoch, n):
    image = [permute(seed, epoch, ORDER_RECORDS, 0, n, i) for i in range(n)]
    assert sorted(image) == list(range(n))
    assert [permute_inverse(seed, epoch, ORDER_RECORDS, 0, n, i) for i in image] == list(range(n))


@given(seeds, st.integers(1, 2**32 - 1), st.data())
def test_permute_reaches_every_size_that_a_counter_holds(seed, n, data):
    index = data.draw(st.integers(0, n - 1))
    image = permute(seed, 0, ORDER_RECORDS, 0, n, index)
    assert 0 <= image < n
    assert permute_inverse(seed, 0, ORDER_RECORDS, 0, n, image) == index


def test_permutations_differ_between_seeds_epochs_domains_and_windows():
    def first(seed, epoch, domain, which):
        return tuple(permute(seed, epoch, domain, which, 1000, i) for i in range(5))

    orders = {
        first(0, 0, ORDER_RECORDS, 0),
        first(1, 0, ORDER_RECORDS, 0),
        first(0, 1, ORDER_RECORDS, 0),
        first(0, 0, ORDER_BLOCKS, 0),
        first(0, 0, ORDER_RECORDS, 1),
    }
    assert len(orders) == 5


def test_permute_spreads_neighbours_over_the_whole_range():
    """Every record is as likely in either half of an epoch: 4 standard deviations either way."""
    n = 1000
    early = sum(permute(0, epoch, ORDER_RECORDS, 0, n, 0) < n // 2 for epoch in range(400))
    assert abs(early - 200) < 40
    image = [permute(0, 0, ORDER_RECORDS, 0, n, i) for i in range(n)]
    steps = [abs(a - b) for a, b in zip(image, image[1:])]
    assert abs(sum(steps) / len(steps) / n - 1 / 3) < 0.04


@settings(deadline=None)
@given(
    seeds,
    st.integers(1, 3000),
    st.integers(1, 3000),
    st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(sorted),
    st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)).map(sorted),
)
def test_an_inception_crop_lies_within_the_image_and_its_ranges(seed, height, width, area, aspect):
    top, left, h, w = inception_crop(
        Draws(seed, 0, 0), 0, 0, height, width, tuple(area), tuple(aspect)
    )
    assert 0 <= top <= top + h <= height
    assert 0 <= left <= left + w <= width
    if (h, w) != (height, width):
        pixels = height * width
        assert max(area[0], 0.1) * pixels <= h * w <= area[1] * pixels
        # The width is rounded to a pixel.
        assert h * aspect[0] - 0.5 <= w <= h * aspect[1] + 0.5


def test_an_inception_crop_that_never_succeeds_is_the_whole_image():
    crop = inception_crop(Draws(0, 0, 0), 0, 0, 70, 90, (0.01, 0.05), (1.0, 1.0))
    assert crop == (0, 0, 70, 90)
