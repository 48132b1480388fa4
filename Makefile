# The front door: `make demo`, then `make test`.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

# Folder with the files of the data sets, for studies.
DATA ?= $(DRMM_DATA)
IN_DATA = $(if $(DATA),--data-dir $(DATA))
STUDY = OMP_NUM_THREADS=1 $(BIN)/python -m scripts

.PHONY: demo test lint format bench serving costs learning imbalance label-errors shifted e-steps lift missing trees pruning feedback dynamic samples switch-priors exactness gaussian certificates nonnegativity kl frontier ablations predictions explain folders beside peers trust promise familiarity strangers photographs unlabelled asking coverage labelling kills gpu-dry-run readme docs clean

demo: .venv/demo.stamp  ## Train on real digits with 100 labels; picture and figures land in demo/.
	$(BIN)/drmm demo --out demo --force

test: .venv/dev.stamp  ## Every law and every test.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -q $(ARGS)

lint: .venv/dev.stamp  ## Style and types.
	$(BIN)/ruff check src tests scripts
	$(BIN)/ruff format --check src tests scripts
	$(BIN)/mypy

format: .venv/dev.stamp
	$(BIN)/ruff check --fix src tests scripts
	$(BIN)/ruff format src tests scripts

bench: .venv/dev.stamp  ## Speed and memory against the plain convnet.
	$(BIN)/drmm bench --json results/bench.json --force

costs: .venv/dev.stamp  ## What a million, a hundred million and a billion pictures cost: a minute.
	$(STUDY).costs

learning: .venv/demo.stamp  ## Backprop, EG and EM side by side, and clusters: DATA=folder with MNIST, half an hour.
	$(STUDY).learning $(IN_DATA)

e-steps: .venv/demo.stamp  ## EM by what its E-step chooses switches by: ten draws of digits, two minutes; resumable.
	$(STUDY).e_steps

shifted: .venv/demo.stamp  ## Digits that move: rendering mixtures beside Gaussian mixtures, ten minutes.
	$(STUDY).shifted_digits

lift: .venv/dev.stamp  ## What lifting costs, and a lifted residual net drawn: three minutes.
	$(STUDY).lift
	$(STUDY).lift_picture

serving: .venv/dev.stamp  ## Pictures a second, beside plain PyTorch and ONNX Runtime: ten minutes.
	$(STUDY).serving

missing: .venv/demo.stamp  ## Digits with missing pixels, by how they are filled in: a quarter of an hour.
	$(STUDY).missing_pixels

photographs: .venv/dev.stamp  ## Few labels on photographs, by what a net knows of ImageNet: DATA=folder with CIFAR-10, a day; resumable.
	$(STUDY).photographs $(IN_DATA)

unlabelled: .venv/demo.stamp  ## What pictures without a label bring: DATA=folder with MNIST and CIFAR-10, hours; resumable.
	$(STUDY).unlabelled $(IN_DATA)

asking: .venv/dev.stamp  ## Labels that are needed, by what is asked for: DATA=folder with CIFAR-10, ten minutes; resumable.
	$(STUDY).asking $(IN_DATA)

coverage: .venv/demo.stamp  ## Labels until every class has been seen, by what is asked for; five minutes.
	$(STUDY).coverage

labelling: .venv/dev.stamp  ## A folder of 5,000 labelled and sorted by all cores, and the page of 100,000: DATA=folder with CIFAR-10, an hour.
	$(BIN)/python -m scripts.labelling $(IN_DATA)

kills: .venv/demo.stamp  ## A thousand kills while labels come: none that was acknowledged is lost.
	$(STUDY).label_kills

trust: .venv/demo.stamp  ## Calibration and the cross-fitted error: DATA=folder with CIFAR-10, an hour; resumable.
	$(STUDY).trust $(IN_DATA)

promise: .venv/demo.stamp  ## How often a promise of sorted pictures is broken: DATA=folder with MNIST, five minutes.
	$(STUDY).promise $(IN_DATA)

familiarity: .venv/demo.stamp  ## Strange pictures, by detector: DATA=folder with CIFAR-10, an hour; resumable.
	$(STUDY).familiarity $(IN_DATA)

strangers: .venv/demo.stamp  ## Labels that name only some classes: DATA=folder with CIFAR-10, an hour; resumable.
	$(STUDY).strangers $(IN_DATA)

trees: .venv/demo.stamp  ## Evolutionary trees beside scikit-learn's: DATA=folder with MNIST, a quarter of an hour.
	$(STUDY).trees $(IN_DATA)

pruning: .venv/demo.stamp  ## What pruning costs, by criterion: a quarter of an hour.
	$(STUDY).pruning

feedback: .venv/demo.stamp  ## Accuracy under damage before and after feedback: DATA=folder with MNIST and CIFAR-10.
	$(STUDY).feedback $(IN_DATA)

dynamic: .venv/demo.stamp  ## Shortest path and convnet, one dynamic program: both unrolled, side by side.
	$(STUDY).dynamic_programming

samples: .venv/demo.stamp  ## Digits drawn with independent switches and with a patch prior: ten minutes.
	$(STUDY).samples

switch-priors: .venv/demo.stamp  ## Small digits drawn with independent switches, patches and a learned prior: two minutes.
	$(STUDY).switch_priors

exactness: .venv/demo.stamp  ## Max-sum against trying every configuration, on small random nets: two minutes.
	$(STUDY).exactness

gaussian: .venv/demo.stamp  ## Max-sum, the Gaussian objective and every configuration: who drew the picture; five minutes; resumable.
	$(STUDY).gaussian

nonnegativity: .venv/demo.stamp  ## What the penalty on negative templates does: five minutes.
	$(STUDY).nonnegativity

kl: .venv/demo.stamp  ## The KL term as printed, and with the sign of the authors' code: two minutes.
	$(STUDY).kl_sign

certificates: .venv/demo.stamp  ## What can be proved of signed nets, and labels that no small change alters: ten minutes; resumable.
	$(STUDY).certificates

frontier: .venv/demo.stamp  ## Test error against the certificate's gap, signed to hard: a quarter of an hour.
	$(STUDY).frontier

predictions: .venv/dev.stamp  ## The slides' predictions, on nets trained on rendered scenes: an hour.
	$(STUDY).predictions.active
	$(STUDY).predictions.invariance
	$(STUDY).predictions.fields
	$(STUDY).predictions.memories
	$(STUDY).predictions.nuisances
	$(STUDY).predictions.localisation
	$(STUDY).predictions.failure_conditions

imbalance: .venv/demo.stamp  ## Classes of unequal size, by the prior: DATA=folder with MNIST, half an hour; resumable.
	$(STUDY).imbalance $(IN_DATA)

label-errors: .venv/demo.stamp  ## Flipped labels found among digits, beside cleanlab where it is installed: a minute.
	$(STUDY).label_errors

ablations: .venv/demo.stamp  ## The few-label recipe, one thing changed at a time: DATA=folder with MNIST, an hour; resumable.
	$(STUDY).ablations $(IN_DATA)

folders: .venv/demo.stamp  ## Seconds and memory by the number of pictures in a folder: ten minutes; resumable.
	$(STUDY).folders

beside: .venv/demo.stamp  ## drmm sort on a messy folder, beside what a user has: DATA=folder with CIFAR-10, hours; resumable.
	$(STUDY).beside $(IN_DATA)

peers: .venv/demo.stamp  ## Rules of few-label learning side by side: DATA=folder with MNIST, hours; resumable.
	$(STUDY).peers $(IN_DATA)

# What carries out the dry run: cpu, or gpu where there is one.
ACCELERATOR ?= cpu
DRY_RUN = OMP_NUM_THREADS=1 $(BIN)/drmm reproduce cifar10 --dry-run 20 --device $(ACCELERATOR)
BF16 = --set machine.precision=bf16-mixed

gpu-dry-run: .venv/demo.stamp  ## 20 steps of the full CIFAR-10 net in each way that GPUs run it, on a CPU: half an hour.
	$(DRY_RUN)
	$(DRY_RUN) $(BF16)
	$(DRY_RUN) $(BF16) --set machine.devices=2
	$(DRY_RUN) $(BF16) --set machine.compile=true
	$(DRY_RUN) $(BF16) --set machine.compile=true --set machine.devices=2

explain: .venv/demo.stamp  ## One digit explained by the demo's model, after make demo.
	$(STUDY).explain_picture

readme: .venv/dev.stamp  ## Copy the figures of results/*.json into README and docs.
	$(BIN)/python scripts/docs/fill_readme.py

docs: .venv/dev.stamp  ## The site, into site/: handbook, predictions, guides, API. A warning is an error.
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

.venv/python.stamp:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "drmm needs Python 3.11 or newer: make demo PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	@touch $@

.venv/demo.stamp: .venv/python.stamp pyproject.toml constraints.txt
	@echo "installing drmm into .venv ..."
	$(PIP) -e '.[demo,tensorboard]'
	@touch $@

.venv/dev.stamp: .venv/python.stamp pyproject.toml constraints.txt
	@echo "installing drmm and its development tools into .venv ..."
	$(PIP) -e '.[dev]'
	@touch $@ .venv/demo.stamp

clean:
	rm -rf .venv demo site .mypy_cache .ruff_cache .pytest_cache .hypothesis
