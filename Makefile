# Every target goes through dev.py, which needs nothing but Python: `make` is a convenience.
PYTHON ?= python3
ARGS ?=
SEED ?= 1
FAULTS ?=
SECONDS ?= 48
MINUTES ?= 60
TRIGGERS ?= 1000

.PHONY: check test demo bench bench-quick fmt chaos chaos-long edits blips

check test demo bench fmt:
	$(PYTHON) dev.py $@ $(ARGS)

# One course of real replicas: make chaos SEED=7 FAULTS=F5,F8
chaos:
	$(PYTHON) dev.py chaos one "$(SEED)" "$(FAULTS)" "$(SECONDS)"

# Every fault alone, then mixes, seed after seed.
chaos-long:
	$(PYTHON) dev.py chaos long "$(MINUTES)"

# Many clients edit a thousand triggers of one second, over HTTP and two replicas.
edits:
	$(PYTHON) dev.py chaos edits "$(SEED)" "$(TRIGGERS)" "$(SECONDS)"

# A healthy agent through ten minutes with three breaks of 60 s; the suite has a twentieth of it.
blips:
	TOCSIN_TEST_SCALE=1 $(PYTHON) dev.py test tests/edges/test_blips.py

# Against the peers alone, in a few minutes.
bench-quick:
	$(PYTHON) dev.py bench --quick
