# `make demo` runs the main job, `make test` passes the tests; both first make .venv with the tested versions.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-lowest suite lint types docs clean
.DELETE_ON_ERROR:

demo: .venv/demo
	@if [ -e runs/mnist ] || [ -e runs/mnist.part ]; then $(BIN)/secateur resume runs/mnist; else $(BIN)/secateur search mnist --out runs/mnist; fi
	@if [ -e out/mnist ]; then echo "out/mnist is there already"; else $(BIN)/secateur export runs/mnist --to out/mnist --pick all; fi

# Types are checked beside the suite, which ends last and often waits for processes of its own.
test: lint docs
	@$(MAKE) --no-print-directory --jobs 2 types suite

# One thread each: on a busy machine the threads of linear algebra wait for one another many times as long as they work.
# Three processes on two cores, since some tests wait; each with whole files: what a file sets up once stays set up. They
# keep the order of tests/conftest.py, so that all end together.
suite: .venv/test
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder

lint: .venv/test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

# The link gives the checkout the package's name, whatever the folder is called.
types: .venv/test
	@link=$$(mktemp -d) && trap 'rm -r "$$link"' EXIT && ln -s "$(CURDIR)" "$$link/secateur" && cd "$$link" && \
	"$(CURDIR)/$(BIN)/mypy" --cache-dir "$(CURDIR)/.mypy_cache" --config-file secateur/pyproject.toml secateur

# The site of the docs, in site/: every warning and every dead link is an error.
docs: .venv/test
	$(BIN)/python -P docs/build.py

.venv/bin/python:
	$(PYTHON) -m venv .venv || { $(PYTHON) -m venv --clear --without-pip .venv && \
	$(PYTHON) -m pip --python $(BIN)/python install --quiet pip; }

.venv/demo: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) -e '.[mnist,onnx,plot,report]'
	@touch $@

.venv/test: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) -e '.[mnist,onnx,plot,report,images,hub,dashboard,postgresql,ray,examples,docs,dev]'
	@touch $@

# The main parts of the suite with the lowest versions of what a search needs, in an environment of its own.
LOWEST := tests/search tests/spaces/test_space.py tests/spaces/test_candidate.py tests/evaluators/tasks tests/studies/trials \
	tests/studies/study_files tests/studies/views tests/studies/test_study.py tests/test_cli.py tests/test_cli_output.py tests/test_lazy.py

test-lowest: .venv-lowest/ready
	.venv-lowest/bin/python -m pip --disable-pip-version-check freeze | grep -i -E "$$(sed -n 's/==.*//p' constraints-lowest.txt | paste -s -d '|')"
	OMP_NUM_THREADS=1 .venv-lowest/bin/pytest -n 2 --dist loadfile --no-loadscope-reorder $(LOWEST)

.venv-lowest/ready: pyproject.toml constraints-lowest.txt
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-lowest.txt -e '.[images]' \
	hypothesis pytest pytest-xdist
	@touch $@

clean:
	rm -rf .venv .venv-lowest build site .cache *.egg-info .hypothesis .mypy_cache .ruff_cache .pytest_cache
