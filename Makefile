# Every target sets up .venv first; nothing else has to be done by hand.
#   make demo | app | test | docs | lint | train-mini | bench | claims | clean
# Another Python or torch:  make test VENV=.venv-312 PYTHON=python3.12 TORCH='torch==2.6.0 torchvision==0.21.0'

PYTHON ?= python3
VENV   ?= .venv
TORCH  ?= torch==2.11.0 torchvision==0.26.0
ARGS   ?=

PY    := $(VENV)/bin/python
STAMP := $(VENV)/.ready
PIP   := $(PY) -m pip --disable-pip-version-check

# A real photograph (CC BY 2.0, danielbuechele) that scikit-learn's wheel carries.
PHOTO = $$($(PY) -c "import importlib.resources as r; print(r.files('sklearn.datasets.images') / 'china.jpg')")

.DEFAULT_GOAL := help
.PHONY: help setup demo app test docs lint train-mini bench claims clean

help:
	@sed -n '2,3s/^# *//p' Makefile

setup: $(STAMP)

# The stamp is the last thing written, so an interrupted set-up starts again.
$(STAMP): setup.py pyproject.toml Makefile segcore/install_detectron2.py $(wildcard segcore/csrc/*)
	@$(PYTHON) -c "import sys; v = sys.version_info[:2]; (3, 10) <= v <= (3, 13) or sys.exit( \
	    'Python 3.10 to 3.13 is needed, $(PYTHON) is %d.%d; use: make ... PYTHON=python3.11' % v)"
	@$(PIP) --version >/dev/null 2>&1 || { echo "making $(VENV)"; $(PYTHON) -m venv --clear $(VENV); }
	$(PIP) install --upgrade "pip>=24" "setuptools>=70.1,<82" wheel ninja
	$(PIP) install $(TORCH)
	$(PY) tools/install_detectron2.py
	$(PIP) install --no-build-isolation -e ".[test,demo,web,docs,export]"
	@touch $@

demo: $(STAMP)
	$(PY) demo/demo.py --task all --input "$(PHOTO)" --output output/demo $(ARGS)

app: $(STAMP)
	$(PY) demo/app.py $(ARGS)

test: $(STAMP)
	$(PY) -m pytest $(ARGS)

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --quiet $(ARGS)

lint: $(STAMP)
	$(PY) -m ruff check . $(ARGS)

train-mini: $(STAMP)
	$(PY) train_net.py --config-file configs/mini/oneformer_mini.yaml OUTPUT_DIR output/mini $(ARGS)

bench: $(STAMP)
	@set -e; for script in benchmarks/*.py; do echo "== $$script"; $(PY) "$$script" $(ARGS); done

claims: $(STAMP)
	@set -e; for table in joint ablations others camvid; do $(PY) benchmarks/claims/$$table.py $(ARGS); done

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache
