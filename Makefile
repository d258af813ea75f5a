# Every target goes through dev.py, which needs nothing but Python: `make` is a convenience.
PYTHON ?= python3
ARGS ?=

.PHONY: check test demo bench fmt

check test demo bench fmt:
	$(PYTHON) dev.py $@ $(ARGS)
