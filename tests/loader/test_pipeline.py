"""The pipeline language: what it reads, what it refuses and why."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pretexture.loader import presets
from pretexture.loader.errors import PipelineError
from pretexture.loader.language import ops, parse, steps
from pretexture.loader.language.pipeline import Pipeline


def reason(text):
    with pytest.raises(PipelineError) as error:
        Pipeline(text)
    return str(error.value)


def test_arguments_are_written_as_in_python():
    pipeline = Pipeline(
        "inception_crop(area=(1/12, 1), aspect=[3/4, 4/3])|resize(64, w=48, method='area')|flip"
    )
    assert pipeline.steps == (
        steps.InceptionCrop(area=(1 / 12, 1), aspect=(3 / 4, 4 / 3)),
        steps.Resize(64, 48, method="area"),
        steps.Flip(),
    )


def test_blanks_and_brackets_do_not_matter():
    assert Pipeline("  crop( 32 ) |flip") == Pipeline("crop(32)|flip()")
    assert hash(Pipeline("crop(32)|flip")) == hash(Pipeline("crop(32)|flip()"))
    assert Pipeline("crop(32)") != Pipeline("crop(33)")


def test_steps_may_be_given_as_objects():
    assert Pipeline([steps.Crop(32), steps.Rotate()]) == Pipeline("crop(32)|rotate")


@pytest.mark.parametrize("name", presets.ALL)
def test_every_preset_reads_back_as_it_is_written(name):
    assert Pipeline(str(presets.ALL[name])) == presets.ALL[name]


sides = st.integers(1, 65535)
numbers = st.floats(-1000, 1000).map(lambda x: x + 0.0)  # without -0.0, which equals 0.0


def interval(low, high):
    return st.tuples(st.floats(low, high), st.floats(low, high)).map(lambda x: tuple(sorted(x)))


@st.composite
def any_steps(draw):
    """Steps that are valid one by one, in an order that works."""
    middle = draw(
        st.lists(
            st.one_of(
                st.builds(steps.Flip),
                st.builds(steps.Gray, st.floats(0, 1)),
                st.builds(steps.Distort),
            ),
            max_size=3,
        )
    )
    first = draw(
        st.one_of(
            st.builds(steps.Crop, sides, st.none() | sides),
            st.builds(
                steps.Resize,
                sides,
                st.none() | sides,
                method=st.sampled_from(ops.METHODS),
                coords=st.sampled_from(ops.COORDS),
                randomize=st.booleans(),
            ),
            st.builds(steps.Inception, sides, st.none() | sides, views=st.integers(1, 9)),
        )
    )
    before = draw(
        st.lists(st.builds(steps.InceptionCrop, interval(1e-6, 1), interval(1e-3, 1e3)), max_size=1)
    )
    last = [steps.Standardize()]
    if not isinstance(first, steps.Inception):
        last = draw(
            st.lists(
                st.one_of(
                    st.builds(steps.Range, numbers, st.floats(1001, 2000)),
                    st.builds(steps.Normalize),
                    st.builds(
                        steps.Normalize,
                        st.tuples(numbers, numbers, numbers),
                        st.tuples(*[st.floats(1e-6, 10)] * 3),
                    ),
                ),
                max_size=1,
            )
        )
        last = middle + last
    return [*before, first, *last]


@given(any_steps())
def test_a_pipeline_reads_back_as_it_is_written(chosen):
    pipeline = Pipeline(chosen)
    assert Pipeline(str(pipeline)) == pipeline
    assert repr(pipeline) == f"Pipeline({str(pipeline)!r})"


@given(st.text(max_size=40) | st.text("crop(3)|,='flip[]{}/*.", max_size=20))
def test_any_text_is_read_or_refused_with_a_pipeline_error(text):
    try:
        Pipeline(text)
    except PipelineError as error:
        assert str(error)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "a pipeline needs at least one step"),
        ("crop(3)|", "cannot read 'crop(3)|' as step(args)|step(args)|…: "),
        ("crop(3), flip()", "step 1: expected a step such as crop(224)"),
        ("crop(3)|'flip'", "step 2: expected a step such as crop(224)"),
        ("crop(3)|fip", "step 2: there is no step 'fip'; did you mean flip?"),
        ("crop(3)|xyz(1)", "step 2: there is no step 'xyz'; the steps are resize, "),
        ("crop", "step 1, crop: missing a required argument: 'h' (arguments: h, w)"),
        ("flip(1)|crop(3)", "step 1, flip(1): too many positional arguments (arguments: none)"),
        ("crop(3, size=4)", "step 1, crop(3): got an unexpected keyword argument 'size'"),
        ("crop(3, h=4)", "step 1, crop(3): multiple values for argument 'h'"),
        ("crop(*(3, 4))", "step 1, crop: arguments are numbers, "),
        ("crop(**{'h': 3})", "step 1, crop: arguments are written out one by one"),
        ("crop(side)", "step 1, crop: arguments are numbers, "),
        ("crop(1/0)", "step 1, crop: a fraction cannot have 0 below"),
        ("crop('a'/2)", "step 1, crop: a fraction is written as one number over another"),
        ("crop(" + 400 * "9" + "/3)", "step 1, crop: a fraction is too large"),
        ("crop({[1]: 2})", "step 1, crop: unhashable type: 'list'"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_step_and_the_reason(text, expected):
    assert reason(text).startswith(expected)


def test_a_keyword_given_twice_is_refused():
    assert "crop" in reason("crop(h=3, h=4)")


def test_endless_pipelines_are_refused():
    with pytest.raises(PipelineError, match="at most 4095 steps"):
        Pipeline([steps.Crop(8), *[steps.Flip()] * 4095])
    # What Python's own parser says to these depends on its version.
    assert reason("|".join(["flip"] * 20000 + ["crop(8)"]))
    assert reason("(" * 10000 + "flip" + ")" * 10000)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("crop(0)", "h must be a whole number from 1 to 65535, not 0"),
        ("crop(3, 65536)", "w must be a whole number from 1 to 65535, not 65536"),
        ("crop(3.0)", "h must be a whole number from 1 to 65535, not 3.0"),
        ("crop(True)", "h must be a whole number from 1 to 65535, not True"),
        ("resize_small('3')", "s must be a whole number from 1 to 65535, not '3'"),
        ("resize(3, method='cubic')", "method must be one of bilinear, nearest, bicubic, area"),
        ("resize(3, coords={})", "coords must be one of half_pixel, tf1, not {}"),
        ("resize(3, antialias=1)", "antialias must be True or False, not 1"),
        ("resize(3, antialias=True, coords='tf1')", "antialias=True goes with method='bilinear'"),
        ("inception_crop(area=(0, 1))", "area must be 1e-06 <= low <= high <= 1, not (0, 1)"),
        ("inception_crop(area=(0.9, 0.1))", "area must be 1e-06 <= low <= high <= 1"),
        ("inception_crop(area=0.5)", "area must be 2 numbers, not 0.5"),
        ("inception_crop(aspect=(1, 1e4))", "aspect must be 0.001 <= low <= high <= 1000"),
        ("inception_crop(aspect=(1, 1e999))", "aspect must be numbers within 1e+06 of 0"),
        ("gray(1.5)", "p must be a probability from 0 to 1, not 1.5"),
        ("gray('yes')", "p must be a probability from 0 to 1, not 'yes'"),
        ("distort(fast='no')", "fast must be True or False, not 'no'"),
        ("inception(8, views=0)", "views must be a whole number from 1 to 65535, not 0"),
        ("patches(3, jitter=-1)", "jitter must be a whole number from 0 to 65535, not -1"),
        ("jigsaw(100)", "set must be a name or a path, not 100"),
        ("range(1, 1)", "lo must be below hi, not 1 and 1"),
        ("range(0, 1e400)", "lo and hi must be numbers within 1e+06 of 0"),
        ("range(0, " + 400 * "9" + ")", "lo and hi must be numbers within 1e+06 of 0"),
        ("range(0, 'x')", "lo and hi must be 2 numbers, not (0, 'x')"),
        ("normalize('cifar')", "write normalize('imagenet') or normalize(mean, std)"),
        ("normalize((0, 0, 0))", "std must be 3 numbers, not None"),
        ("normalize((0, 0, 0), (1, 1, 0))", "std must be 1e-06 or more, not (1, 1, 0)"),
    ],
)
def test_wrong_arguments_are_refused_by_name(text, expected):
    message = reason(f"center_crop(9)|{text}")
    assert message.startswith(f"step 2, {text.split('(')[0]}")
    assert expected in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("flip", "step 1, flip(): the views that come out have no fixed size"),
        ("resize_small(9)", "step 1, resize_small(9): the views that come out have no fixed size"),
        ("crop(9)|inception_crop", "step 2, inception_crop(): the views that come out have no"),
        ("resize(9)|crop(5, 10)", "step 2, crop(5, 10): a crop of 5x10 does not fit in 9x9 pixels"),
        ("resize(9)|resize(8)", "step 2, resize(8): the image is already resized by resize(9)"),
        (
            "resize_small(9)|inception(8)",
            "step 2, inception(8): the image is already resized by resize_small(9)",
        ),
        ("crop(9)|distort|resize(8)", "step 3, resize(8): must come before distort()"),
        ("crop(9)|standardize|resize(8)", "step 3, resize(8): must come before standardize()"),
        ("crop(9)|standardize|crop(8)", "step 3, crop(8): must come before standardize()"),
        ("crop(9)|distort(fast=False)|patches(3)", "step 3, patches(3): must come before distort("),
        ("crop(9)|range(0, 1)|gray", "step 3, gray(): must come before range(0, 1)"),
        ("inception(9)|distort", "step 2, distort(): must come before inception(9)"),
        ("crop(9)|range(0, 1)|normalize", "step 3, normalize(): values are already normalised by"),
        ("crop(9)|standardize|range(0, 1)", "step 3, range(0, 1): values are already normalised"),
        ("crop(9)|standardize|standardize", "step 3, standardize(): values are already stand"),
        (
            "crop(9)|normalize|standardize",
            "step 3, standardize(): takes one mean and one standard deviation over all channels of "
            "a view, but normalize() has already scaled each channel by its own; leave one of the",
        ),
        (
            "crop(9)|normalize((0.5, 0.5, 0.4), (1, 1, 1))|rotate|standardize",
            "step 4, standardize(): takes one mean and one standard deviation over all channels",
        ),
        (
            "crop(9)|normalize((0, 0, 0), (1, 1, 2))|standardize",
            "step 3, standardize(): takes one mean and one standard deviation over all channels",
        ),
        ("patches(3)", "step 1, patches(3): needs an image of a fixed size"),
        (
            "crop(9)|patches(10)",
            "step 2, patches(10): 10x10 cells of 9x9 pixels less a jitter of 0",
        ),
        ("crop(9)|patches(3, jitter=3)", "step 2, patches(3, 3): 3x3 cells of 9x9 pixels less a"),
        ("crop(9)|jigsaw", "step 2, jigsaw(): needs patches before it"),
        ("crop(9)|patches(2)|jigsaw", "step 3, jigsaw(): permutes 9 patches, but there are 4"),
        (
            "crop(9)|patches(3)|rotate|pair",
            "step 4, pair(): the label is already given by rotate()",
        ),
        ("crop(9)|patches(2)|pair", "step 3, pair(): needs patches(n) with an odd n of 3 or more"),
        ("crop(9)|pair", "step 2, pair(): needs patches(n) with an odd n of 3 or more"),
        (
            "crop(9)|patches(3)|pair|jigsaw",
            "step 4, jigsaw(): the label is already given by pair()",
        ),
        ("crop(9, 8)|rotate", "step 2, rotate(): only square views can be turned, these are 9x8"),
        ("rotate", "step 1, rotate(): needs a view of a fixed size"),
        ("crop(9)|rotate|rotate", "step 3, rotate(): the label is already given by rotate()"),
        ("crop(99)|patches(65)", "step 2, patches(65): 4225 views of an image are more than the"),
        (
            "crop(9)|patches(3)|jigsaw('no such file')",
            "step 3, jigsaw('no such file'): set must be 'maximal-N', 'published' or a permutation",
        ),
        (
            "crop(9)|patches(3)|jigsaw('maximal-0')",
            "step 3, jigsaw('maximal-0'): set must be 'maximal-N'",
        ),
    ],
)
def test_what_cannot_be_carried_out_is_refused_with_the_step_and_the_reason(text, expected):
    assert reason(text).startswith(expected)


@pytest.mark.parametrize(
    ("text", "views", "size", "label_dims"),
    [
        ("inception(224)", (), (224, 224), ()),
        ("inception(32, 48)", (), (32, 48), ()),
        ("inception(224)|rotate", (4,), (224, 224), (4,)),
        ("inception(64, views=8)|rotate", (8, 4), (64, 64), (8, 4)),
        ("inception(64, views=8)|standardize", (8,), (64, 64), ()),
        ("resize(292)|crop(255)|patches(3, jitter=21)", (9,), (64, 64), ()),
        ("resize(90, 60)|patches(3)", (9,), (30, 20), ()),
        ("crop(90)|patches(3)|resize(8)", (9,), (8, 8), ()),
        ("crop(90)|patches(3)|jigsaw", (9,), (30, 30), ()),
        ("crop(90)|patches(3)|pair", (2,), (30, 30), ()),
        ("crop(90)|patches(5)|pair|standardize", (2,), (18, 18), ()),
        ("inception(90, views=2)|patches(3)|pair", (2, 2), (30, 30), (2,)),
        ("crop(90)|patches(3)|rotate", (9, 4), (30, 30), (9, 4)),
        ("resize_small(256)|crop(224)|range(-1, 1)", (), (224, 224), ()),
    ],
)
def test_a_plan_knows_the_shapes_that_come_out(text, views, size, label_dims):
    for training in (True, False):
        plan = Pipeline(text).compile(training)
        assert plan.views == views
        assert (plan.height, plan.width) == size
        assert plan.label_dims == label_dims


def test_the_streams_of_a_pipeline_are_all_different():
    plan = Pipeline("gray|inception(60, views=2)|patches(3)|jigsaw|standardize").compile(True)
    streams = [op.stream for op in plan.ops]
    assert len(set(streams)) == len(streams)
    evaluation = Pipeline("gray(0.5)|inception(60)").compile(False)
    assert evaluation.ops[0] == Pipeline("gray(0.5)|inception(60)").compile(True).ops[0]


@pytest.mark.parametrize(
    ("names", "flags", "expected"),
    [
        (
            "resize,to_gray,crop,crop_patches,standardization",
            {
                "resize_size": "292,292",
                "grayscale_probability": 0.66,
                "crop_size": 255,
                "splits_per_side": 3,
                "patch_jitter": 21,
            },
            "resize(292, 292, coords='tf1')|gray(0.66)|crop(255, 255)|patches(3, 21)|standardize()",
        ),
        (
            "inception_preprocess,rotate",
            {"resize_size": (224, 224)},
            "inception(224, 224, coords='tf1', aspect=(0.75, 1.33), last_position=False)|rotate()",
        ),
        (
            "to_gray, crop_inception_preprocess_patches, standardization",
            {"resize_size": "224", "num_of_inception_patches": "8", "grayscale_probability": "0.5"},
            "gray(0.5, True)|inception(224, 224, 8, coords='tf1', aspect=(0.75, 1.33), "
            "last_position=False)|standardize()",
        ),
        (
            "resize_small,central_crop,0_to_1",
            {"smaller_size": 256, "crop_size": [224]},
            "resize_small(256)|center_crop(224, 224)|range(0, 1)",
        ),
        (
            "plain_preprocess,inception_crop,resize,flip_lr,-1_to_1",
            {"resize_size": [32, 40], "randomize_resize_method": True},
            "inception_crop(aspect=(0.75, 1.33), last_position=False)"
            "|resize(32, 40, coords='tf1', randomize=True)|flip()|range(-1, 1)",
        ),
        ("flip_lr,crop,to_gray", {"crop_size": 8}, "flip()|crop(8, 8)|gray(wrap=True)"),
    ],
)
def test_the_published_names_and_flags(names, flags, expected):
    assert str(Pipeline.from_legacy(names, **flags)) == expected


@pytest.mark.parametrize(
    ("names", "flags", "expected"),
    [
        ("crop", {}, "'crop' of the published names: needs the flag crop_size"),
        ("crop,blur", {"crop_size": 9}, "'blur' of the published names: the published code has no"),
        ("crop", {"crop_size": "1,2,3"}, "the flag crop_size must be one number or two"),
        ("crop", {"crop_size": "big"}, "the flag crop_size must be one number or two, not 'big'"),
        ("crop", {"crop_size": 9.5}, "the flag crop_size must be one number or two, not 9.5"),
        ("crop", {"crop_size": 0}, "'crop' of the published names: h must be a whole number"),
        ("resize_small", {"smaller_size": "x"}, "the flag smaller_size must be a number, not 'x'"),
        (
            "resize",
            {"resize_size": 9, "randomize_resize_method": "False"},
            "randomize must be True or False, not 'False'",
        ),
        (
            "crop",
            {"crop_size": 9, "resize_size": 8},
            "no preprocessing in 'crop' reads the flag re",
        ),
        ("flip_lr", {}, "step 1, flip(): the views that come out have no fixed size"),
    ],
)
def test_published_names_that_make_no_pipeline(names, flags, expected):
    with pytest.raises(PipelineError) as error:
        Pipeline.from_legacy(names, **flags)
    assert expected in str(error.value)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n   ", "\n\t"])
def test_a_pipeline_may_be_written_on_several_lines(end):
    text = f"{end}2*(crop(64){end}|flip){end}+ 6*(crop({end}32)|gray(0.5)){end}"
    assert Pipeline(text) == Pipeline("2*(crop(64)|flip) + 6*(crop(32)|gray(0.5))")


def test_a_comment_in_a_pipeline_is_an_error_and_hides_no_step():
    with pytest.raises(PipelineError, match="cannot read"):
        Pipeline("crop(64)  # the middle\n|flip")


# What is wrong stands between «».
@pytest.mark.parametrize(
    "text",
    [
        "crop(64)|«crip(32)»|flip",
        "crop(64)|flip|«crop( 65 )»",
        "«flip»",
        "crop(64) | «'é'» | flip",
        "«blur»|crop(64)",
        "crop(64)|flip«)»",
        "«resize(method='é')»|flip",
        "  2*(crop(64)|flip)\n + 3*(crop(32)\n  |«crop(\n33)»|flip)\n",
        "(crop(64)|flip) + («gray(2)»|crop(3))",
        "crop(64)|flip()\r\n|«no_step(é)»",
    ],
)
def test_the_place_of_an_error_is_the_step_that_it_names(text):
    begin, end = text.index("«"), text.index("»") - 1
    text = text.replace("«", "").replace("»", "")
    with pytest.raises(PipelineError) as error:
        Pipeline(text)
    place = parse.place_of(error.value, text)
    if sys.version_info < (3, 8) and error.value.step is not None:
        assert place is None
    else:
        assert place == (begin, end)


@pytest.mark.parametrize("text", ["", "crop(64) + crop(32)|rotate", "2*(crop(9))*(flip)", "crop\0"])
def test_an_error_of_no_step_has_no_place(text):
    with pytest.raises(PipelineError) as error:
        Pipeline(text)
    assert parse.place_of(error.value, text) is None


def test_a_long_chain_of_fractions_is_refused_as_all_that_is_too_deep():
    assert "too long or too deeply nested" in reason("crop(" + "/".join("1" * 3000) + ")")


def test_a_range_upside_down_is_refused():
    for text in ("range(1, 0)", "range(2, 2)"):
        with pytest.raises(PipelineError, match="lo must be below hi, not"):
            Pipeline(f"crop(3)|{text}")
