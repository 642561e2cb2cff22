# Two commands: `make demo` and `make test`. Everything happens in .venv; nothing else on the machine is touched.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: demo test lint slow bench clean

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

demo: $(VENV)/installed  ## train, evaluate and report on the embedded 8x8 digits (no network after installation)
	$(BIN)/lowland train digits

test: $(VENV)/installed  ## linters, types and the quick suite
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -m "not slow" -n auto --dist worksteal --durations=20

slow: $(VENV)/installed  ## statistical proofs and training quality, many minutes
	$(BIN)/python -m pytest -m slow

bench: $(VENV)/installed  ## Langevin against the bare loop and, where installed, ebmkit and torchebm
	$(BIN)/python -m benchmarks.speed.langevin

clean:
	rm -rf $(VENV)
