# make demo: two hospitals train together. make test: everything CI checks.
# make bench: what it costs beside bare PyTorch and stock Flower; ONLY="job rounds", QUICK=1.
# make e2e: faults that a real federation survives, and clients that it refuses; half an hour.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test bench e2e check install clean

demo: install
	$(BIN)/mdmt demo

# Tests that start real servers and sites run after the others, alone: they measure time.
test: check
	$(BIN)/pytest -n auto --maxprocesses 8 --dist worksteal --ignore tests/e2e
	$(BIN)/pytest tests/e2e

bench: install
	$(BIN)/python -m benchmarks $(ONLY) $(if $(QUICK),--quick)

e2e: install
	$(BIN)/pytest -o python_files='matrix_of_*.py test_*.py' tests/e2e

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

install: $(STAMP)

# Install again only when the requirements change.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; try make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV): a few minutes, once."
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,dicom,dp,export,weights]'
	touch $(STAMP)

clean:
	rm -rf $(VENV)
