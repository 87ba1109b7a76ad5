# make demo: convert the demo recording.   make app: open a page that converts recordings in a browser.
# make test: run the tests.   make results: make the files in results/ and the picture of the architecture again.
# make notebooks: run the notebooks in place.   The README has the same commands without make.
PYTHON ?= python3
SOUNDFONT = FluidR3_GM.sf2
SOUNDFONTS = SoundFonts/$(SOUNDFONT) /usr/share/sounds/sf2/$(SOUNDFONT) /usr/share/soundfonts/$(SOUNDFONT)

.PHONY: demo app test results notebooks system browser

demo: .venv/installed
	@.venv/bin/python Main.py

app: .venv/app
	@.venv/bin/python app.py

test: .venv/app .venv/dev system browser
	.venv/bin/python -m pytest -n auto --dist loadfile tests

results: .venv/installed system browser
	.venv/bin/python results/make.py
	.venv/bin/python results/architecture.py

notebooks: .venv/dev
	.venv/bin/jupyter nbconvert --log-level WARN --to notebook --execute --inplace --ExecutePreprocessor.record_timing=False notebooks/*.ipynb

.venv/installed: requirements.txt
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install -q -r requirements.txt
	@touch $@

.venv/app .venv/dev: .venv/%: requirements-%.txt .venv/installed
	.venv/bin/python -m pip install -q -r requirements.txt -r $<
	@touch $@

# Install FluidSynth, a SoundFont and espeak-ng, for tests and results, where they are missing.
system:
	@set -e; sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
	if command -v fluidsynth > /dev/null && command -v espeak-ng > /dev/null && ls $(SOUNDFONTS) 2> /dev/null | grep -q .; then exit 0; fi; \
	if command -v apt-get > /dev/null; then \
	  echo "installing with apt-get: fluidsynth fluid-soundfont-gm espeak-ng"; \
	  $$sudo apt-get update -qq; \
	  $$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends fluidsynth fluid-soundfont-gm espeak-ng > /dev/null; \
	elif command -v brew > /dev/null && ! { command -v fluidsynth && command -v espeak-ng; } > /dev/null; then \
	  echo "installing with brew: fluid-synth espeak-ng"; \
	  brew install fluid-synth espeak-ng; \
	fi; \
	if ! command -v fluidsynth > /dev/null; then \
	  echo "FluidSynth is missing: install FluidSynth 2 (package fluidsynth or fluid-synth)" >&2; exit 1; fi; \
	if ! ls $(SOUNDFONTS) 2> /dev/null | grep -q .; then \
	  echo "$(SOUNDFONT) is missing: put it into SoundFonts/ (see SoundFonts/README.md)" >&2; exit 1; fi

# Install Chromium where it is missing. Without it, only the tests of app.py and of the result page fail.
browser:
	@sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
	if command -v chromedriver > /dev/null && { command -v chromium || command -v google-chrome || \
	    ls -d "/Applications/Google Chrome.app"; } > /dev/null 2>&1; then exit 0; fi; \
	{ if command -v apt-get > /dev/null; then \
	  echo "installing with apt-get: chromium chromium-driver"; \
	  $$sudo apt-get update -qq && \
	  $$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium chromium-driver > /dev/null; \
	elif command -v brew > /dev/null; then \
	  echo "installing with brew: google-chrome chromedriver"; \
	  brew install --cask google-chrome chromedriver; \
	else false; fi; } || echo "no Chromium with chromedriver: the tests of app.py and of the result page will fail" >&2
