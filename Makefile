# make demo: hear the electric piano.   make test: check everything.   make results: everything in results/ anew.
# make notebooks: run them in place.    The README gives the plain lines behind these.
PYTHON ?= python3
SOUNDFONT = FluidR3_GM.sf2
# where the SoundFont is fetched from on a system without apt-get: Debian's source archive, MIT licence, 135 MB
SOUNDFONT_ARCHIVE = https://deb.debian.org/debian/pool/main/f/fluid-soundfont/fluid-soundfont_3.1.orig.tar.gz

.PHONY: demo test results notebooks system browser

demo: .venv/installed
	@.venv/bin/python Main.py

test: .venv/installed system browser
	.venv/bin/python -m pytest tests

results: .venv/installed system browser
	.venv/bin/python results/make.py

notebooks: .venv/installed
	.venv/bin/jupyter nbconvert --log-level WARN --to notebook --execute --inplace --ExecutePreprocessor.record_timing=False notebooks/*.ipynb

.venv/installed: requirements.txt
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install -q -r requirements.txt
	@touch $@

# FluidSynth and a SoundFont, only where they are missing
system:
	@set -e; sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
	if command -v fluidsynth > /dev/null && ls SoundFonts/$(SOUNDFONT) /usr/share/sounds/sf2/$(SOUNDFONT) \
	    /usr/share/soundfonts/$(SOUNDFONT) 2> /dev/null | grep -q .; then exit 0; fi; \
	if command -v apt-get > /dev/null; then \
	  echo "installing with apt-get: fluidsynth fluid-soundfont-gm"; \
	  $$sudo apt-get update -qq; \
	  $$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends fluidsynth fluid-soundfont-gm > /dev/null; \
	elif command -v brew > /dev/null; then \
	  echo "installing with brew: fluid-synth; and fetching $(SOUNDFONT) into SoundFonts/"; \
	  command -v fluidsynth > /dev/null || brew install fluid-synth; \
	  curl -fsSL $(SOUNDFONT_ARCHIVE) | tar xz -C SoundFonts --strip-components 1 fluid-soundfont-3.1/$(SOUNDFONT); \
	else \
	  echo "FluidSynth 2 or $(SOUNDFONT) is missing: install fluidsynth, and put $(SOUNDFONT) into SoundFonts/" >&2; exit 1; \
	fi

# Chromium, to test the page, only where it is missing; without it tests/test_page.py fails and the rest runs
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
	else false; fi; } || echo "no Chromium with chromedriver: tests/test_page.py will fail" >&2
