"""Sound in and out: files, tuning, alignment, chunks, from mel spectrograms to audio (Griffin-Lim), distances.

The way from audio to mel spectrograms, the front end, is in DatasetCreator.py. May import `DatasetCreator`. Is
imported by `Main`, `DatasetCreator`, `Evaluation` and more.
"""
