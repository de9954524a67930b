PYTHON ?= python3
VENV_PYTHON := .venv/bin/python
PIP := $(VENV_PYTHON) -m pip --disable-pip-version-check install -qq -c constraints-dev.txt
N ?= 100000
GPU_PYTHON ?= $(VENV_PYTHON)

.PHONY: demo test test-bare test-clean test-peers test-triton36 fuzz lint clean
.PHONY: bench-bayesian bench-chains bench-cold-start bench-cpu bench-digits bench-factorized bench-fusion bench-import bench-memory
.PHONY: bench-gradients bench-others
.PHONY: bench-overhead bench-planner bench-training gpu-bench gpu-test kernels-cold kernels-static

demo: .venv/.ready
	@$(VENV_PYTHON) -m demo

test: .venv/.ready .venv/.triton36
	@$(VENV_PYTHON) tools/check.py

test-bare: .venv/.ready
	$(VENV_PYTHON) -m pytest -q tests --hide numba --hide llvmlite

test-clean: .venv/.ready
	$(VENV_PYTHON) tools/clean_environment.py

test-peers: .venv/.peers
	@$(VENV_PYTHON) tests/peers/opt_einsum_suite.py
	@$(VENV_PYTHON) -m pytest -q tests/peers/test_tensorly.py tests/peers/test_planner.py

fuzz: .venv/.ready
	$(VENV_PYTHON) -m pytest -q tests/test_fuzz.py --fuzz-examples $(N)

bench-planner: .venv/.peers
	@$(VENV_PYTHON) benchmarks/planner.py $(ARGS)

bench-cpu: .venv/.peers
	@$(VENV_PYTHON) benchmarks/cpu.py --out benchmarks/results/cpu.jsonl $(BENCH)

bench-overhead: .venv/.ready
	@$(VENV_PYTHON) benchmarks/overhead.py

bench-import: .venv/.ready
	@$(VENV_PYTHON) benchmarks/import_time.py

bench-memory: .venv/.ready
	@PYTHONPATH=. $(VENV_PYTHON) benchmarks/memory.py --out benchmarks/results/memory.jsonl $(ARGS)

bench-gradients: .venv/.ready
	@$(VENV_PYTHON) benchmarks/gradients.py --out benchmarks/results/gradients.jsonl

bench-fusion: .venv/.ready
	@$(VENV_PYTHON) benchmarks/fusion.py

bench-factorized: .venv/.peers
	@$(VENV_PYTHON) benchmarks/factorized.py

bench-chains: .venv/.ready
	@$(VENV_PYTHON) benchmarks/chains.py

bench-training: .venv/.ready
	@$(VENV_PYTHON) benchmarks/training.py

bench-bayesian: .venv-bayesian/.ready
	@PYTHONPATH=. .venv-bayesian/bin/python benchmarks/bayesian.py

bench-digits: .venv/.peers
	@$(VENV_PYTHON) benchmarks/digits.py

kernels-static: .venv/.ready
	@PYTHONPATH=.:kernels $(VENV_PYTHON) -m benchmarks.kernels_static $(ARGS)

kernels-cold: .venv/.ready
	@PYTHONPATH=.:kernels $(VENV_PYTHON) -m benchmarks.kernels_cold $(ARGS)

test-triton36: .venv/.triton36
	@PYTHONPATH=.venv/triton36:.:kernels EXPECTED_TRITON=3.6.0 $(VENV_PYTHON) -m pytest -q -p no:cacheprovider tests/test_triton.py tests/test_triton_store.py

gpu-test:
	@PYTHONPATH=.:kernels $(GPU_PYTHON) -m benchmarks.gpu test $(ARGS)

gpu-bench:
	@XLA_PYTHON_CLIENT_PREALLOCATE=false PYTHONPATH=.:kernels $(GPU_PYTHON) -m benchmarks.gpu bench $(ARGS)

bench-cold-start: .venv/.ready
	@$(VENV_PYTHON) -m benchmarks.cold_start

bench-others: .venv/.peers
	@OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 NUMBA_NUM_THREADS=1 $(VENV_PYTHON) benchmarks/others.py

lint: .venv/.ready
	@$(VENV_PYTHON) tools/check.py lint format types

clean:
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	find . -path ./.venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.ready: pyproject.toml constraints-dev.txt
	@$(PYTHON) tools/setup_python.py
	@echo "installing the versions in constraints-dev.txt into .venv (torch is the large one)"
	@$(PIP) torch
	@$(PIP) hatchling editables
	@$(PIP) --no-build-isolation -e ".[dev,torch,triton,cuda,arrays]"
	@touch $@

.venv/.triton36: .venv/.ready
	@$(VENV_PYTHON) -m pip --disable-pip-version-check install -qq --no-deps --target .venv/triton36 triton==3.6.0
	@touch $@

.venv/.peers: .venv/.ready requirements-peers.txt
	@$(PIP) -r requirements-peers.txt
	@touch $@

.venv-bayesian/.ready: requirements-bayesian.txt
	@$(PYTHON) -m venv .venv-bayesian
	@.venv-bayesian/bin/pip --disable-pip-version-check install -qq -r requirements-bayesian.txt
	@touch $@
